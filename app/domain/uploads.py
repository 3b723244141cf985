"""An upload: one file arriving by tus. Its row, its states and the rules of its life."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class UploadStatus(StrEnum):
    """receiving -> completed; a row that ends otherwise becomes a tombstone."""

    RECEIVING = "receiving"
    COMPLETED = "completed"


class UploadKind(StrEnum):
    """A file by itself; a part of one; or a file put together of parts (tus: concatenation).

    A part belongs to its owner and to no session, and completes nothing: its final does.
    """

    FILE = "file"
    PARTIAL = "partial"
    FINAL = "final"


PARTIAL = UploadKind.PARTIAL.value
"""What Upload-Concat says of every part."""


class FsyncMode(StrEnum):
    """When bytes are made durable: at the end of each PATCH, at completion, or never."""

    PATCH = "patch"
    COMPLETE = "complete"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class UploadPolicy:
    """Limits and times of uploads. Sizes in bytes."""

    max_upload_bytes: int
    metadata_max_bytes: int
    expires_after: timedelta
    expires_cap: timedelta
    read_timeout_seconds: float
    lock_wait_seconds: float
    reserve_bytes: int


@dataclass(frozen=True, slots=True)
class UploadMetadata:
    """What a client said of its file.

    ``raw`` is the Upload-Metadata header byte for byte (latin-1 text), echoed by HEAD. The parsed
    fields are data only: never a path, never an unescaped header.
    """

    raw: str = ""
    filename: str | None = None
    media_type: str | None = None
    session_id: str | None = None
    order: int | None = None
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Upload:
    """The row of one upload. ``length`` is None while deferred; the offset is the file's length.

    ``recorded_offset`` is the offset when the row was last touched: a lower bound, used for space
    and after an unclean boot of the machine (``synced_offset``, ``boot_id``), never told to clients.
    ``media`` is what a probe learned (see ``app.domain.media``), None until first needed.
    ``session_id`` is None for a part. ``concat`` is the Upload-Concat header as it came, ``parts`` the
    ids that a final is made of, in order. ``verified_offset`` is set while a body whose checksum is
    not known to be right is being stored: only so many bytes count until it is.
    """

    id: str
    owner: str
    session_id: str | None
    batch_id: str | None
    status: UploadStatus
    length: int | None
    recorded_offset: int
    synced_offset: int
    boot_id: str
    metadata: UploadMetadata
    media: dict[str, Any] | None
    sha256: str | None
    created_at: datetime
    active_at: datetime
    completed_at: datetime | None
    expires_at: datetime
    spent_at: datetime | None
    kind: UploadKind = UploadKind.FILE
    concat: str | None = None
    parts: tuple[str, ...] = ()
    verified_offset: int | None = None

    @property
    def filename(self) -> str:
        """A name to show: the client's, else the id."""
        return self.metadata.filename or self.id

    @property
    def media_type(self) -> str:
        return self.metadata.media_type or "application/octet-stream"


def slide_expiry(upload: Upload, now: datetime, policy: UploadPolicy) -> datetime:
    """Return the new expiry after activity at ``now``: it slides, up to the absolute cap."""
    return max(
        upload.expires_at, min(now + policy.expires_after, upload.created_at + policy.expires_cap)
    )


def complete(upload: Upload, now: datetime) -> Upload:
    """Return the upload as completed. Its length must be known; the caller saw that many bytes."""
    if upload.length is None:
        msg = "an upload of unknown length cannot be complete"
        raise ValueError(msg)
    return replace(
        upload,
        status=UploadStatus.COMPLETED,
        recorded_offset=upload.length,
        completed_at=now,
        active_at=now,
    )


def trusted_offset(upload: Upload, size: int, boot_id: str, mode: FsyncMode) -> int:
    """Return how many of a file's ``size`` bytes count.

    All of them, unless the machine was booted since the row was last written: then a page that was
    never written back may read as zeros, and only what was synced is certain. And never what a body
    has brought whose checksum has not been found right.
    """
    if upload.verified_offset is not None:
        size = min(size, upload.verified_offset)
    if upload.boot_id == boot_id or mode is FsyncMode.OFF:
        return size
    return min(size, upload.synced_offset)
