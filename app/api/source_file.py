"""A stored file that is open to be sent: its bytes, and whether they are at hand without the disk."""

import asyncio
import errno
import os
import stat
from pathlib import Path
from typing import Self

from app.services.cancellation import uninterrupted

AHEAD_BYTES = 4 * 1024 * 1024
"""How much the disk is asked for once it turned out that the memory does not hold the file."""


class SourceFile:
    """Reads by position, so that any number of readers would not get into each other's way."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size_bytes = os.fstat(descriptor).st_size
        self._can_ask = True

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file, never through a link in its place. Blocks. Raises OSError."""
        # Not blocking: a pipe in its place would keep the thread waiting for somebody to write.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file")
        return cls(descriptor)

    def close(self) -> None:
        os.close(self.descriptor)

    def read(self, position: int, count: int) -> bytes:
        """Return up to ``count`` bytes. Blocks."""
        return os.pread(self.descriptor, count, position)

    def is_at_hand(self, position: int, count: int) -> bool:
        """Whether both ends of these bytes are in memory, so that sending them will hardly block.

        What lies between may not be: then the caller waits for one read of the disk, as any does.
        """
        return self._has(position) and self._has(position + count - 1)

    async def fetch(self, position: int, count: int) -> None:
        """Have the disk bring these bytes, and more behind them, without blocking the caller."""
        # To its end: the thread would go on with a descriptor that may be another file's by then.
        await uninterrupted(asyncio.to_thread(self._bring, position, count))

    def _has(self, position: int) -> bool:
        if not self._can_ask:
            return False
        try:
            os.preadv(self.descriptor, [bytearray(1)], position, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:  # file systems that do not know the flag: each piece is fetched by a thread
            self._can_ask = False
            return False
        return True

    def _bring(self, position: int, count: int) -> None:
        os.posix_fadvise(self.descriptor, position, AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        for place in (position, position + count - 1):
            os.pread(self.descriptor, 1, place)
