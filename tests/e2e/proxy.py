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

from tests.e2e.heads import Conversation, Head

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Listens on a free port. ``cut_after`` are totals of bytes from clients at which to cut.

    A cut resets both sides, as a lost mobile link with a changed address looks to the server.
    ``bytes_per_second`` slows the way to the server. ``hold_at`` are totals at which nothing more is
    carried to the server, on any connection, until ``let_go``; with ``hold_each_at`` each upload
    is held at that byte of it. ``heads`` are the requests so far, each with its answer.
    """

    def __init__(
        self,
        upstream_port: int,
        *,
        cut_after: Sequence[int] = (),
        bytes_per_second: float | None = None,
        hold_at: Sequence[int] = (),
        hold_each_at: int | None = None,
    ) -> None:
        self._upstream_port = upstream_port
        self._cut_after = sorted(cut_after)
        self._bytes_per_second = bytes_per_second
        self._hold_at = sorted(hold_at)
        self._hold_each_at = hold_each_at
        self._held = 0
        self._answers_to_lose = 0
        self._may_carry = threading.Event()
        self._may_carry.set()
        self.heads: list[Head] = []
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
        self.let_go()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join(5)

    def speed_up(self) -> None:
        """Stop slowing."""
        self._bytes_per_second = None

    def slow_down(self, bytes_per_second: float) -> None:
        """Slow the way to the server."""
        self._bytes_per_second = bytes_per_second

    @property
    def is_holding(self) -> bool:
        return self._held > 0 or not self._may_carry.is_set()

    @property
    def is_open(self) -> bool:
        """Whether any connection is."""
        return bool(self._sockets)

    @property
    def is_creating(self) -> bool:
        """Whether the server was asked for an upload and has not answered yet."""
        return any(head.creates and head.status is None for head in list(self.heads))

    def hold_each(self, position: int) -> None:
        """From now on hold each upload at this byte of it."""
        self._hold_each_at = position

    def let_go(self) -> None:
        """Carry on after a hold."""
        self._hold_each_at = None
        self._may_carry.set()

    def hold_no_more(self) -> None:
        """Carry on, and hold nothing any more."""
        self._hold_at = []
        self.let_go()

    def lose_answers(self, count: int) -> None:
        """End the connections of the next answers instead of bringing those to their clients."""
        with self._lock:
            self._answers_to_lose = count

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
        conversation = Conversation(self.heads)
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
                        if sock is upstream:
                            self._lose_answer()
                            conversation.from_server(data)
                            client.sendall(data)
                            continue
                        self._wait(conversation.position)
                        upstream.sendall(data)
                        conversation.from_client(data)
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

    def _lose_answer(self) -> None:
        with self._lock:
            is_lost = self._answers_to_lose > 0
            self._answers_to_lose -= is_lost
            self.cuts += is_lost
        if is_lost:
            raise ConnectionAbortedError

    def _wait(self, position: int) -> None:
        """Wait until a connection may carry on whose upload has come to this byte."""
        if self._is_held_at(position):
            with self._lock:
                self._held += 1
            while self._is_held_at(position):
                time.sleep(0.01)
            with self._lock:
                self._held -= 1
        self._may_carry.wait()

    def _is_held_at(self, position: int) -> bool:
        return self._hold_each_at is not None and position >= self._hold_each_at

    def _count(self, size: int) -> None:
        self.bytes_from_clients += size
        if self._hold_at and self.bytes_from_clients >= self._hold_at[0]:
            self._hold_at.pop(0)
            self._may_carry.clear()
        if self._cut_after and self.bytes_from_clients >= self._cut_after[0]:
            self._cut_after.pop(0)
            self.cuts += 1
            self.cut_all()
        elif self._bytes_per_second:
            time.sleep(size / self._bytes_per_second)
