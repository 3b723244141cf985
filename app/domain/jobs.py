"""A job: one operation on named inputs, with attempts and a lease. Row, states, transitions.

queued --claim--> processing --finish (fenced)--> completed | failed
  ^  |               |   |-- timeout ----------> failed "timeout"
  |  |               |   '-- cancel_requested -> cancelled
  |  '-- cancel -----|-------------------------> cancelled
  '-- attempt+1 -- heartbeat stale, attempts left;  none left -> failed "worker_lost"
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class JobStatus(StrEnum):
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_active(self) -> bool:
        """Queued or processing: the job holds its inputs and cannot be deleted."""
        return self in ACTIVE


ACTIVE = frozenset({JobStatus.QUEUED, JobStatus.PROCESSING})
RETRYABLE = frozenset({JobStatus.FAILED, JobStatus.CANCELLED})
RETRY_PRIORITY_STEP = 10
"""A re-queued job goes before new ones of the same priority."""


class InputRole(StrEnum):
    CLIP = "clip"
    IMAGE = "image"
    LOGO = "logo"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """Limits of jobs. Times in seconds unless typed otherwise."""

    queue_limit: int
    timeout_seconds: float
    timeout_max_seconds: float
    stall_seconds: float
    heartbeat_seconds: float
    lease_seconds: float
    max_attempts: int
    queued_ttl: timedelta
    completed_ttl: timedelta
    failed_ttl: timedelta


@dataclass(frozen=True, slots=True)
class JobInput:
    """One input by id: exactly one of ``upload_id`` and ``output_id``."""

    role: InputRole
    upload_id: str | None = None
    output_id: str | None = None
    order: int = 0


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: ``code`` from the catalogue, ``message`` for people, ``detail`` for both."""

    code: str
    message: str
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """The row of one job. ``progress`` is 0..100, ``version`` counts the row's writes.

    ``one_time``: each of its outputs goes once it was delivered. ``output_name``: what its one output
    is to be called, None for what the operation calls it.
    """

    id: str
    owner: str
    batch_id: str | None
    operation: str
    params: dict[str, Any]
    inputs: tuple[JobInput, ...]
    status: JobStatus
    priority: int
    attempt: int
    max_attempts: int
    timeout_seconds: float
    from_then: bool
    one_time: bool
    worker: str | None
    cancel_requested: bool
    progress: float
    stage: str | None
    warnings: tuple[str, ...]
    result: dict[str, Any] | None
    error: JobError | None
    created_at: datetime
    dispatched_at: datetime | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    deadline_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None
    version: int
    output_name: str | None = None


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a request or a session's ``then`` asks for. ``timeout_seconds`` None: the default."""

    operation: str
    params: dict[str, Any]
    inputs: tuple[JobInput, ...]
    batch_id: str | None = None
    priority: int = 0
    timeout_seconds: float | None = None
    from_then: bool = False
    one_time: bool = False
    output_name: str | None = None


@dataclass(frozen=True, slots=True)
class Fence:
    """What a worker must still hold for its writes to count."""

    job_id: str
    attempt: int
    worker: str

    def is_held(self, job: Job) -> bool:
        """Whether the row still belongs to this attempt of this worker."""
        return (
            job.id == self.job_id
            and job.attempt == self.attempt
            and job.worker == self.worker
            and job.status is JobStatus.PROCESSING
        )


def queue(new: NewJob, job_id: str, owner: str, now: datetime, policy: JobPolicy) -> Job:
    """Return the queued job for ``new``: first attempt, nothing dispatched yet."""
    return Job(
        id=job_id,
        owner=owner,
        batch_id=new.batch_id,
        operation=new.operation,
        params=new.params,
        inputs=new.inputs,
        status=JobStatus.QUEUED,
        priority=new.priority,
        attempt=1,
        max_attempts=policy.max_attempts,
        timeout_seconds=min(
            new.timeout_seconds or policy.timeout_seconds, policy.timeout_max_seconds
        ),
        from_then=new.from_then,
        one_time=new.one_time,
        worker=None,
        cancel_requested=False,
        progress=0.0,
        stage=None,
        warnings=(),
        result=None,
        error=None,
        created_at=now,
        dispatched_at=None,
        started_at=None,
        heartbeat_at=None,
        deadline_at=None,
        completed_at=None,
        expires_at=None,
        version=1,
        output_name=new.output_name,
    )


def is_stale(job: Job, now: datetime, policy: JobPolicy) -> bool:
    """Whether a processing job's worker is silent: no heartbeat for the length of a lease."""
    if job.status is not JobStatus.PROCESSING or job.heartbeat_at is None:
        return False
    return now - job.heartbeat_at > timedelta(seconds=policy.lease_seconds)


def requeue(job: Job, *, uses_attempt: bool) -> Job:
    """Return a processing job handed back to the queue, before the others.

    ``attempt`` always moves on, since it is the fence; a graceful hand-back raises the maximum with
    it, so that it uses up nothing.
    """
    return replace(
        job,
        status=JobStatus.QUEUED,
        attempt=job.attempt + 1,
        max_attempts=job.max_attempts if uses_attempt else job.max_attempts + 1,
        priority=job.priority + RETRY_PRIORITY_STEP,
        worker=None,
        progress=0.0,
        stage=None,
        dispatched_at=None,
        started_at=None,
        heartbeat_at=None,
        deadline_at=None,
    )


def retry(job: Job, policy: JobPolicy) -> Job:
    """Return a failed or cancelled job queued again with attempts anew.

    ``attempt`` moves on, since it is the fence; the maximum moves with it.
    """
    if job.status not in RETRYABLE:
        msg = f"a job that is {job.status} cannot be tried again"
        raise ValueError(msg)
    return replace(
        requeue(job, uses_attempt=True),
        max_attempts=job.attempt + policy.max_attempts,
        priority=job.priority,
        cancel_requested=False,
        warnings=(),
        result=None,
        error=None,
        completed_at=None,
        expires_at=None,
    )


def expiry_after(status: JobStatus, ended_at: datetime, policy: JobPolicy) -> datetime:
    """Return when a job that ended with ``status`` leaves with its outputs."""
    ttl = policy.completed_ttl if status is JobStatus.COMPLETED else policy.failed_ttl
    return ended_at + ttl


def finish(
    job: Job,
    status: JobStatus,
    now: datetime,
    policy: JobPolicy,
    *,
    error: JobError | None = None,
    result: dict[str, Any] | None = None,
) -> Job:
    """Return the job ended with ``status`` at ``now``; only active jobs can end."""
    if not job.status.is_active or status.is_active:
        msg = f"a job that is {job.status} cannot become {status}"
        raise ValueError(msg)
    return replace(
        job,
        status=status,
        worker=None,
        progress=100.0 if status is JobStatus.COMPLETED else job.progress,
        stage=None,
        error=error,
        result=result,
        completed_at=now,
        deadline_at=None,
        expires_at=expiry_after(status, now, policy),
    )
