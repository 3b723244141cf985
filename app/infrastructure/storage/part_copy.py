"""Putting data files together: copied by the kernel, as shared blocks where the file system has them."""

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

import structlog

from app.domain.errors import StorageFailed
from app.domain.layout import upload_path
from app.domain.uploads import FsyncMode
from app.infrastructure.storage.local import translated_errors
from app.infrastructure.storage.paths import DataFolder, upload_name
from app.infrastructure.storage.upload_bytes import start_write_back
from app.services.cancellation import uninterrupted

log = structlog.get_logger(__name__)

T = TypeVar("T")

PIECE_BYTES = 32 * 1024 * 1024
"""Copied in one go; whoever cancels a copy waits for no more than this."""
BUFFER_BYTES = 1024 * 1024
COPY_THREADS = 2
_DOING = "putting an upload together"
_NO_KERNEL_COPY = frozenset(
    {
        errno.ENOSYS,
        errno.EXDEV,
        errno.EINVAL,
        errno.EOPNOTSUPP,
        errno.EPERM,  # what some sandboxes answer to system calls that they do not know
    }
)

# Not blocking: to open a pipe that somebody put there would wait for its other end.
_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FilePartCopier:
    """See ``ports.PartCopier``. Has a few threads of its own; ``close`` ends them."""

    def __init__(self, folder: DataFolder, *, fsync: FsyncMode) -> None:
        self._folder = folder
        self._fsync = fsync
        self._pool = ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="part-copier")

    async def copy(self, final_id: str, parts: Sequence[tuple[str, int]]) -> None:
        with translated_errors(_DOING):
            # Its lock made it. One that was deleted since is not made anew: nobody would hold that,
            # and when the process dies no row would tell of it.
            target = self._open(final_id, os.O_RDWR)
        try:
            await self._fill(target, parts)
        except BaseException:
            with suppress(StorageFailed):  # then it is shorter than it should be, and seen as such
                await self._in_thread(lambda: os.ftruncate(target, 0))
            raise
        finally:
            os.close(target)

    def close(self) -> None:
        """Wait for the pieces that are under way."""
        self._pool.shutdown(wait=True)

    async def _fill(self, target: int, parts: Sequence[tuple[str, int]]) -> None:
        await self._in_thread(lambda: os.ftruncate(target, 0))
        piece = _Piece(target, writes_back=self._fsync is not FsyncMode.OFF)
        for part_id, length in parts:
            if length:
                await self._append(piece, part_id, length)
        if self._fsync is not FsyncMode.OFF:
            await self._in_thread(lambda: self._sync(target))

    async def _append(self, piece: "_Piece", part_id: str, length: int) -> None:
        with translated_errors(_DOING):
            source = self._open(part_id, os.O_RDONLY)
        try:
            if os.fstat(source).st_size != length:
                raise StorageFailed("A part has another length than it should.")
            offset = 0
            while offset < length:
                size = min(PIECE_BYTES, length - offset)
                offset += await self._in_thread(partial(piece.add, source, offset, size))
        finally:
            os.close(source)

    def _open(self, upload_id: str, flags: int) -> int:
        with self._folder.open_parent(upload_path(upload_name(upload_id))) as (folder, name):
            fd = os.open(name, flags | _SAFE, 0o600, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise StorageFailed("What lies in the place of an upload is no file.")
        return fd

    def _sync(self, target: int) -> None:
        os.fdatasync(target)
        with self._folder.open_parent(upload_path("0" * 32)) as (folder, _):
            os.fsync(folder)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def run() -> T:
            with translated_errors(_DOING):
                return work()

        async def result() -> T:
            return await asyncio.get_running_loop().run_in_executor(self._pool, run)

        # The files are closed, and the locks let go, only when the thread has let go of them.
        return await uninterrupted(result())


class _Piece:
    """Appends pieces of other files to one. Works in threads, one at a time."""

    def __init__(self, target: int, *, writes_back: bool) -> None:
        self._target = target
        self._end = 0
        self._writes_back = writes_back
        self._by_kernel = hasattr(os, "copy_file_range")

    def add(self, source: int, begin: int, size: int) -> int:
        """Append up to ``size`` bytes of ``source`` from ``begin`` on; return how many, at least 1."""
        copied = self._copy_by_kernel(source, begin, size) if self._by_kernel else 0
        copied = copied or self._copy_by_hand(source, begin, size)
        if self._writes_back:
            # So that the sync at the end is short.
            start_write_back(self._target, self._end, copied)
        self._end += copied
        return copied

    def _copy_by_kernel(self, source: int, begin: int, size: int) -> int:
        """Return how many bytes were copied; 0 where the system does not do it."""
        try:
            copied = os.copy_file_range(source, self._target, size, begin, self._end)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
            self._by_kernel = False
            log.info("upload.copied_by_hand", errno=errno.errorcode.get(error.errno, error.errno))
            return 0
        return copied

    def _copy_by_hand(self, source: int, begin: int, size: int) -> int:
        buffer = memoryview(bytearray(min(BUFFER_BYTES, size)))
        copied = 0
        while copied < size:
            room = buffer[: min(len(buffer), size - copied)]
            count = os.preadv(source, [room], begin + copied)
            if count == 0:
                raise StorageFailed("A part has fewer bytes than it should.")
            done = 0
            while done < count:
                done += os.pwrite(self._target, room[done:count], self._end + copied + done)
            copied += count
        return copied
