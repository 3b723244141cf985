"""Requests byte for byte, several on one connection, and what came back as it came."""

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

Headers = Sequence[tuple[str, str]]


class Ended(AssertionError):  # noqa: N818  it is an event
    """The connection ended where an answer was due."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. Header names as they were written; ``answer["name"]`` finds one in any letters."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def __getitem__(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))


class Line:
    """One connection. Requests go out as they are given, nothing is added but the Host."""

    def __init__(self, port: int, *, timeout: float = 30) -> None:
        self._host = f"127.0.0.1:{port}"
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send_head(self, method: str, path: str, headers: Headers) -> None:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def send_body(self, body: bytes) -> None:
        self.socket.sendall(body)

    def send_chunks(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            self.socket.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        self.socket.sendall(b"0\r\n\r\n")

    def ask(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes | Sequence[bytes] | None = None,
    ) -> Answer:
        """Send a request with a Content-Length, or chunked for a sequence, and return its answer."""
        if isinstance(body, bytes):
            headers = [*headers, ("Content-Length", str(len(body)))]
        elif body is not None:
            headers = [*headers, ("Transfer-Encoding", "chunked")]
        self.send_head(method, path, headers)
        if isinstance(body, bytes):
            self.send_body(body)
        elif body is not None:
            self.send_chunks(body)
        return self.answer(is_head=method == "HEAD")

    def answer(self, *, is_head: bool = False) -> Answer:
        """Read one response to its last byte, and not one more."""
        head = self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = tuple(
            (name, value.strip()) for name, _, value in (ln.partition(":") for ln in lines)
        )
        found = Answer(int(first.split(" ")[1]), pairs, b"")
        if is_head or found.status in {100, 204, 304}:
            return found
        return Answer(found.status, pairs, self._exactly(int(found["content-length"])))

    def is_closed(self) -> bool:
        """Whether the server closes the connection, with nothing more to say."""
        try:
            return self._buffer == b"" and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._receive()
        found, self._buffer = self._buffer.split(end, 1)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._receive()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _receive(self) -> None:
        piece = self.socket.recv(65536)
        if not piece:
            msg = f"until then there was {self._buffer!r}"
            raise Ended(msg)
        self._buffer += piece
