"""What services tell of uploads, and what there is to tell of those that are gone."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from app.domain.batches import Batch
from app.domain.errors import AppError, UploadGone, UploadInBatch, UploadIsFinal, UploadNotFound
from app.domain.tombstones import BY_RETENTION, Reason, ThingKind, Tombstone
from app.domain.uploads import Upload, UploadKind, UploadMetadata, UploadStatus, trusted_offset
from app.services.absence import absent, as_gone
from app.services.completion import Completion, then_jobs_of
from app.services.ports import Transaction, UploadBytes


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What a creation asks for. ``length`` in bytes, None while deferred; ``concat`` and ``parts`` as
    in ``Upload``.
    """

    owner: str
    length: int | None
    metadata: UploadMetadata
    kind: UploadKind = UploadKind.FILE
    concat: str | None = None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UploadView:
    """An upload as ``GET /api/v1/uploads/{id}`` tells it. ``offset`` and ``length`` in bytes;
    ``expires_at`` is the batch's once there is one, and None between completion and batch. A part of
    a file has no session.
    """

    id: str
    session_id: str | None
    batch_id: str | None
    status: UploadStatus
    offset: int
    length: int | None
    filename: str
    media_type: str
    metadata: dict[str, str]
    sha256: str | None
    created_at: datetime
    completed_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class TusState:
    """What HEAD tells. ``metadata`` is the header as it came, None once retention took the upload;
    ``completion`` is None while it is unfinished and for parts, ``expires_at`` after that. ``offset``
    is None for a final that is not put together yet; ``concat`` is the header as it came.
    """

    offset: int | None
    length: int | None
    metadata: str | None = None
    expires_at: datetime | None = None
    completion: Completion | None = None
    concat: str | None = None


@dataclass(frozen=True, slots=True)
class Download:
    """A complete upload whose bytes are kept."""

    upload: Upload
    path: Path
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class FoundUpload:
    """The owner's row, or what is kept of it, with the jobs that its batch began with. ``final``: of a
    part that went into its final, what there is of that.
    """

    upload: Upload | None
    tombstone: Tombstone | None
    job_ids: tuple[str, ...] = ()
    final: Upload | Tombstone | None = None


def find_upload(tx: Transaction, owner: str, upload_id: str) -> FoundUpload:
    """Return what there is of an upload; another owner's is as if it never was."""
    upload = tx.uploads.find(upload_id)
    if upload is not None:
        mine = upload if upload.owner == owner else None
        batch_id = mine.batch_id if mine else None
        return FoundUpload(mine, None, then_jobs_of(tx, batch_id) if batch_id else ())
    tombstone = tx.tombstones.find(ThingKind.UPLOAD, upload_id)
    if tombstone is None or tombstone.owner != owner:
        return FoundUpload(None, None)
    if tombstone.reason is Reason.CONCATENATED and tombstone.parent_id is not None:
        final_id = tombstone.parent_id
        final = tx.uploads.find(final_id) or tx.tombstones.find(ThingKind.UPLOAD, final_id)
        return FoundUpload(None, tombstone, final=final)
    batch_id = tombstone.parent_id if tombstone.reason in BY_RETENTION else None
    return FoundUpload(None, tombstone, then_jobs_of(tx, batch_id) if batch_id else ())


def still_told(tombstone: Tombstone, now: datetime, expires_after: timedelta) -> bool:
    """Whether HEAD still answers for a completed upload that retention took: a client may have lost
    the last response.
    """
    if tombstone.completed_at is None or tombstone.reason not in BY_RETENTION:
        return False
    return now < tombstone.completed_at + expires_after


def find_with_batch(tx: Transaction, owner: str, upload_id: str) -> tuple[Upload, Batch | None]:
    """Return the row and its batch. Raises UploadNotFound, UploadGone."""
    upload = tx.uploads.find(upload_id)
    if upload is None or upload.owner != owner:
        errors = (UploadNotFound, UploadGone)
        raise absent(tx, ThingKind.UPLOAD, upload_id, owner, errors)
    return upload, tx.batches.find(upload.batch_id) if upload.batch_id else None


def offset_of(upload: Upload, store: UploadBytes) -> int:
    """Return how many bytes are there: while it is receiving, what its file has and can be trusted."""
    if upload.status is UploadStatus.COMPLETED:
        return upload.length or 0
    return trusted_offset(upload, store.size(upload.id), store.boot_id, store.fsync)


def view_of(upload: Upload, batch: Batch | None, store: UploadBytes) -> UploadView:
    """Return what is told of an upload, with the bytes that are there now."""
    kept_until = batch.expires_at if batch else None
    return UploadView(
        id=upload.id,
        session_id=upload.session_id,
        batch_id=upload.batch_id,
        status=upload.status,
        offset=offset_of(upload, store),
        length=upload.length,
        filename=upload.filename,
        media_type=upload.media_type,
        metadata=dict(upload.metadata.fields),
        sha256=upload.sha256,
        created_at=upload.created_at,
        completed_at=upload.completed_at,
        expires_at=upload.expires_at if upload.status is UploadStatus.RECEIVING else kept_until,
    )


def gone_for_tus(tombstone: Tombstone | None) -> AppError:
    """Say 404 of what never was or the client asked to forget, 410 of the rest."""
    if tombstone is None or tombstone.reason is Reason.TERMINATED:
        return UploadNotFound("There is no such upload.")
    return as_gone(tombstone, UploadGone)


def refuse_final(upload: Upload) -> None:
    """Raise UploadIsFinal for an upload to which no bytes can be sent."""
    if upload.kind is UploadKind.FINAL:
        raise UploadIsFinal("The upload is made of its parts; no bytes can be sent to it.")


def refuse_in_batch(upload: Upload) -> None:
    """Raise UploadInBatch for an upload that can no longer be terminated."""
    if upload.batch_id is not None:
        extra: dict[str, Any] = {"batch_id": upload.batch_id}
        raise UploadInBatch("The upload belongs to a batch; delete the batch instead.", extra=extra)
