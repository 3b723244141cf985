"""Bytes on a local disk: the Files port over one data folder."""

import asyncio
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from app.domain.errors import InputsDeleted, NoSpace, StorageFailed
from app.domain.ids import is_id
from app.domain.layout import (
    DATABASE,
    MARKER,
    OUTPUTS,
    RUN,
    UPLOADS,
    WORK,
    output_path,
    scratch_path,
)
from app.infrastructure.storage.paths import DataFolder, split_path
from app.services.cancellation import uninterrupted
from app.services.ports import Scratch, Usage

T = TypeVar("T")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TRIES = 5
_KINDS = (UPLOADS, WORK, OUTPUTS, "database", "system", "other")


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
        return self._folder.resolve(path)

    def _look(self, path: str) -> os.stat_result | None:
        with translated_errors("looking at a file"):
            try:
                return os.lstat(self._folder.root.joinpath(*split_path(path)))
            except (FileNotFoundError, NotADirectoryError):
                return None

    async def delete(self, path: str) -> int:
        return await in_thread("deleting", lambda: self._folder.delete(path))

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
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=work)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise StorageFailed("Only a regular file can be published.")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(name, target, src_dir_fd=work, dst_dir_fd=outputs)
            os.fsync(outputs)
            os.fsync(work)

    async def list_scratch(self) -> list[Scratch]:
        return await in_thread("listing work folders", self._list_scratch)

    def _list_scratch(self) -> list[Scratch]:
        found = []
        for job_id in _folder_names(self._folder.root / WORK):
            if is_id(job_id):
                found += [
                    Scratch(job_id, int(entry.name), scratch_path(job_id, int(entry.name)))
                    for entry in (self._folder.root / WORK / job_id).iterdir()
                    if re.fullmatch(r"0|[1-9][0-9]{0,8}", entry.name)
                ]
        return sorted(found, key=lambda scratch: (scratch.job_id, scratch.attempt))

    async def usage(self) -> list[Usage]:
        return await in_thread("measuring the data folder", self._usage)

    def _usage(self) -> list[Usage]:
        counts = dict.fromkeys(_KINDS, 0)
        sizes = dict.fromkeys(_KINDS, 0)
        for kind, found in _walk(self._folder.root):
            counts[kind] += 1
            # A hard-linked input in work/ is the upload's: its bytes are there only once.
            sizes[kind] += 0 if kind == WORK and found.st_nlink > 1 else found.st_size
        return [Usage(kind, counts[kind], sizes[kind]) for kind in _KINDS]

    async def check_writable(self) -> None:
        await in_thread("writing a test byte", self._check_writable)

    def _check_writable(self) -> None:
        with self._folder.open_parent(f"{RUN}/writable") as (run, name):
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o600, dir_fd=run)
            try:
                os.write(descriptor, b"\n")
            finally:
                os.close(descriptor)
        self._folder.delete(f"{RUN}/writable")


def _folder_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


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
    if top in {UPLOADS, WORK, OUTPUTS}:
        return str(top)
    if top == RUN or (top is None and name == MARKER) or top == "lost+found":
        return "system"
    if top is None and (name == DATABASE or name.startswith(f"{DATABASE}-")):
        return "database"
    return "other"
