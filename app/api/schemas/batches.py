"""Batches as clients make and see them."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.api.schemas.base import (
    EXAMPLE_BATCH,
    EXAMPLE_JOB,
    EXAMPLE_SESSION,
    EXAMPLE_UPLOAD,
    In,
    Out,
    SessionRef,
)
from app.api.schemas.expiry import Expiry, left_out
from app.api.schemas.sessions import KeepInputsHours
from app.domain.batches import BatchStatus
from app.domain.jobs import Job, JobStatus
from app.domain.tombstones import Reason
from app.domain.uploads import Upload
from app.services.batches import BatchChange, BatchView


class NewBatch(In):
    """The session that is to become a batch."""

    session_id: SessionRef
    only_completed: Annotated[
        bool,
        Field(
            strict=True,
            description="Take the uploads that are complete and end the others; else unfinished ones"
            " stand in the way.",
        ),
    ] = False


class ChangedBatch(In):
    """What is to be moved, at least one of them."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    expires_at: Expiry = Field(default_factory=left_out)
    keep_inputs_hours: KeepInputsHours = None

    @model_validator(mode="after")
    def _check_given(self) -> Self:
        if not self.model_fields_set:
            allowed = {"allowed": sorted(type(self).model_fields)}
            raise PydanticCustomError("nothing_given", "Nothing is to be changed", allowed)
        return self

    def to_domain(self) -> BatchChange:
        given = self.model_fields_set
        return BatchChange(
            expires_at=self.expires_at if "expires_at" in given else None,
            moves_holds="keep_inputs_hours" in given,
            keep_inputs_hours=self.keep_inputs_hours,
        )


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
    status: BatchStatus = Field(
        description="`ready`: a job may begin. `spent`: no file is left, and how its jobs ended is not"
        " known any more."
    )
    files: list[BatchFileOut] = Field(description="In the order of the batch.")
    deleted_files: list[DeletedFileOut]
    jobs: list[BatchJobOut]
    keep_inputs_hours: float | None = Field(
        description="How long files stay after the last job that used them has completed; null: as"
        " the service is set."
    )
    created_at: datetime
    expires_at: datetime = Field(description="Slides with use, unless it was moved by a client.")


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
        keep_inputs_hours=batch.keep_inputs_hours,
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
