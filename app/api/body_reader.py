"""The fast path of a body: from the socket into a reused buffer, past the server's parser."""

import asyncio
from abc import ABC, abstractmethod
from weakref import WeakSet

SIZES = (64 * 1024, 512 * 1024, 4 * 1024 * 1024)
"""Of buffers, in bytes. One that was filled is followed by a larger one: each piece costs the same in
Python, whatever its size.
"""
MOST = (0, 32, 8)
"""So many of each size at once in a process, of the smallest any number."""
KEPT_SMALL = 32
LINGER_SECONDS = 0.01
"""How long a piece is collected from its first byte, so that what came is soon in the file."""


class Buffer:
    """Memory for one piece of a body; ``step`` is its place in ``SIZES``."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.size = SIZES[step]
        self.view = memoryview(bytearray(self.size))


class BufferPool:
    """The buffers of a process: made when they are needed, kept for the next, bounded.

    One that its reader drops, because its request was cut off, is simply freed.
    """

    def __init__(self) -> None:
        self._free: tuple[list[Buffer], ...] = tuple([] for _ in SIZES)
        self._made: tuple[WeakSet[Buffer], ...] = tuple(WeakSet() for _ in SIZES)

    def take(self, step: int) -> Buffer:
        """Return a buffer of that size, or a smaller one when there are enough of them."""
        for each in range(step, 0, -1):
            if free := self._free[each]:
                return free.pop()
            if len(self._made[each]) < MOST[each]:
                made = Buffer(each)
                self._made[each].add(made)
                return made
        return self._free[0].pop() if self._free[0] else Buffer(0)

    def give_back(self, buffer: Buffer) -> None:
        free = self._free[buffer.step]
        if buffer.step or len(free) < KEPT_SMALL:
            free.append(buffer)


class Parent(asyncio.Protocol, ABC):
    """An HTTP protocol that lends its connection for the length of a body."""

    @abstractmethod
    def take_back(self, left: int) -> None:
        """Go on with the connection; ``left`` bytes of the body are still to come."""


class BodyReader(asyncio.BufferedProtocol):
    """Reads the rest of one body, ``left`` bytes, and never a byte behind it.

    Nothing is read while somebody holds a piece, so one buffer does. A client that fills it gets a
    larger one, up to a point; between two pieces, and while a slow client sends nothing, there is
    none at all.
    """

    def __init__(
        self, parent: Parent, transport: asyncio.Transport, left: int, pool: BufferPool
    ) -> None:
        self._parent = parent
        self._transport = transport
        self._pool = pool
        self._left = left
        self._buffer: Buffer | None = None
        self._filled = 0
        self._step = 0
        self._is_due = False
        self._is_given = False
        self._is_over = False
        self._waiter: asyncio.Future[None] | None = None
        self._linger: asyncio.TimerHandle | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every byte of the body came."""
        return self._left == 0

    def attach(self) -> None:
        """Take the connection over."""
        self._hand_over(self)

    def detach(self) -> None:
        """Give the connection back, whatever is still to come, because the answer is complete."""
        if not self._is_over:
            self._end()
        self._buffer = None

    async def read(self) -> memoryview | None:
        """Return the next piece, valid until the next call; None when there is no more: that is the
        end of the body, or of the connection (see ``is_whole``).
        """
        self._take_piece_back()
        while not (self._filled and (self._is_due or self._is_over)):
            if self._is_over:
                return None
            self._transport.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._buffer is None:
            return None
        self._is_given = True
        return self._buffer.view[: self._filled]

    def _take_piece_back(self) -> None:
        if not self._is_given or self._buffer is None:
            return
        if self._filled == self._buffer.size:
            self._step = min(self._buffer.step + 1, len(SIZES) - 1)
        elif self._filled < SIZES[max(0, self._step - 1)]:
            self._step = max(0, self._step - 1)
        self._pool.give_back(self._buffer)
        self._buffer, self._filled = None, 0
        self._is_given = self._is_due = False

    # --- what the transport calls ----------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        if self._buffer is None:
            self._buffer = self._pool.take(self._step)
        end = min(self._buffer.size, self._filled + self._left)
        return self._buffer.view[self._filled : end]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._left -= nbytes
        if self._left == 0:
            self._end()
        elif self._buffer is None or self._filled == self._buffer.size:
            self._give()
        elif self._linger is None:
            loop = asyncio.get_running_loop()
            self._linger = loop.call_later(LINGER_SECONDS, self._give)

    def eof_received(self) -> bool | None:
        keep: bool | None = self._parent.eof_received()
        return keep

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        self._give()
        self._parent.connection_lost(exc)

    def pause_writing(self) -> None:
        self._parent.pause_writing()

    def resume_writing(self) -> None:
        self._parent.resume_writing()

    def _give(self) -> None:
        """Let the reader have what there is."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._is_due = True
        if not self._is_over:
            self._transport.pause_reading()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self) -> None:
        self._is_over = True
        self._give()
        self._hand_over(self._parent)
        self._parent.take_back(self._left)

    def _hand_over(self, protocol: asyncio.BaseProtocol) -> None:
        # How a transport reads is settled when it begins to.
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()
