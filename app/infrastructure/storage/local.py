"""Bytes on a local disk: the Files port over one data folder."""

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from app.domain.errors import InputsDeleted, NoSpace, StorageFailed
from app.domain.ids import is_id
from app.domain.layout import (
    CACHE,
    DATABASE,
    MARKER,
    OUTPUTS,
    RUN,
    UPLOADS,
    WORK,
    kept_clip_path,
    output_path,
    scratch_path,
)
from app.infrastructure.storage.paths import DataFolder, split_path
from app.services.cancellation import uninterrupted
from app.services.ports import Usage, WorkEntry

T = TypeVar("T")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TRIES = 5
_TO_DO = {
    errno.EPERM: "it or its folder is marked immutable or belongs to somebody else; "
    "see `lsattr` (`chattr -i` takes the mark away) and `ls -l`",
    errno.EACCES: "give the service's user the right to write to its folder",
    errno.EBUSY: "something is mounted there, see `findmnt`: unmount it",
    errno.EROFS: "the file system is mounted read-only: look into the system's log for why",
    errno.EIO: "the disk reports errors: look into the system's log and check the disk",
}
"""What whoever runs the service can do about each way in which a deletion fails."""
_KINDS = (UPLOADS, WORK, OUTPUTS, CACHE, "database", "system", "other")


@contextmanager
def translated_errors(doing: str) -> Iterator[None]:
    """Turn an ``OSError`` into ``NoSpace`` or ``StorageFailed``; no path reaches the message."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            msg = f"The disk is full: {doing} failed."
            raise NoSpace(msg) from error
        name = errno.errorcode.get(error.errno or 0, "an unknown error")
        msg = f"The storage failed: {doing} ended with {name}."
        raise StorageFailed(msg) from error


async def in_thread(doing: str, work: Callable[[], T]) -> T:
    """Run blocking ``work`` in a thread. A cancelled call ends only when the work has ended.

    Otherwise a rename could happen after its caller has cleaned up.
    """

    def run() -> T:
        with translated_errors(doing):
            return work()

    return await uninterrupted(asyncio.to_thread(run))


class LocalFiles:
    """The data folder as the services see it (see ``app.services.ports.Files``)."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder

    def free_bytes(self) -> int:
        with translated_errors("looking at free space"):
            found = os.statvfs(self._folder.root)
        return found.f_bavail * found.f_frsize

    def size(self, path: str) -> int | None:
        found = self._look(path)
        return found.st_size if found and stat.S_ISREG(found.st_mode) else None

    def modified_at(self, path: str) -> datetime | None:
        found = self._look(path)
        return datetime.fromtimestamp(found.st_mtime, UTC) if found else None

    def absolute(self, path: str) -> Path:
        found = self._folder.resolve(path)
        with translated_errors("looking at a file"), suppress(FileNotFoundError):
            # To open a pipe would wait for its other end, to open a device may do anything.
            kind = stat.S_IFMT(found.lstat().st_mode)
            if kind not in {stat.S_IFREG, stat.S_IFDIR}:
                raise StorageFailed("What lies in the place of a file is none.")
        return found

    def _look(self, path: str) -> os.stat_result | None:
        with translated_errors("looking at a file"):
            try:
                return self._folder.look(path)
            except NotADirectoryError:
                return None

    async def read_head(self, path: str, size_bytes: int) -> bytes:
        return await in_thread("reading a file", lambda: self._read_head(path, size_bytes))

    def _read_head(self, path: str, size_bytes: int) -> bytes:
        try:
            descriptor = os.open(self.absolute(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        with os.fdopen(descriptor, "rb") as file:
            return file.read(size_bytes)

    async def delete(self, path: str) -> int:
        return await in_thread("deleting", lambda: self._delete(path))

    def _delete(self, path: str) -> int:
        try:
            return self._folder.delete(path)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "an unknown error")
            todo = _TO_DO.get(error.errno or 0, "look at the disk and the system's log")
            msg = f"It cannot be deleted ({name}): {todo}. It is tried again by itself."
            raise StorageFailed(msg) from error

    async def make_scratch(self, job_id: str, attempt: int, links: Mapping[str, str]) -> Path:
        return await in_thread(
            "making a work folder", lambda: self._make_scratch(job_id, attempt, links)
        )

    def _make_scratch(self, job_id: str, attempt: int, links: Mapping[str, str]) -> Path:
        if not is_id(job_id) or attempt < 0:
            raise StorageFailed("A work folder is named by a job and an attempt.")
        path = scratch_path(job_id, attempt)
        self._folder.delete(path)
        folder = self._make_folder(path)
        try:
            for name, source in links.items():
                self._link(name, source, f"{path}/{name}")
        except BaseException:
            self._folder.delete(path)
            raise
        return folder

    def _make_folder(self, path: str) -> Path:
        folder = self._folder.resolve(path)
        for _ in range(_TRIES - 1):
            # Whoever deletes an earlier attempt takes the job's folder along when it is empty.
            with suppress(FileNotFoundError):
                folder.parent.mkdir(mode=0o700, exist_ok=True)
                folder.mkdir(mode=0o700)
                return folder
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700)
        return folder

    def _link(self, name: str, source: str, target: str) -> None:
        if "/" in name:
            raise StorageFailed("An input's name is no path.")
        with (
            self._folder.open_parent(source) as (source_folder, source_name),
            self._folder.open_parent(target) as (target_folder, target_name),
        ):
            try:
                found = os.stat(source_name, dir_fd=source_folder, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode):
                    raise StorageFailed("An input is not a regular file.")
                os.link(
                    source_name,
                    target_name,
                    src_dir_fd=source_folder,
                    dst_dir_fd=target_folder,
                    follow_symlinks=False,
                )
            except FileNotFoundError as error:
                raise InputsDeleted(extra={"inputs": [name]}) from error

    async def publish(self, source: Path, output_id: str) -> None:
        await in_thread("publishing an output", lambda: self._publish(source, output_id))

    def _publish(self, source: Path, output_id: str) -> None:
        relative = self._folder.relative(source)
        if split_path(relative)[0] != WORK or not is_id(output_id):
            raise StorageFailed("Only a work file can be published, under an output's id.")
        with (
            self._folder.open_parent(relative) as (work, name),
            self._folder.open_parent(output_path(output_id)) as (outputs, target),
        ):
            _sync_regular(work, name)
            os.rename(name, target, src_dir_fd=work, dst_dir_fd=outputs)
            os.fsync(outputs)
            os.fsync(work)

    async def keep_clip(self, source: Path, clip_id: str) -> int:
        return await in_thread("keeping a clip", lambda: self._keep_clip(source, clip_id))

    def _keep_clip(self, source: Path, clip_id: str) -> int:
        relative = self._folder.relative(source)
        if split_path(relative)[0] != WORK or not is_id(clip_id):
            raise StorageFailed("Only a work file can be kept, under an id of its own.")
        with (
            self._folder.open_parent(relative) as (work, name),
            self._folder.open_parent(kept_clip_path(clip_id)) as (cache, target),
        ):
            size_bytes = _sync_regular(work, name)
            os.link(name, target, src_dir_fd=work, dst_dir_fd=cache, follow_symlinks=False)
            os.fsync(cache)
            return size_bytes

    async def take_clip(self, clip_id: str, size_bytes: int, target: Path) -> bool:
        return await in_thread(
            "taking a kept clip", lambda: self._take_clip(clip_id, size_bytes, target)
        )

    def _take_clip(self, clip_id: str, size_bytes: int, target: Path) -> bool:
        relative = self._folder.relative(target)
        with (
            self._folder.open_parent(kept_clip_path(clip_id)) as (cache, source),
            self._folder.open_parent(relative) as (work, name),
        ):
            try:
                found = os.stat(source, dir_fd=cache, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode) or found.st_size != size_bytes:
                    return False
                os.link(source, name, src_dir_fd=cache, dst_dir_fd=work, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return True

    async def list_work(self) -> list[WorkEntry]:
        return await in_thread("listing work folders", self._list_work)

    def _list_work(self) -> list[WorkEntry]:
        found: list[WorkEntry] = []
        for owner, status in self._entries(WORK):
            inside: list[tuple[str, os.stat_result]] = []
            if stat.S_ISDIR(status.st_mode) and is_id(owner):
                with suppress(StorageFailed, OSError):  # a mount, say: then it is one thing
                    inside = self._entries(f"{WORK}/{owner}")
            found += [_work_entry(owner, name, each) for name, each in inside]
            if not inside:
                found.append(_work_entry(owner, None, status))
        return found

    def _entries(self, path: str) -> list[tuple[str, os.stat_result]]:
        """Return what a folder holds, by name; nothing when it is gone. Follows no link."""
        found = []
        with suppress(FileNotFoundError), self._folder.open_folder(path) as folder:
            for name in sorted(os.listdir(folder)):  # noqa: PTH208  by descriptor, never by path
                with suppress(FileNotFoundError):
                    found.append((name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
        return found

    async def usage(self) -> list[Usage]:
        return await in_thread("measuring the data folder", self._usage)

    def _usage(self) -> list[Usage]:
        counts = dict.fromkeys(_KINDS, 0)
        sizes = dict.fromkeys(_KINDS, 0)
        for kind, found in _walk(self._folder.root):
            counts[kind] += 1
            # A hard link in work/ is an upload's or a kept clip's: its bytes are there only once.
            sizes[kind] += 0 if kind == WORK and found.st_nlink > 1 else found.st_size
        return [Usage(kind, counts[kind], sizes[kind]) for kind in _KINDS]

    async def check_writable(self) -> None:
        await in_thread("writing a test byte", self._check_writable)

    def _check_writable(self) -> None:
        path = f"{RUN}/writable"
        found = self._look(path)
        if found is not None and not stat.S_ISREG(found.st_mode):
            self._folder.delete(path)  # a link or a pipe that somebody put there
        with self._folder.open_parent(path) as (run, name):
            # Not blocking: to open a pipe would wait for its other end.
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o600, dir_fd=run)
            try:
                os.write(descriptor, b"\n")
            finally:
                os.close(descriptor)
        self._folder.delete(path)


def _sync_regular(folder: int, name: str) -> int:
    """Make a finished file's bytes durable; returns its length. Raises ``StorageFailed``."""
    # Not blocking: to open a pipe would wait for its other end.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise StorageFailed("What a step made is not a regular file.")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return found.st_size


def _work_entry(owner: str, name: str | None, status: os.stat_result) -> WorkEntry:
    changed_at = datetime.fromtimestamp(status.st_mtime, UTC)
    return WorkEntry(owner, name, stat.S_ISDIR(status.st_mode), changed_at)


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the kind and status of everything below ``root`` that is no folder; follows no link."""
    for folder, _, names in os.walk(root):
        below = Path(folder).relative_to(root).parts
        for name in names:
            try:
                found = os.lstat(Path(folder) / name)
            except FileNotFoundError:
                continue  # gone while we looked
            yield _kind(below[0] if below else None, name), found


def _kind(top: str | None, name: str) -> str:
    if top in {UPLOADS, WORK, OUTPUTS, CACHE}:
        return str(top)
    if top == RUN or (top is None and name == MARKER) or top == "lost+found":
        return "system"
    if top is None and (name == DATABASE or name.startswith(f"{DATABASE}-")):
        return "database"
    return "other"
