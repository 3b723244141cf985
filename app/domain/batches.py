"""A batch: completed uploads that belong together. Its status is derived from its jobs."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.domain.jobs import JobStatus


class BatchStatus(StrEnum):
    READY = "ready"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    PARTIALLY_FAILED = "partially_failed"


@dataclass(frozen=True, slots=True)
class Batch:
    """The row of one batch. ``expires_at`` slides with use and takes inputs only.

    ``keep_inputs_hours``: how long its files stay after the last job that used them has completed;
    None leaves that to the settings (see ``app.domain.holds``).
    """

    id: str
    owner: str
    session_id: str
    created_at: datetime
    expires_at: datetime
    keep_inputs_hours: float | None


def derive_status(jobs: Iterable[JobStatus]) -> BatchStatus:
    """Return a batch's status from its jobs: active ones first, then success against failure.

    A cancelled job is neither success nor failure; a batch of only cancelled jobs is ready again.
    """
    seen = set(jobs) - {JobStatus.CANCELLED}
    if seen & {JobStatus.QUEUED, JobStatus.PROCESSING}:
        return BatchStatus.PROCESSING
    if seen == {JobStatus.COMPLETED}:
        return BatchStatus.COMPLETED
    if seen == {JobStatus.FAILED}:
        return BatchStatus.FAILED
    return BatchStatus.PARTIALLY_FAILED if seen else BatchStatus.READY
