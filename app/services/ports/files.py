"""The data folder: what lies in it, and what is made and deleted there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from app.domain.layout import WORK
from app.services.ports.upload_bytes import UploadWriter


@dataclass(frozen=True, slots=True)
class WorkEntry:
    """Something found in ``work/``: what lies there itself, or inside a folder named by an id.

    ``owner`` is the name of the first level, ``name`` that of the second: None where the entry is
    the first level itself, because it is empty or no folder with an id's name. ``is_folder`` is
    false for links, also for those to folders.
    """

    owner: str
    name: str | None
    is_folder: bool
    changed_at: datetime

    @property
    def path(self) -> str:
        return f"{WORK}/{self.owner}" if self.name is None else f"{WORK}/{self.owner}/{self.name}"


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes on disk of one kind: uploads, work, outputs, cache, database, system, other."""

    kind: str
    count: int
    size_bytes: int


class Files(Protocol):
    """The data folder. Paths are relative to it (``app.domain.layout``).

    Blocking work goes to threads inside. Raises ``NoSpace`` on ENOSPC and EDQUOT, ``StorageFailed``
    on any other error of the disk.
    """

    def free_bytes(self) -> int: ...

    def size(self, path: str) -> int | None:
        """Length of a regular file, None when it is not there."""
        ...

    def modified_at(self, path: str) -> datetime | None:
        """When a file or folder last changed by the disk's clock, None when it is not there."""
        ...

    def absolute(self, path: str) -> Path:
        """The checked absolute path of a file below the folder."""
        ...

    async def read_head(self, path: str, size_bytes: int) -> bytes:
        """Return the first bytes of a file, at most ``size_bytes``; b"" when it is not there."""
        ...

    async def delete(self, path: str) -> int:
        """The one deletion: file or folder, never following a link. Returns bytes verified gone."""
        ...

    async def make_scratch(self, job_id: str, attempt: int, links: Mapping[str, str]) -> Path:
        """Make an empty attempt folder holding hard links: name -> relative path of a kept file."""
        ...

    async def publish(self, source: Path, output_id: str) -> None:
        """Sync a finished scratch file, rename it to its output path, sync the folder."""
        ...

    async def keep_clip(self, source: Path, clip_id: str) -> int:
        """Sync a finished scratch file and hard-link it to its kept path; returns its length."""
        ...

    async def take_clip(self, clip_id: str, size_bytes: int, target: Path) -> bool:
        """Hard-link a kept clip into a work folder, as ``target``, which must not be there yet.

        False, and nothing is linked, when there is no regular file of exactly that length.
        """
        ...

    async def list_work(self) -> list[WorkEntry]:
        """Everything in ``work/``, two levels deep, in the order of its names."""
        ...

    async def usage(self) -> list[Usage]: ...

    async def check_writable(self) -> None:
        """Prove that a byte can be written and removed, for readiness."""
        ...


class WorkFiles(Protocol):
    """Files that a request brings before they are anybody's: below its own folder in ``work/``
    (``layout.request_path``), which ``Files.delete`` removes.

    Raises ``NoSpace`` and ``StorageFailed`` like ``Files``.
    """

    async def open(self, folder: str, name: str) -> UploadWriter:
        """Make an empty file to write, and its folder if it is the first one there."""
        ...

    async def sync(self, paths: Sequence[str]) -> None:
        """Make the bytes of whole files durable, unless nothing ever is (``FsyncMode.OFF``)."""
        ...

    async def move(self, uploads: Mapping[str, str]) -> None:
        """Make files the data files of uploads: path -> upload id, one rename each, made durable.

        Stops at the first that fails; those before it have moved.
        """
        ...


@dataclass(frozen=True, slots=True)
class Digest:
    """What a finished file is: its exact length in bytes and its SHA-256 in hex."""

    size_bytes: int
    sha256: str


class Digests(Protocol):
    async def of(self, path: Path) -> Digest:
        """Read a finished scratch file once, in a thread. Raises ``StorageFailed``."""
        ...
