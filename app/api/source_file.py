"""A stored file that is open to be sent: its bytes, and whether they are at hand without the disk."""

import asyncio
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from app.services.cancellation import uninterrupted

STEP_BYTES = 1024 * 1024
"""How far apart the places are that are looked at to tell whether the memory holds what is between."""
AHEAD_BYTES = 4 * 1024 * 1024
"""How much the disk is asked for once it turned out that the memory does not hold the file."""

# Not blocking: a pipe in its place would keep the thread waiting for somebody to write.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_OPENAT2 = 437
_AT_FDCWD = -100
_RESOLVE_CACHED = 0x20
_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    """The system's ``struct open_how`` (openat2, Linux 5.6; RESOLVE_CACHED since 5.12)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class SourceFile:
    """Reads by position, so that any number of readers would not get into each other's way."""

    def __init__(self, descriptor: int, size_bytes: int | None = None) -> None:
        self.descriptor = descriptor
        self.size_bytes = os.fstat(descriptor).st_size if size_bytes is None else size_bytes
        self._can_ask = True
        self._probe = [bytearray(1)]

    @classmethod
    async def at(cls, path: Path) -> Self:
        """Open a file: at once where that asks no disk, else by a thread. Raises OSError."""
        descriptor = _open_known(path)
        if descriptor is None:
            return await asyncio.to_thread(cls.open, path)
        return cls._of(descriptor)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file, never through a link in its place. Blocks. Raises OSError."""
        return cls._of(os.open(path, _FLAGS))

    @classmethod
    def _of(cls, descriptor: int) -> Self:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file")
        return cls(descriptor, found.st_size)

    def close(self) -> None:
        os.close(self.descriptor)

    def read(self, position: int, count: int) -> bytes:
        """Return up to ``count`` bytes. Blocks."""
        return os.pread(self.descriptor, count, position)

    def is_at_hand(self, position: int, count: int) -> bool:
        """Whether these bytes are in memory at either end of each ``STEP_BYTES`` of them, so that
        sending them will hardly block.

        What lies between may not be: then the caller waits for one read of the disk, as any does.
        """
        return all(map(self._has, _places(position, count)))

    async def fetch(self, position: int, count: int) -> None:
        """Have the disk bring these bytes, and more behind them, without blocking the caller."""
        # To its end: the thread would go on with a descriptor that may be another file's by then.
        await uninterrupted(asyncio.to_thread(self._bring, position, count))

    def _has(self, position: int) -> bool:
        if not self._can_ask:
            return False
        try:
            os.preadv(self.descriptor, self._probe, position, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:  # file systems that do not know the flag: each piece is fetched by a thread
            self._can_ask = False
            return False
        return True

    def _bring(self, position: int, count: int) -> None:
        os.posix_fadvise(self.descriptor, position, AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        for place in _places(position, count):
            os.pread(self.descriptor, 1, place)


def _places(position: int, count: int) -> Iterator[int]:
    """Yield where to look for these bytes: their first and last, and each ``STEP_BYTES`` between."""
    yield from range(position, position + count - 1, STEP_BYTES)
    yield position + count - 1


def _open_known(path: Path) -> int | None:
    """Return a descriptor of a file that the system finds without asking the disk, else None: also
    where there is no such call, or the container forbids it.
    """
    how = _How(flags=_FLAGS, resolve=_RESOLVE_CACHED)
    name = ctypes.c_char_p(os.fsencode(path))
    size = ctypes.c_size_t(ctypes.sizeof(how))
    found = _libc.syscall(_OPENAT2, _AT_FDCWD, name, ctypes.byref(how), size)
    return found if found >= 0 else None
