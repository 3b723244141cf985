"""Sends stored files from the disk's memory to a socket (sendfile), and tells what became of them.

Nothing blocks and no thread waits: a slow client costs a registration with the event loop. What the
kernel has taken is not yet with the client; ``is_taken`` says what can be known of that.
"""

import asyncio
import os
import socket
import sys
from types import TracebackType
from typing import Self

from app.api.connection import Connection
from app.api.socket_pump import SLICE_BYTES, ClientGone, ClientStalled, SocketPump
from app.api.source_file import SourceFile
from app.domain.delivery import ByteSpan

__all__ = ["SLICE_BYTES", "ClientGone", "ClientStalled", "SocketSender"]

STALL_SECONDS = 300.0
"""A download of which the client has taken no byte for so long is ended."""
TAKEN_SECONDS = 5.0
"""How long after the last byte the client has to confirm that all came, and may still reset."""
LAST_PIECE_BYTES = 16 * 1024
"""Of a download to be proved, held back until the client has confirmed all before it: so what is
left to confirm in ``TAKEN_SECONDS`` is little, whatever the kernel's buffers hold on a slow line.
"""

_TCP_INFO_BYTES = 192
_BYTES_ACKED = slice(120, 128)
_CLOSED = 7
_GOODBYE = frozenset({6, _CLOSED, 8, 9, 11})
"""States in which the peer has said that it sends no more (TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK,
CLOSING of Linux's tcp_states.h).
"""
_LOOKS = (0.001, 0.25)
"""First and longest pause between two looks at a queue that is to run empty."""


class SocketSender:
    """One answer's way to its client's socket. A context manager: leaving it lets go of the socket.

    It works on a descriptor of its own, since uvloop refuses to watch that of its transport; so a
    number that was closed and given to another client cannot be written to by mistake. ``position``
    is where in the file the kernel has got to.
    """

    def __init__(
        self, connection: Connection, own: socket.socket, stall_seconds: float = STALL_SECONDS
    ) -> None:
        self._connection = connection
        self._wire = connection.wire
        self._socket = own
        self._stall_seconds = stall_seconds
        self._pump = SocketPump(self._wire, own, stall_seconds)
        self._requests = 0
        self._is_pipelined = False
        self._target: int | None = None

    @property
    def position(self) -> int:
        """Where in the file the kernel has got to."""
        return self._pump.position

    @classmethod
    def take(cls, connection: Connection | None) -> Self | None:
        """Return a sender, None where the bytes have to go through the server: TLS, no socket."""
        number = connection.socket_number if connection is not None else None
        if connection is None or number is None:
            return None
        try:
            # Said, or the system would be asked for each of them; which address it has matters little.
            own = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, os.dup(number))
            return cls(connection, own)
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
        self._pump.position = span.start
        await self._until_flushed()
        held_back = max(span.start, span.end - LAST_PIECE_BYTES) if is_proved else span.end
        await self._pump.send(source, held_back)
        if is_proved:
            await self._until_empty()
            await self._pump.send(source, span.end)
            self._mark_end()

    # --- waiting ---------------------------------------------------------------------------------

    async def _until_flushed(self) -> None:
        """Wait until the server has written all it had: our bytes would overtake the rest."""
        self._pump.check()
        transport = self._wire.transport
        if not transport.get_write_buffer_size():
            return
        # uvloop writes at the end of its turn, and hardly ever has to wait for the socket.
        await asyncio.sleep(0)
        self._pump.check()
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

    async def _until_empty(self) -> None:
        pause, longest = _LOOKS
        moved_at, least = asyncio.get_running_loop().time(), self._pump.queued()
        while queued := self._pump.queued():
            self._pump.check()
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
            queued, before = self._pump.queued(), acked
            acked = self._acked()
            if acked == before:
                self._target = None if acked is None else acked + queued
                return

    def _has_all(self) -> bool:
        if self._pump.queued() == 0:
            return True
        acked = self._acked()
        return acked is not None and self._target is not None and acked >= self._target

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
