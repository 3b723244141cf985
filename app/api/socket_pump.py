"""Moves bytes of a file into a socket whenever it takes some: turn by turn, and nothing in it blocks."""

import asyncio
import errno
import fcntl
import os
import socket
import struct
import time

from app.api.connection import Wire
from app.api.source_file import SourceFile

FIRST_BYTES = 1024 * 1024
"""What is sent in the first turn, and as far as it is quick in the next ones twice as much each."""
SLICE_BYTES = 4 * 1024 * 1024
"""The most that is sent in one turn: then everybody else has one."""
LEAST_BYTES = 256 * 1024
"""What a turn comes down to where it takes long, or where there are many."""
ROUND_SECONDS = 0.002
"""About how long a turn and everybody else's may take: others than downloads wait for that."""

_SIOCOUTQ = 0x5411
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


class SocketPump:
    """One file's way into one socket. ``position`` is where in the file the kernel has got to.

    The sending itself is done by the event loop's callback, not by a task that it would have to wake
    up for each piece: that alone would cost as much as the kernel's work.
    """

    def __init__(self, wire: Wire, own: socket.socket, stall_seconds: float) -> None:
        self.position = 0
        self._wire = wire
        self._socket = own
        self._stall_seconds = stall_seconds
        self._turn_bytes = FIRST_BYTES
        self._round_began: float | None = None
        self._is_fetched = False

    async def send(self, source: SourceFile, end: int) -> None:
        """Hand the bytes from ``position`` to ``end`` to the kernel.

        Raises ClientGone, ClientStalled, and OSError when the file cannot be read or is shorter than
        it was. What fits into the socket is sent before the first turn of the loop.
        """
        while self.position < end:
            if self._take_turn(source, end):
                await self._go_on(source, end)
            elif self.position < end:
                async with self._wire.disk_reads:
                    await source.fetch(self.position, self._until(end) - self.position)
                self._is_fetched = True

    def queued(self) -> int:
        """Bytes that the client has not confirmed yet."""
        (count,) = struct.unpack("i", fcntl.ioctl(self._socket.fileno(), _SIOCOUTQ, bytes(4)))
        return int(count)

    def check(self) -> None:
        """Raise ClientGone when nothing can be sent any more."""
        if self._wire.is_closing:
            raise ClientGone

    # --- one turn --------------------------------------------------------------------------------

    def _until(self, end: int) -> int:
        return min(self.position + self._turn_bytes, end)

    def _take_turn(self, source: SourceFile, end: int) -> bool:
        """Send what the socket takes of one turn's bytes.

        Returns whether there is more to send as soon as it takes more: neither at the end, nor where
        the disk has to be asked first.
        """
        self.check()
        began = time.perf_counter()
        if self._round_began is not None:
            self._pace(began - self._round_began)
        self._round_began = None
        until = self._until(end)
        if not self._is_fetched and not source.is_at_hand(self.position, until - self.position):
            return False
        self._is_fetched = False
        self.position += self._send_some(source, until - self.position)
        if self.position < until:
            return True  # how long it takes until the next turn says nothing of the others
        self._round_began = began
        return self.position < end

    def _pace(self, seconds: float) -> None:
        """Take a smaller turn when the last one and everybody else's since took long, else a larger."""
        changed = self._turn_bytes // 2 if seconds > ROUND_SECONDS else self._turn_bytes * 2
        self._turn_bytes = max(LEAST_BYTES, min(changed, SLICE_BYTES))

    def _send_some(self, source: SourceFile, count: int) -> int:
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

    # --- all further turns -----------------------------------------------------------------------

    async def _go_on(self, source: SourceFile, end: int) -> None:
        """Take a turn whenever the socket takes more, until it is the disk's turn or all is sent."""
        loop, number = asyncio.get_running_loop(), self._socket.fileno()
        done: asyncio.Future[None] = loop.create_future()

        def take_turn() -> None:
            if done.done():
                return
            try:
                if not self._take_turn(source, end):
                    done.set_result(None)
            except (ClientGone, OSError) as error:
                done.set_exception(error)

        def look() -> None:
            if self._wire.is_closing and not done.done():
                done.set_exception(ClientGone())

        loop.add_writer(number, take_turn)
        self._wire.listen(look)
        try:
            await self._until_done(done)
        finally:
            loop.remove_writer(number)
            self._wire.unlisten(look)
            if not done.cancel():
                done.exception()  # cancelled at the same moment: nobody else will ask for it

    async def _until_done(self, done: asyncio.Future[None]) -> None:
        taken = self._taken()
        while True:
            await asyncio.wait([done], timeout=self._stall_seconds)
            if done.done():
                return done.result()
            # A large buffer is "full" until a third of it is free: look whether it moved at all.
            before, taken = taken, self._taken()
            if taken <= before:
                raise ClientStalled

    def _taken(self) -> int:
        return self.position - self.queued()
