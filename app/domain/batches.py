"""A batch: completed uploads that belong together. Its status is derived from its jobs."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.domain.jobs import JobStatus
from app.domain.tombstones import Reason, Tombstone


class BatchStatus(StrEnum):
    """``ready``: files are there and a job may begin. ``spent``: no file is left, and of how its jobs
    ended nothing is known any more.
    """

    READY = "ready"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    PARTIALLY_FAILED = "partially_failed"
    SPENT = "spent"


@dataclass(frozen=True, slots=True)
class Batch:
    """The row of one batch. ``expires_at`` takes inputs only; it ``slides`` with use, unless its
    client has put it somewhere: then only what is promised to jobs moves it on.

    ``keep_inputs_hours``: how long its files stay after the last job that used them has completed;
    None leaves that to the settings (see ``app.domain.holds``).
    """

    id: str
    owner: str
    session_id: str
    created_at: datetime
    expires_at: datetime
    keep_inputs_hours: float | None
    slides: bool = True


def derive_status(jobs: Iterable[JobStatus], *, has_files: bool = True) -> BatchStatus:
    """Return a batch's status from its jobs: active ones first, then success against failure.

    A cancelled job is neither success nor failure; a batch of only cancelled jobs is ready again, as
    long as it has files.
    """
    seen = set(jobs) - {JobStatus.CANCELLED}
    if seen & {JobStatus.QUEUED, JobStatus.PROCESSING}:
        return BatchStatus.PROCESSING
    if seen == {JobStatus.COMPLETED}:
        return BatchStatus.COMPLETED
    if seen == {JobStatus.FAILED}:
        return BatchStatus.FAILED
    if seen:
        return BatchStatus.PARTIALLY_FAILED
    return BatchStatus.READY if has_files else BatchStatus.SPENT


def ended_as(tombstone: Tombstone) -> JobStatus | None:
    """Return how a job that retention took had ended; None where its tombstone does not tell."""
    if tombstone.reason is Reason.RETENTION_COMPLETED:
        return JobStatus.COMPLETED
    if tombstone.reason is Reason.RETENTION_FAILED:
        return JobStatus.FAILED if tombstone.error_code else JobStatus.CANCELLED
    return None
