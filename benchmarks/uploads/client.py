"""The load: sendfile from the page cache, so that the client costs little beside what it measures."""

import heapq
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from benchmarks.uploads.servers import Server

_TIMEOUT_SECONDS = 120
_SLOW_PIECE = 32 * 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """An upload that came to its end: where it is, and Tidemill's batch of it."""

    location: str
    batch: str | None


class Answer:
    """The head of a response, which is all of it here: nothing that is asked has a body to read."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.rest = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }

    def require(self, status: int) -> None:
        if self.status != status:
            sys.exit(f"a server answered {self.status} instead of {status}: {self.headers}")


def creation(port: int, length: int) -> bytes:
    # @tus/server answers a creation with a body when it is not told that there is none.
    return (
        f"POST /files HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nTus-Resumable: 1.0.0\r\n"
        f"Upload-Length: {length}\r\nUpload-Metadata: filename dmlkZW8ubXA0\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()


def patch(port: int, location: str, offset: int, length: int) -> bytes:
    return (
        f"PATCH {path_of(location)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Tus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\n"
        f"Upload-Offset: {offset}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def path_of(location: str) -> str:
    """Return the path of a Location, which some servers send absolute."""
    return "/" + location.split("/", 3)[3] if location.startswith("http") else location


def connect(server: Server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=_TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(connection: socket.socket, request: bytes) -> Answer:
    connection.sendall(request)
    return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    raw = b""
    while b"\r\n\r\n" not in raw:
        piece = connection.recv(65536)
        if not piece:
            sys.exit(f"a server hung up: {raw!r}")
        raw += piece
    answer = Answer(raw)
    left = int(answer.headers.get("content-length", "0")) - len(answer.rest)
    while left > 0:
        left -= len(connection.recv(65536))
    return answer


@dataclass(slots=True)
class _Body:
    """One upload of a part of ``source``, in one PATCH or several, on its own connection."""

    server: Server
    source: int
    length: int
    piece: int
    connection: socket.socket
    location: str

    def send(self) -> Stored:
        if not self.server.speaks_tus:
            self._send(0, self.length)
            if self.connection.recv(1) != b"\1":
                sys.exit("the sink did not take everything")
            return Stored(self.location, None)
        answer = None
        for offset in range(0, self.length, self.piece):
            count = min(self.piece, self.length - offset)
            head = patch(self.server.port, self.location, offset, count)
            self.connection.sendall(head, socket.MSG_MORE)
            self._send(offset, count)
            answer = read_answer(self.connection)
            answer.require(204)
            if answer.headers["upload-offset"] != str(offset + count):
                sys.exit(f"bytes are missing: {answer.headers}")
        batch = answer.headers.get("tidemill-batch") if answer else None
        return Stored(self.location, batch)

    def _send(self, offset: int, count: int) -> None:
        end = offset + count
        out = self.connection.fileno()
        while offset < end:
            offset += os.sendfile(out, self.source, offset, end - offset)


def _prepare(server: Server, source: int, length: int, piece: int) -> _Body:
    connection = connect(server)
    if server.speaks_tus:
        answer = ask(connection, creation(server.port, length))
        answer.require(201)
        location = answer.headers["location"]
    else:
        location = token_hex(16)
        connection.sendall(length.to_bytes(8, "big") + location.encode())
    # sendfile must wait for the server: with a timeout Python's sockets do not block by themselves.
    connection.setblocking(True)  # noqa: FBT003
    return _Body(server, source, length, piece, connection, location)


def send_large(
    server: Server, source: Path, *, at_once: int, length: int, piece: int
) -> tuple[float, list[Stored]]:
    """Send ``at_once`` uploads of the first ``length`` bytes of ``source`` at the same time, in
    PATCHes of ``piece`` bytes. Return seconds from the first byte to the last answer, without the
    creations.
    """
    file = os.open(source, os.O_RDONLY)
    try:
        bodies = [_prepare(server, file, length, piece) for _ in range(at_once)]
        barrier = threading.Barrier(at_once + 1)

        def send(body: _Body) -> Stored:
            barrier.wait()
            with body.connection:
                return body.send()

        with ThreadPoolExecutor(at_once) as threads:
            futures = [threads.submit(send, body) for body in bodies]
            barrier.wait()
            began = time.perf_counter()
            stored = [future.result() for future in futures]
            seconds = time.perf_counter() - began
        return seconds, stored
    finally:
        os.close(file)


# --- many small ones, and many slow ones: one loop over all connections --------------------------


class _Small:
    """A client that creates and fills one small upload after the other on its connection."""

    def __init__(self, server: Server, body: bytes, take: Callable[[], bool]) -> None:
        self.stored: list[Stored] = []
        self.connection = connect(server)
        self._server, self._body, self._take = server, body, take
        self._location: str | None = None
        self._creation = creation(server.port, len(body))
        self._raw = b""

    def begin(self) -> bool:
        """Ask for the next upload; False when no more are wanted."""
        if not self._take():
            return False
        self._location = None
        self.connection.sendall(self._creation)
        return True

    def go_on(self) -> bool:
        """Read what came; False when no more uploads are wanted."""
        self._raw += self.connection.recv(65536)
        if not self._raw:
            sys.exit("a server hung up on a small upload")
        if b"\r\n\r\n" not in self._raw:
            return True
        answer = Answer(self._raw)
        self._raw = b""
        if self._location is None:
            answer.require(201)
            self._location = answer.headers["location"]
            head = patch(self._server.port, self._location, 0, len(self._body))
            self.connection.sendall(head + self._body)
            return True
        answer.require(204)
        self.stored.append(Stored(self._location, answer.headers.get("tidemill-batch")))
        return self.begin()


def send_small(
    server: Server, body: bytes, *, count: int, at_once: int
) -> tuple[float, list[Stored]]:
    """Create and fill ``count`` uploads of ``body`` by ``at_once`` clients; return the seconds."""
    left = count

    def take() -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    clients = [_Small(server, body, take) for _ in range(at_once)]
    with selectors.DefaultSelector() as selector:
        began = time.perf_counter()
        for client in clients:
            if client.begin():
                selector.register(client.connection, selectors.EVENT_READ, client)
        while selector.get_map():
            for key, _ in selector.select(_TIMEOUT_SECONDS):
                if not key.data.go_on():
                    selector.unregister(key.fileobj)
        seconds = time.perf_counter() - began
    for client in clients:
        client.connection.close()
    return seconds, [each for client in clients for each in client.stored]


def send_slowly(
    server: Server, body: bytes, *, at_once: int, bytes_per_second: float
) -> tuple[float, list[Stored]]:
    """Send ``at_once`` uploads of ``body`` at the same time, each at that rate; return the seconds.

    Every client has its own connection and sends a piece whenever it is due.
    """
    clients = []
    for _ in range(at_once):
        connection = connect(server)
        answer = ask(connection, creation(server.port, len(body)))
        answer.require(201)
        # At once: an idle connection would be closed before a thousand others were made.
        connection.sendall(patch(server.port, answer.headers["location"], 0, len(body)))
        clients.append((connection, answer.headers["location"]))
    pause = _SLOW_PIECE / bytes_per_second
    began = time.perf_counter()
    due: list[tuple[float, int, int]] = []
    for number in range(at_once):
        heapq.heappush(due, (began + pause * number / at_once, number, 0))
    view = memoryview(body)
    while due:
        moment, number, offset = heapq.heappop(due)
        if (wait := moment - time.perf_counter()) > 0:
            time.sleep(wait)
        clients[number][0].sendall(view[offset : offset + _SLOW_PIECE])
        if offset + _SLOW_PIECE < len(body):
            heapq.heappush(due, (moment + pause, number, offset + _SLOW_PIECE))
    stored = []
    for connection, location in clients:
        answer = read_answer(connection)
        answer.require(204)
        if answer.headers["upload-offset"] != str(len(body)):
            sys.exit(f"bytes are missing: {answer.headers}")
        connection.close()
        stored.append(Stored(location, answer.headers.get("tidemill-batch")))
    return time.perf_counter() - began, stored
