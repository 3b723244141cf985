"""Sends stored files from the disk's memory to a socket (sendfile), and tells what became of them.

Nothing blocks and no thread waits: a slow client costs a registration with the event loop. What the
kernel has taken is not yet with the client; ``is_taken`` says what can be known of that.
"""

import asyncio
import errno
import fcntl
import os
import socket
import struct
import sys
from types import TracebackType
from typing import Self

from app.api.connection import Connection
from app.api.source_file import SourceFile
from app.domain.delivery import ByteSpan

SLICE_BYTES = 1024 * 1024
"""The most that is sent at a go: then everybody else has a turn."""
STALL_SECONDS = 300.0
"""A download of which the client has taken no byte for so long is ended."""
TAKEN_SECONDS = 5.0
"""How long after the last byte the client has to confirm that all came, and may still reset."""
LAST_PIECE_BYTES = 16 * 1024
"""Of a download to be proved, held back until the client has confirmed all before it: so what is
left to confirm in ``TAKEN_SECONDS`` is little, whatever the kernel's buffers hold on a slow line.
"""

_SIOCOUTQ = 0x5411
_TCP_INFO_BYTES = 192
_BYTES_ACKED = slice(120, 128)
_CLOSED = 7
_GOODBYE = frozenset({6, _CLOSED, 8, 9, 11})
"""States in which the peer has said that it sends no more (TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK,
CLOSING of Linux's tcp_states.h).
"""
_LOOKS = (0.001, 0.25)
"""First and longest pause between two looks at a queue that is to run empty."""
_UNREACHABLE = frozenset(
    {
        errno.ENOTCONN,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EHOSTDOWN,
        errno.ENETRESET,
        errno.EBADF,
    }
)


class ClientGone(Exception):  # noqa: N818
    """The rest of the answer has nobody to go to."""


class ClientStalled(ClientGone):
    """The client is there, and has taken nothing for too long."""


class SocketSender:
    """One answer's way to its client's socket. A context manager: leaving it lets go of the socket.

    It works on a descriptor of its own, since uvloop refuses to watch that of its transport; so a
    number that was closed and given to another client cannot be written to by mistake. ``position``
    is where in the file the kernel has got to.
    """

    def __init__(
        self, connection: Connection, own: socket.socket, stall_seconds: float = STALL_SECONDS
    ) -> None:
        self.position = 0
        self._connection = connection
        self._wire = connection.wire
        self._socket = own
        self._stall_seconds = stall_seconds
        self._requests = 0
        self._is_pipelined = False
        self._target: int | None = None

    @classmethod
    def take(cls, connection: Connection | None) -> Self | None:
        """Return a sender, None where the bytes have to go through the server: TLS, no socket."""
        number = connection.socket_number if connection is not None else None
        if connection is None or number is None:
            return None
        try:
            return cls(connection, socket.socket(fileno=os.dup(number)))
        except OSError:  # out of descriptors: the other way needs none
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    async def send(self, source: SourceFile, span: ByteSpan, *, is_proved: bool) -> None:
        """Hand these bytes of the file to the kernel, behind what the server still has to write.

        ``is_proved``: with a view to ``is_taken``. Raises ClientGone, ClientStalled, and OSError
        when the file cannot be read or is shorter than it was.
        """
        self.position = span.start
        await self._until_flushed()
        held_back = max(span.start, span.end - LAST_PIECE_BYTES) if is_proved else span.end
        await self._send(source, held_back)
        if is_proved:
            await self._until_empty()
            await self._send(source, span.end)
            self._mark_end()

    async def _send(self, source: SourceFile, end: int) -> None:
        while self.position < end:
            count = min(SLICE_BYTES, end - self.position)
            if not source.is_at_hand(self.position, count):
                async with self._wire.disk_reads:
                    await source.fetch(self.position, count)
            sent = self._send_slice(source, count)
            self.position += sent
            if sent < count:
                await self._until_writable()
            elif self.position < end:  # else at once, before a next request can be taken for an
                await asyncio.sleep(0)  # earlier one: see ``_mark_end``

    def _send_slice(self, source: SourceFile, count: int) -> int:
        self._check()
        try:
            sent = os.sendfile(self._socket.fileno(), source.descriptor, self.position, count)
        except BlockingIOError:
            return 0
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError) or error.errno in _UNREACHABLE:
                self._wire.was_reset = True
                raise ClientGone from error
            raise
        if sent == 0:
            # Cut under our hands: end the connection rather than pretend it was all.
            msg = "the file became shorter while it was sent"
            raise OSError(msg)
        return sent

    def _check(self) -> None:
        if self._wire.is_closing:
            raise ClientGone

    # --- waiting ---------------------------------------------------------------------------------

    async def _until_flushed(self) -> None:
        """Wait until the server has written all it had: our bytes would overtake the rest."""
        self._check()
        transport = self._wire.transport
        if not transport.get_write_buffer_size():
            return
        transport.set_write_buffer_limits(high=0)  # so that the flow opens at the last byte
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self._connection.flow.drain()
        except TimeoutError as error:
            raise ClientStalled from error
        finally:
            if not self._wire.is_closing:  # uvloop's refuse whatever is asked of them from then on
                transport.set_write_buffer_limits()

    async def _until_writable(self) -> None:
        loop, number, ready = asyncio.get_running_loop(), self._socket.fileno(), asyncio.Event()
        loop.add_writer(number, ready.set)
        self._wire.listen(ready.set)
        try:
            await self._until_ready(ready)
        finally:
            loop.remove_writer(number)
            self._wire.unlisten(ready.set)

    async def _until_ready(self, ready: asyncio.Event) -> None:
        queued = self._queued()
        while True:
            try:
                async with asyncio.timeout(self._stall_seconds):
                    await ready.wait()
            except TimeoutError as error:
                # A large buffer is "full" until a third of it is free: look whether it moved at all.
                before, queued = queued, self._queued()
                if queued >= before:
                    raise ClientStalled from error
            else:
                return

    async def _until_empty(self) -> None:
        pause, longest = _LOOKS
        moved_at, least = asyncio.get_running_loop().time(), self._queued()
        while queued := self._queued():
            self._check()
            now = asyncio.get_running_loop().time()
            if queued < least:
                moved_at, least = now, queued
            elif now - moved_at > self._stall_seconds:
                raise ClientStalled
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    # --- what became of it -----------------------------------------------------------------------

    async def is_taken(self) -> bool:
        """Whether the client's system has confirmed every byte, and did not reset.

        At once when the client says goodbye or goes on to its next request, else after
        ``TAKEN_SECONDS``. For after the end of the answer: the next request does not wait for this.
        """
        changed = asyncio.Event()
        self._wire.listen(changed.set)
        is_following = False
        try:
            async with asyncio.timeout(TAKEN_SECONDS):
                while (verdict := self._verdict()) is None:
                    if self._wire.is_lost and not is_following:
                        is_following = True
                        self._follow(changed)
                    await changed.wait()
                    changed.clear()
                return verdict
        except TimeoutError:
            return self._has_all() and not self._is_reset()
        finally:
            self._wire.unlisten(changed.set)
            if is_following:
                asyncio.get_running_loop().remove_reader(self._socket.fileno())

    def _follow(self, changed: asyncio.Event) -> None:
        """Watch a connection that the server has closed, of which ours is the last descriptor."""
        loop, number = asyncio.get_running_loop(), self._socket.fileno()

        def look() -> None:
            loop.remove_reader(number)  # whatever is there to be read stays there to be read
            changed.set()

        loop.add_reader(number, look)
        try:
            # The server's own close says goodbye only with the last descriptor.
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            changed.set()

    def _verdict(self) -> bool | None:
        """Return what is certain by now, None while nothing is."""
        if self._is_reset():
            return False
        if not self._has_all():
            return None
        if self._wire.is_lost and self._state() in _GOODBYE:
            return True
        # Who asks for more has read what came before, but for those who asked for it before.
        return True if self._wire.requests > self._requests and not self._is_pipelined else None

    def _is_reset(self) -> bool:
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._wire.was_reset = True
        # Closed without a goodbye of ours, which comes last: the server is about to tell the error.
        was_cut = self._state() == _CLOSED and not self._wire.is_lost
        return self._wire.was_reset or was_cut

    def _mark_end(self) -> None:
        """Remember how many bytes the client will have confirmed when it has confirmed ours.

        The queue is empty for a moment at best where the next answer follows.
        """
        self._is_pipelined = self._wire.requests > self._connection.number
        self._requests = self._wire.requests
        acked = self._acked()
        for _ in range(3):
            queued, before = self._queued(), acked
            acked = self._acked()
            if acked == before:
                self._target = None if acked is None else acked + queued
                return

    def _has_all(self) -> bool:
        if self._queued() == 0:
            return True
        acked = self._acked()
        return acked is not None and self._target is not None and acked >= self._target

    def _queued(self) -> int:
        """Bytes that the client has not confirmed yet."""
        (count,) = struct.unpack("i", fcntl.ioctl(self._socket.fileno(), _SIOCOUTQ, bytes(4)))
        return int(count)

    def _acked(self) -> int | None:
        info = self._info()
        return (
            int.from_bytes(info[_BYTES_ACKED], sys.byteorder)
            if len(info) >= _BYTES_ACKED.stop
            else None
        )

    def _state(self) -> int | None:
        info = self._info()
        return info[0] if info else None

    def _info(self) -> bytes:
        try:
            return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:  # no TCP: only the queue tells
            return b""
