"""Batches as clients make and see them."""

from datetime import datetime
from typing import Any

from pydantic import Field

from app.api.schemas.base import (
    EXAMPLE_BATCH,
    EXAMPLE_JOB,
    EXAMPLE_SESSION,
    EXAMPLE_UPLOAD,
    In,
    Out,
    SessionRef,
)
from app.domain.batches import BatchStatus
from app.domain.jobs import Job, JobStatus
from app.domain.tombstones import Reason
from app.domain.uploads import Upload
from app.services.batches import BatchView


class NewBatch(In):
    """The session that is to become a batch."""

    session_id: SessionRef


class BatchFileOut(Out):
    """A file of the batch that is still kept."""

    id: str = Field(examples=[EXAMPLE_UPLOAD])
    filename: str = Field(examples=["clip.mp4"])
    media_type: str = Field(examples=["video/mp4"])
    size_bytes: int = Field(examples=[73400320])
    sha256: str | None = Field(description="Null until it is known.")
    media: dict[str, Any] | None = Field(description="What a probe found; null until first needed.")


class DeletedFileOut(Out):
    """A file of the batch that is not kept any more, and why."""

    id: str = Field(examples=[EXAMPLE_UPLOAD])
    reason: Reason = Field(examples=["spent"])
    deleted_at: datetime


class BatchJobOut(Out):
    id: str = Field(examples=[EXAMPLE_JOB])
    operation: str = Field(examples=["trim"])
    status: JobStatus


class BatchOut(Out):
    """Completed uploads that belong together; the status is derived from the jobs."""

    id: str = Field(examples=[EXAMPLE_BATCH])
    session_id: str = Field(examples=[EXAMPLE_SESSION])
    status: BatchStatus
    files: list[BatchFileOut] = Field(description="In the order of the batch.")
    deleted_files: list[DeletedFileOut]
    jobs: list[BatchJobOut]
    created_at: datetime
    expires_at: datetime = Field(description="Slides with use.")


class BatchList(Out):
    items: list[BatchOut]
    next: str | None = Field(description="Pass as `cursor` for the next page; null: no more.")


def batch_out(view: BatchView) -> BatchOut:
    batch = view.batch
    return BatchOut(
        id=batch.id,
        session_id=batch.session_id,
        status=view.status,
        files=[_file(upload) for upload in view.files],
        deleted_files=[
            DeletedFileOut(id=t.id, reason=t.reason, deleted_at=t.deleted_at)
            for t in view.deleted_files
        ],
        jobs=[_job(job) for job in view.jobs],
        created_at=batch.created_at,
        expires_at=batch.expires_at,
    )


def _file(upload: Upload) -> BatchFileOut:
    return BatchFileOut(
        id=upload.id,
        filename=upload.filename,
        media_type=upload.media_type,
        size_bytes=upload.length or 0,
        sha256=upload.sha256,
        media=upload.media,
    )


def _job(job: Job) -> BatchJobOut:
    return BatchJobOut(id=job.id, operation=job.operation, status=job.status)
