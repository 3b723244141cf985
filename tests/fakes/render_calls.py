"""Calls of the synchronous endpoints on bare sockets, that can be left at any moment and in any way."""

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

EDGE = "edge-of-a-form"
SMALL_BUFFER = 16 * 1024
"""What the system may take for a client that does not read."""
ANSWER_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Request:
    """A POST that is ready to be sent."""

    path: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a form."""

    name: str
    filename: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer; ``body`` is shorter than it said when the connection ended before."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"].startswith("application/problem+json"), self
        told: dict[str, Any] = json.loads(self.body)
        return told


def form(path: str, fields: Mapping[str, str], parts: Sequence[Part]) -> Request:
    """A multipart form: its fields first, then its files."""
    pieces = []
    for name, value in fields.items():
        head = f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        pieces += [head.encode(), value.encode(), b"\r\n"]
    for part in parts:
        disposition = f'form-data; name="{part.name}"; filename="{part.filename}"'
        head = f"--{EDGE}\r\nContent-Disposition: {disposition}\r\nContent-Type: video/mp4\r\n\r\n"
        pieces += [head.encode(), part.body, b"\r\n"]
    body = b"".join([*pieces, f"--{EDGE}--\r\n".encode()])
    return Request(path, f"multipart/form-data; boundary={EDGE}", body)


def json_request(path: str, body: object) -> Request:
    return Request(path, "application/json", json.dumps(body).encode())


class Caller:
    """One call on a connection of its own, whose system takes little before it is read."""

    def __init__(self, port: int, request: Request) -> None:
        self._request = request
        self._rest = b""
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        self._socket.settimeout(ANSWER_SECONDS)
        self._socket.connect(("127.0.0.1", port))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send_half(self) -> None:
        """Send the head and the first half of the body."""
        self._socket.sendall(self._head() + self._request.body[: len(self._request.body) // 2])

    def send(self) -> None:
        """Send the whole of it. A server that refuses early may hang up meanwhile."""
        try:
            self._socket.sendall(self._head() + self._request.body)
        except ConnectionError:
            return

    def _head(self) -> bytes:
        lines = [
            f"POST {self._request.path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Content-Type: {self._request.content_type}",
            f"Content-Length: {len(self._request.body)}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def answer(self, most: int | None = None) -> Answered | None:
        """Read the answer, of its body at most so much; None when the server just hung up."""
        head = self._read_head()
        if head is None:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        wanted = int(headers.get("content-length", 0))
        body = self._read(wanted if most is None else min(most, wanted))
        return Answered(int(first.split()[1]), headers, body)

    def _read_head(self) -> bytes | None:
        while b"\r\n\r\n" not in self._rest:
            try:
                piece = self._socket.recv(65536)
            except ConnectionError:
                return None
            if not piece:
                return None
            self._rest += piece
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100"):
            return self._read_head()
        return head

    def _read(self, count: int) -> bytes:
        data = bytearray(self._rest)
        self._rest = b""
        while len(data) < count:
            try:
                piece = self._socket.recv(count - len(data))
            except ConnectionError:
                break
            if not piece:
                break
            data += piece
        return bytes(data)

    def reset(self) -> None:
        """Leave without a word (RST)."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def hang_up(self) -> None:
        """Say that nothing more comes (FIN), and never read again."""
        self._socket.shutdown(socket.SHUT_WR)
