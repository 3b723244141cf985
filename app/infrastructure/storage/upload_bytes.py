"""The data files of uploads: written at a known offset, in large pieces, inline while that is quick."""

import asyncio
import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import structlog

from app.domain.errors import AppError, StorageFailed
from app.domain.layout import UPLOADS
from app.domain.uploads import FsyncMode
from app.infrastructure.storage.local import translated_errors
from app.infrastructure.storage.paths import DataFolder, upload_name
from app.infrastructure.storage.synced_folder import SyncedFolder
from app.infrastructure.storage.write_pace import WritePace
from app.services.cancellation import uninterrupted

log = structlog.get_logger(__name__)

T = TypeVar("T")

PIECE_BYTES = 256 * 1024
"""Small chunks are collected up to this much: a write per network packet would double the cost."""
LINGER_SECONDS = 0.01
"""What was collected goes to the file at the latest after this, so that the offset stays truthful."""
WRITE_BACK_BYTES = 64 * 1024 * 1024
WRITER_THREADS = 4

# Not blocking: to open a pipe that somebody put there would wait for its other end.
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_SYNC_FILE_RANGE_WRITE = 2
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class FileUploadBytes:
    """Opens the data files (see ``ports.UploadBytes``). ``close`` ends its threads."""

    def __init__(self, folder: DataFolder, *, fsync: FsyncMode) -> None:
        self._fsync = fsync
        self._boot_id = _read_boot_id()
        self._entries = SyncedFolder(folder, UPLOADS)
        self._pool = ThreadPoolExecutor(WRITER_THREADS, thread_name_prefix="upload-writer")
        self._pace = WritePace()

    @property
    def boot_id(self) -> str:
        return self._boot_id

    @property
    def fsync(self) -> FsyncMode:
        return self._fsync

    def size(self, upload_id: str) -> int:
        name = upload_name(upload_id)
        with translated_errors("looking at an upload"):
            # Without the folder it is not known: that is not 0.
            folder = self._entries.descriptor()
            try:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return 0
        _refuse_strange(found)
        return found.st_size

    async def open(self, upload_id: str, offset: int) -> "FileUploadWriter":
        name = upload_name(upload_id)
        with translated_errors("opening an upload"):
            fd = os.open(name, _WRITE, 0o600, dir_fd=self._entries.descriptor())
        writer = FileUploadWriter(fd, offset, self._pool, self._entries)
        writer.keep_pace(self._pace, upload_id)
        writer.starts_write_back = self._fsync is not FsyncMode.OFF
        try:
            await writer.begin()
        except BaseException:
            await writer.close()
            raise
        return writer

    def close(self) -> None:
        """Wait for the writes that are under way."""
        self._pool.shutdown(wait=True)
        self._entries.close()


def _refuse_strange(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StorageFailed("What lies in the place of an upload is no file.")


class FileUploadWriter:
    """One request's bytes on their way to the file (see ``ports.UploadWriter``).

    Writes in a thread until the disk has shown that it is quick, then inline; a write that takes
    longer sends it back to the thread, so that one stalling file delays nobody else.
    """

    starts_write_back = True

    def __init__(
        self, fd: int, offset: int, pool: ThreadPoolExecutor, folder: SyncedFolder
    ) -> None:
        self._fd = fd
        self._pool = pool
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._written = offset
        self._pending: list[bytes | memoryview] = []
        self._pending_bytes = 0
        self._linger: asyncio.TimerHandle | None = None
        self._failure: AppError | None = None
        self._pace = WritePace()
        self._name = ""
        self._written_back = offset
        self._write_back: asyncio.Future[None] | None = None

    @property
    def position(self) -> int:
        return self._written + self._pending_bytes

    @property
    def written(self) -> int:
        return self._written

    @property
    def is_inline(self) -> bool:
        return self._pace.is_quick(self._name)

    def keep_pace(self, pace: WritePace, name: str) -> None:
        """Share what is known of the disk with other writers; ``name`` is this one's file."""
        self._pace, self._name = pace, name

    async def begin(self) -> None:
        """Cut off what lies behind the offset. Raises StorageFailed when there is less."""
        with translated_errors("opening an upload"):
            found = os.fstat(self._fd)
        _refuse_strange(found)
        size = found.st_size
        if size < self._written:
            raise StorageFailed("The upload has fewer bytes than it should.")
        if size > self._written:
            await self.cut_back(self._written)

    async def write(self, chunk: bytes | memoryview) -> None:
        if self._failure is not None:
            raise self._failure
        if not chunk:
            return
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        is_lent = isinstance(chunk, memoryview)
        if is_lent or self._pending_bytes >= PIECE_BYTES or not self.is_inline:
            await self._flush()
            if self._written - self._written_back >= WRITE_BACK_BYTES and self.starts_write_back:
                self._start_write_back()
        elif self._linger is None:
            self._linger = self._loop.call_later(LINGER_SECONDS, self._on_linger)

    async def settle(self) -> None:
        if self._failure is not None:
            raise self._failure
        await self._flush()

    async def sync(self) -> int:
        await self.settle()
        await self._end_write_back()
        await self._in_thread(self._sync)
        return self._written

    async def cut_back(self, offset: int) -> None:
        self._forget_pending()
        await self._end_write_back()
        await self._in_thread(lambda: self._cut(offset))
        self._written = self._written_back = offset
        self._failure = None

    async def close(self) -> None:
        if self._fd < 0:
            return
        try:
            try:
                with suppress(AppError):
                    if self._failure is None:
                        await self._flush()
            finally:
                await self._end_write_back()
        finally:
            self._forget_pending()
            fd, self._fd = self._fd, -1
            os.close(fd)

    # --- writing ---------------------------------------------------------------------------------

    async def _flush(self) -> None:
        self._stop_linger()
        if not self._pending:
            return
        if self.is_inline:
            self._flush_inline()
            return
        pieces = self._take()
        began = time.perf_counter()
        try:
            await self._in_thread(lambda: self._put(pieces))
        except AppError as error:
            await self._fail(error)
            raise
        self._pace.note(self._name, time.perf_counter() - began)

    def _flush_inline(self) -> None:
        pieces = self._take()
        began = time.perf_counter()
        try:
            with translated_errors("writing an upload"):
                self._put(pieces)
        except AppError as error:
            self._failure = error
            self._drop_tail()
            raise
        self._pace.note(self._name, time.perf_counter() - began)

    def _on_linger(self) -> None:
        self._linger = None
        if self._pending and self._failure is None:
            # An error is kept for the next call that can raise it.
            with suppress(AppError):
                self._flush_inline()

    def _take(self) -> list[bytes | memoryview]:
        pieces, self._pending, self._pending_bytes = self._pending, [], 0
        return pieces

    def _put(self, pieces: list[bytes | memoryview]) -> None:
        """Write all of ``pieces`` at the end; ``written`` grows with what is really there."""
        while pieces:
            count = os.pwritev(self._fd, pieces, self._written)
            if count == 0:
                raise OSError(errno.EIO, "nothing was written")  # nor would it be the next time
            self._written += count
            while pieces and count >= len(pieces[0]):
                count -= len(pieces[0])
                pieces.pop(0)
            if pieces and count:
                pieces[0] = pieces[0][count:]

    async def _fail(self, error: AppError) -> None:
        self._failure = error
        await self._in_thread(self._drop_tail)

    def _drop_tail(self) -> None:
        """End the file where the last whole write ended: a failed one may have made it longer."""
        with suppress(OSError):
            if os.fstat(self._fd).st_size != self._written:
                os.ftruncate(self._fd, self._written)

    def _cut(self, offset: int) -> None:
        os.ftruncate(self._fd, offset)

    def _forget_pending(self) -> None:
        self._stop_linger()
        self._take()

    def _stop_linger(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    # --- durability ------------------------------------------------------------------------------

    def _sync(self) -> None:
        os.fdatasync(self._fd)
        self._folder.sync()

    def _start_write_back(self) -> None:
        """Have the kernel begin to write what came, so that the sync at the end is short."""
        if self._write_back is not None and not self._write_back.done():
            return
        begin, self._written_back = self._written_back, self._written
        length = self._written - begin
        self._write_back = self._loop.run_in_executor(
            self._pool, start_write_back, self._fd, begin, length
        )

    async def _end_write_back(self) -> None:
        future, self._write_back = self._write_back, None
        if future is not None:
            with suppress(OSError):  # the sync that follows meets the same trouble and tells it
                await uninterrupted(_result_of(future))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def run() -> T:
            with translated_errors("writing an upload"):
                return work()

        # A cancelled request lets go of the file only when the thread has: see uninterrupted.
        return await uninterrupted(_result_of(self._loop.run_in_executor(self._pool, run)))


async def _result_of(future: asyncio.Future[T]) -> T:
    return await future


def _read_boot_id() -> str:
    """Return what changes with every boot of the machine, "" where the system does not tell."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


def start_write_back(fd: int, begin: int, length: int) -> None:
    """Have the kernel begin to write a part of a file to the disk."""
    libc = ctypes.CDLL(None, use_errno=True)
    sync_file_range = getattr(libc, "sync_file_range", None)
    if sync_file_range is None:
        os.fdatasync(fd)
        return
    offset, size = ctypes.c_int64(begin), ctypes.c_int64(length)
    if sync_file_range(fd, offset, size, ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)) != 0:
        log.debug("upload.write_back_refused", errno=ctypes.get_errno())
