"""Files of requests on a local disk: written below work/, then renamed into uploads/."""

import asyncio
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from app.domain.errors import StorageFailed
from app.domain.ids import is_id
from app.domain.layout import UPLOADS, WORK, upload_path
from app.domain.uploads import FsyncMode
from app.infrastructure.storage.local import in_thread, translated_errors
from app.infrastructure.storage.paths import DataFolder, split_path, upload_name
from app.infrastructure.storage.synced_folder import SyncedFolder
from app.infrastructure.storage.upload_bytes import WRITER_THREADS, FileUploadWriter
from app.services.cancellation import uninterrupted

_TRIES = 5
_DEPTH = 3
"""work, worker, request: the folder of a request has exactly these segments."""


class LocalWorkFiles:
    """The files of this process's requests (see ``ports.WorkFiles``). ``close`` ends its threads."""

    def __init__(self, folder: DataFolder, *, fsync: FsyncMode) -> None:
        self._folder = folder
        self._fsync = fsync
        self._pool = ThreadPoolExecutor(WRITER_THREADS, thread_name_prefix="form-writer")

    async def open(self, folder: str, name: str) -> FileUploadWriter:
        made: list[int] = []
        try:
            await in_thread(
                "making a work file", lambda: made.append(self._create(f"{folder}/{name}"))
            )
        except BaseException:
            # A cancelled call ends when the thread has: what it opened is nobody's then.
            for descriptor in made:
                os.close(descriptor)
            raise
        writer = FileUploadWriter(made[0], 0, self._pool, SyncedFolder(self._folder, WORK))
        writer.starts_write_back = self._fsync is not FsyncMode.OFF
        return writer

    async def sync(self, paths: Sequence[str]) -> None:
        if self._fsync is not FsyncMode.OFF:
            await self._in_pool("syncing a work file", lambda: self._sync(paths))

    async def move(self, uploads: Mapping[str, str]) -> None:
        await self._in_pool("moving a work file", lambda: self._move(uploads))

    def close(self) -> None:
        """Wait for the writes that are under way."""
        self._pool.shutdown(wait=True)

    async def _in_pool(self, doing: str, work: Callable[[], None]) -> None:
        """Run what may take long beside the threads that everything else goes to."""

        def run() -> None:
            with translated_errors(doing):
                work()

        await uninterrupted(_result_of(asyncio.get_running_loop().run_in_executor(self._pool, run)))

    def _create(self, path: str) -> int:
        folder = path.rpartition("/")[0]
        _check(folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        for _ in range(_TRIES):
            # Whoever ends this process's last request takes the process's folder along.
            with suppress(FileNotFoundError), self._folder.open_parent(path) as (above, name):
                return os.open(name, flags, 0o600, dir_fd=above)
            with suppress(FileNotFoundError):
                self._make(folder.rpartition("/")[0])
                self._make(folder)
        raise StorageFailed("A work folder could not be made.")

    def _make(self, path: str) -> None:
        with self._folder.open_parent(path) as (above, name), suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)

    def _sync(self, paths: Sequence[str]) -> None:
        for path in paths:
            with self._folder.open_parent(path) as (above, name):
                _sync_file(name, above)

    def _move(self, uploads: Mapping[str, str]) -> None:
        for path, upload_id in uploads.items():
            _check(path.rpartition("/")[0])
            with (
                self._folder.open_parent(path) as (work, name),
                self._folder.open_parent(upload_path(upload_name(upload_id))) as (above, target),
            ):
                os.rename(name, target, src_dir_fd=work, dst_dir_fd=above)
        if uploads and self._fsync is not FsyncMode.OFF:
            self._sync_uploads()

    def _sync_uploads(self) -> None:
        with self._folder.open_parent(upload_path("any")) as (uploads, _):
            os.fsync(uploads)


async def _result_of(future: asyncio.Future[None]) -> None:
    await future


def _check(folder: str) -> None:
    parts = split_path(folder)
    if len(parts) != _DEPTH or parts[0] != WORK or not all(map(is_id, parts[1:])):
        msg = f"Files of a request lie in a folder of its own below {WORK}/, not in {UPLOADS}/."
        raise StorageFailed(msg)


def _sync_file(name: str, above: int) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StorageFailed("Only a regular file can become an upload.")
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
