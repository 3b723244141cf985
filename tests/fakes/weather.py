"""A client in bad weather: bytes put on a bare line, and what became of an upload told from outside."""

import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fakes.served import OCTETS, TUS, Served, wait_for

_TCP_REPAIR = 19


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def request(
    method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, version: str = "1.1"
) -> bytes:
    """Return a request as it goes over the line; lengths are told by ``headers`` or not at all."""
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def head_request(upload_id: str) -> bytes:
    return request("HEAD", f"/files/{upload_id}", TUS)


def patch_request(
    upload_id: str, offset: int, body: bytes, length: int | str | None = None, **more: str
) -> bytes:
    """Return a PATCH with the beginning of a body of ``length`` bytes (None: with all of it)."""
    size = {"Content-Length": str(len(body) if length is None else length)}
    return request("PATCH", f"/files/{upload_id}", _patch_headers(offset, more) | size, body)


def chunked_request(upload_id: str, offset: int, raw: bytes, **more: str) -> bytes:
    """Return a PATCH with a chunked body, whose bytes on the line are ``raw``."""
    headers = _patch_headers(offset, more) | {"Transfer-Encoding": "chunked"}
    return request("PATCH", f"/files/{upload_id}", headers, raw)


def _patch_headers(offset: int, more: Mapping[str, str]) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return {**TUS, **OCTETS, "Upload-Offset": str(offset), **named}


def chunk(data: bytes, extension: str = "") -> bytes:
    return f"{len(data):x}{extension}\r\n".encode() + data + b"\r\n"


LAST_CHUNK = b"0\r\n\r\n"


class Line:
    """One connection. Answers are read one by one; None is an end without another answer."""

    def __init__(self, port: int, *, timeout: float = 20) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def push(self, data: bytes) -> bool:
        """Send, and return whether the other side took it all."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            return False
        return True

    def answer(self, method: str = "PATCH") -> Answer | None:
        """Read the next answer, which may be "100 Continue"."""
        while b"\r\n\r\n" not in self._rest:
            if not self._more():
                assert not self._rest, f"half an answer: {self._rest!r}"
                return None
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        size = 0 if method == "HEAD" else int(headers.get("content-length", "0"))
        while len(self._rest) < size:
            assert self._more(), "half an answer"
        body, self._rest = self._rest[:size], self._rest[size:]
        return Answer(int(status.split()[1]), headers, body)

    def status(self, method: str = "PATCH") -> int:
        """Read the next answer's status, 0 for an end without one."""
        found = self.answer(method)
        return found.status if found else 0

    def _more(self) -> bool:
        try:
            piece = self.socket.recv(65536)
        except ConnectionError:
            return False
        self._rest += piece
        return bool(piece)

    # --- ways to end ---

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def vanish(self) -> None:
        """Be gone without a packet, as behind a link that is down; at least fall silent for ever.

        Only root can take the former from the kernel.
        """
        with suppress(PermissionError):
            self.socket.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
            self.socket.close()


def best_of_three(attempt: Callable[[], None]) -> None:
    """Run what depends on a machine that does not pause for seconds, until it succeeds once."""
    for is_last in (False, False, True):
        try:
            attempt()
        except (AssertionError, OSError):
            if is_last:
                raise
        else:
            return


# --- what became of an upload ---


def file_of(server: Served, upload_id: str) -> Path:
    return server.data / "uploads" / upload_id


def stored(server: Served, upload_id: str) -> bytes:
    """The bytes of an upload's file, none when there is no file."""
    try:
        return file_of(server, upload_id).read_bytes()
    except FileNotFoundError:
        return b""


def wait_for_bytes(server: Served, upload_id: str, count: int) -> None:
    """Wait until so many bytes have arrived in the file."""

    def has_them() -> bool:
        file = file_of(server, upload_id)
        return (file.stat().st_size if file.exists() else 0) == count

    wait_for(has_them)


def told_offset(server: Served, upload_id: str) -> int:
    response = server.http.head(f"/files/{upload_id}", headers=TUS)
    assert response.status_code == 200, response.status_code
    return int(response.headers["upload-offset"])


def wait_until_quiet(server: Served) -> None:
    """Wait until every request has come to its end, also those whose client is gone."""
    wait_for(lambda: not server._server.server_state.tasks)


def assert_resumes(server: Served, upload_id: str, body: bytes, *, offset: int) -> None:
    """Check that HEAD tells ``offset``, that so much of ``body`` is there, and that it can end."""
    wait_until_quiet(server)
    assert stored(server, upload_id) == body[:offset]
    assert told_offset(server, upload_id) == offset
    if offset < len(body):
        finished = server.patch(upload_id, offset, body[offset:])
        assert finished.status_code == 204, finished.text
    assert stored(server, upload_id) == body
    ended = server.http.head(f"/files/{upload_id}", headers=TUS)
    assert ended.headers["upload-offset"] == str(len(body))
    assert ended.headers["tidemill-batch"]
