"""A TCP proxy between a client and the server that cuts, slows and counts."""

import selectors
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Listens on a free port. ``cut_after`` are totals of bytes from clients at which to cut.

    A cut resets both sides, as a lost mobile link with a changed address looks to the server.
    ``bytes_per_second`` slows the way to the server.
    """

    def __init__(
        self,
        upstream_port: int,
        *,
        cut_after: Sequence[int] = (),
        bytes_per_second: float | None = None,
    ) -> None:
        self._upstream_port = upstream_port
        self._cut_after = sorted(cut_after)
        self._bytes_per_second = bytes_per_second
        self.cuts = 0
        self.bytes_from_clients = 0
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join(5)

    def speed_up(self) -> None:
        """Stop slowing."""
        self._bytes_per_second = None

    def cut_all(self) -> None:
        """Reset every connection that is open."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for sock in sockets:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _spawn(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                upstream = socket.create_connection(("127.0.0.1", self._upstream_port), 5)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets |= {client, upstream}
            self._spawn(self._carry, client, upstream)

    def _carry(self, client: socket.socket, upstream: socket.socket) -> None:
        other = {client: upstream, upstream: client}
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ)
            selector.register(upstream, selectors.EVENT_READ)
            try:
                while selector.get_map():
                    for key, _ in selector.select(0.2):
                        sock = key.fileobj
                        assert isinstance(sock, socket.socket)
                        data = sock.recv(CHUNK_BYTES)
                        if not data:
                            selector.unregister(sock)
                            other[sock].shutdown(socket.SHUT_WR)
                            continue
                        other[sock].sendall(data)
                        if sock is client:
                            self._count(len(data))
                    if self._closing:
                        return
            except OSError:
                pass
            finally:
                with self._lock:
                    self._sockets -= {client, upstream}
                client.close()
                upstream.close()

    def _count(self, size: int) -> None:
        self.bytes_from_clients += size
        if self._cut_after and self.bytes_from_clients >= self._cut_after[0]:
            self._cut_after.pop(0)
            self.cuts += 1
            self.cut_all()
        elif self._bytes_per_second:
            time.sleep(size / self._bytes_per_second)
