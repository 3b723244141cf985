"""The life of jobs as semantics tells it, in plain Python: what must be, to hold the service against.

No row, no file and no thread: names, numbers and times. Every method takes the time as it is and
either changes the model or says which error the service must raise instead.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.domain.errors import (
    AppError,
    IdempotencyKeyReused,
    InputsDeleted,
    InvalidRequest,
    JobFinished,
    JobGone,
    JobRunning,
    QueueFull,
)
from app.domain.jobs import JobStatus
from app.domain.outputs import OutputStatus
from app.domain.tombstones import Reason, ThingKind

HOUR = timedelta(hours=1)
QUEUE_LIMIT = 3
ATTEMPTS = 2
LEASE = timedelta(seconds=15)
TIMEOUT = timedelta(seconds=60)
QUEUED_TTL = 5 * HOUR
COMPLETED_TTL = 2 * HOUR
FAILED_TTL = HOUR
KEEP_INPUTS = HOUR
MAX_TTL = 10 * HOUR

Refusal = type[AppError] | None
Thing = tuple[ThingKind, str]
ACTIVE = (JobStatus.QUEUED, JobStatus.PROCESSING)


@dataclass
class ModelUpload:
    id: str
    keep_hours: float | None
    spent_at: datetime | None = None


@dataclass
class ModelOutput:
    id: str
    attempt: int
    status: OutputStatus = OutputStatus.PUBLISHING
    expires_at: datetime | None = None


@dataclass
class ModelJob:
    id: str
    source: Thing
    created_at: datetime
    from_then: bool = False
    status: JobStatus = JobStatus.QUEUED
    attempt: int = 1
    max_attempts: int = ATTEMPTS
    worker: str | None = None
    cancel_requested: bool = False
    heartbeat_at: datetime | None = None
    deadline_at: datetime | None = None
    completed_at: datetime | None = None
    expires_at: datetime | None = None
    error: str | None = None
    output: ModelOutput | None = None

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE


@dataclass
class ModelAttempt:
    """What one worker has in hand; ``stage`` is claimed, working, announced, renamed or closed."""

    job_id: str
    attempt: int
    worker: str
    source: Thing
    stage: str = "claimed"
    has_folder: bool = False
    output_id: str | None = None


@dataclass
class Model:
    uploads: dict[str, ModelUpload] = field(default_factory=dict)
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    attempts: list[ModelAttempt] = field(default_factory=list)
    published: set[str] = field(default_factory=set)
    gone: dict[Thing, Reason] = field(default_factory=dict)
    keys: dict[str, tuple[Thing, str]] = field(default_factory=dict)

    # --- what clients ask ---

    def refuse_submit(self, source: Thing, key: str | None) -> tuple[Refusal, str | None]:
        """Return the error, or the id of the job that the same request made before."""
        if key in self.keys:
            asked, job_id = self.keys[key]
            if asked != source:
                return IdempotencyKeyReused, None
            return (None, job_id) if job_id in self.jobs else (JobGone, None)
        if not self.is_kept(source):
            return InputsDeleted, None
        return (QueueFull if self.queued() >= QUEUE_LIMIT else None), None

    def submit(self, job: ModelJob, key: str | None) -> None:
        self.jobs[job.id] = job
        if key is not None:
            self.keys[key] = (job.source, job.id)

    def cancel(self, job_id: str, now: datetime) -> Refusal:
        job = self.jobs.get(job_id)
        if job is None:
            return JobGone
        if job.status in {JobStatus.COMPLETED, JobStatus.FAILED}:
            return JobFinished
        job.cancel_requested = True
        if job.status is JobStatus.QUEUED:
            self._end(job, JobStatus.CANCELLED, now)
        return None

    def retry(self, job_id: str, now: datetime) -> Refusal:
        job = self.jobs.get(job_id)
        if job is None:
            return JobGone
        if job.status is JobStatus.COMPLETED:
            return JobFinished
        if job.is_active:
            return JobRunning
        if not self.is_kept(job.source):
            return InputsDeleted
        if self.queued() >= QUEUE_LIMIT:
            return QueueFull
        self._release(job)
        job.status, job.attempt = JobStatus.QUEUED, job.attempt + 1
        job.max_attempts = job.attempt - 1 + ATTEMPTS
        job.cancel_requested, job.error = False, None
        job.completed_at, job.expires_at = None, now + QUEUED_TTL
        return None

    def move(self, job_id: str, by: timedelta, now: datetime) -> Refusal:
        job = self.jobs.get(job_id)
        if job is None:
            return JobGone
        if job.is_active:
            return JobRunning
        if not timedelta() < by <= MAX_TTL:
            return InvalidRequest
        job.expires_at = now + by
        if job.output is not None:
            job.output.expires_at = now + by
        return None

    def delete(self, job_id: str, now: datetime, *, cancel: bool) -> Refusal:
        job = self.jobs.get(job_id)
        if job is None:
            return JobGone
        if cancel and job.is_active:
            self.cancel(job_id, now)
        if job.is_active or (job.output is not None and self.is_read(_output(job))):
            return JobRunning
        self._bury(job, Reason.JOB_DELETED)
        return None

    # --- what workers do ---

    def claim(self, job: ModelJob, attempt: int, worker: str, now: datetime) -> bool:
        if job.status is not JobStatus.QUEUED or job.attempt != attempt:
            return False
        job.status, job.worker = JobStatus.PROCESSING, worker
        job.heartbeat_at, job.deadline_at = now, now + TIMEOUT
        self.attempts.append(ModelAttempt(job.id, attempt, worker, job.source))
        return True

    def held(self, attempt: ModelAttempt) -> ModelJob | None:
        """Return the job while it is still this attempt's of this worker."""
        job = self.jobs.get(attempt.job_id)
        if job is None or job.status is not JobStatus.PROCESSING:
            return None
        is_mine = (job.attempt, job.worker) == (attempt.attempt, attempt.worker)
        return job if is_mine else None

    def beat(self, attempt: ModelAttempt, now: datetime, *, can_stop: bool) -> None:
        """A worker beats, and if it ``can_stop`` it acts on what it hears: cancelled, fenced out."""
        job = self.held(attempt)
        if job is not None:
            job.heartbeat_at = now
            if can_stop and job.cancel_requested:
                attempt.stage = "closed"
                self._stop(job, now, is_curable=False, error="")
        elif can_stop:
            self._lose(attempt)

    def work(self, attempt: ModelAttempt, now: datetime) -> None:
        if self.is_kept(attempt.source):
            attempt.stage, attempt.has_folder = "working", True
        else:
            self.fail(attempt, now, is_curable=False)

    def announce(self, attempt: ModelAttempt, output_id: str | None, now: datetime) -> None:
        if not attempt.has_folder:
            self.fail(attempt, now, is_curable=True)
            return
        attempt.output_id = output_id
        job = self.held(attempt)
        if job is None or output_id is None:
            self._lose(attempt)
            return
        job.output = ModelOutput(output_id, attempt.attempt)
        attempt.stage = "announced"

    def rename(self, attempt: ModelAttempt, now: datetime) -> None:
        if not attempt.has_folder or attempt.output_id is None:
            self.fail(attempt, now, is_curable=True)
            return
        self.published.add(attempt.output_id)
        attempt.stage = "renamed"

    def complete(self, attempt: ModelAttempt, now: datetime) -> None:
        job = self.held(attempt)
        if job is None or job.output is None:
            self._lose(attempt)
            return
        attempt.stage, attempt.has_folder = "closed", False
        if job.cancel_requested:
            self._release(job)
            self._end(job, JobStatus.CANCELLED, now)
            return
        self._end(job, JobStatus.COMPLETED, now)
        job.output.status, job.output.expires_at = OutputStatus.AVAILABLE, job.expires_at

    def fail(self, attempt: ModelAttempt, now: datetime, *, is_curable: bool) -> None:
        job = self.held(attempt)
        if job is None:
            self._lose(attempt)
            return
        attempt.stage = "closed"
        self._stop(job, now, is_curable=is_curable, error="failed")

    def hand_back(self, attempt: ModelAttempt, now: datetime) -> None:
        job = self.held(attempt)
        if job is None:
            self._lose(attempt)
            return
        attempt.stage = "closed"
        if job.cancel_requested:
            self._stop(job, now, is_curable=False, error="")
        else:
            self._requeue(job, now)
            job.max_attempts += 1

    # --- what sweeps do ---

    def sweep_timeouts(self, now: datetime) -> None:
        for job in self.jobs.values():
            if job.status is not JobStatus.PROCESSING:
                continue
            assert job.heartbeat_at is not None
            assert job.deadline_at is not None
            if now - job.heartbeat_at > LEASE:
                self._stop(job, now, is_curable=True, error="worker_lost")
            elif now > job.deadline_at + LEASE:
                self._stop(job, now, is_curable=False, error="timeout")

    def sweep_spent(self, now: datetime) -> None:
        for upload in list(self.uploads.values()):
            thing = (ThingKind.UPLOAD, upload.id)
            is_due = upload.spent_at is not None and upload.spent_at <= now
            if is_due and not self.is_read(thing):
                self.gone[thing] = Reason.SPENT
                del self.uploads[upload.id]

    def sweep_expired(self, now: datetime) -> None:
        for job in sorted(self.jobs.values(), key=lambda each: (each.created_at, each.id)):
            if job.output is not None and self.is_read(_output(job)):
                continue
            if job.status is JobStatus.QUEUED:
                if (job.expires_at or job.created_at + QUEUED_TTL) < now:
                    self._bury(job, Reason.RETENTION_QUEUED)
            elif job.expires_at is not None and job.expires_at < now:
                is_completed = job.status is JobStatus.COMPLETED
                reason = Reason.RETENTION_COMPLETED if is_completed else Reason.RETENTION_FAILED
                self._bury(job, reason)
        for job in self.jobs.values():
            output = job.output
            if output is None or output.expires_at is None or output.expires_at >= now:
                continue
            if not self.is_read(_output(job)):
                self._drop_output(job, Reason.OUTPUT_EXPIRED)

    # --- what there must be ---

    def is_kept(self, thing: Thing) -> bool:
        """Whether an upload is there, or an output that can be read."""
        if thing[0] is ThingKind.UPLOAD:
            return thing[1] in self.uploads
        outputs = [job.output for job in self.jobs.values() if job.output is not None]
        return thing[1] in {o.id for o in outputs if o.status is OutputStatus.AVAILABLE}

    def is_read(self, thing: Thing) -> bool:
        """Whether a job that has not ended needs it."""
        return any(job.is_active and job.source == thing for job in self.jobs.values())

    def queued(self) -> int:
        return sum(job.status is JobStatus.QUEUED for job in self.jobs.values())

    def outputs(self) -> list[Thing]:
        """Everything that ever was published as an output of a job that is still there."""
        return [_output(job) for job in self.jobs.values() if job.output is not None]

    def stored(self) -> set[str]:
        """The files and folders that there must be, as relative paths."""
        folders = {f"work/{a.job_id}/{a.attempt}" for a in self.attempts if a.has_folder}
        uploads = {f"uploads/{upload_id}" for upload_id in self.uploads}
        return folders | uploads | {f"outputs/{output_id}" for output_id in self.published}

    # --- inside ---

    def _stop(self, job: ModelJob, now: datetime, *, is_curable: bool, error: str) -> None:
        """An attempt is over without a result: a wish to cancel wins, then a retry, then failure."""
        if job.cancel_requested:
            self._release(job)
            self._end(job, JobStatus.CANCELLED, now)
        elif is_curable and job.attempt < job.max_attempts:
            self._requeue(job, now)
        else:
            self._release(job)
            self._end(job, JobStatus.FAILED, now)
            job.error = error

    def _requeue(self, job: ModelJob, now: datetime) -> None:
        self._release(job)
        job.expires_at = now + QUEUED_TTL
        job.status, job.worker, job.attempt = JobStatus.QUEUED, None, job.attempt + 1
        job.heartbeat_at = job.deadline_at = None

    def _end(self, job: ModelJob, status: JobStatus, now: datetime) -> None:
        job.status, job.worker, job.completed_at, job.deadline_at = status, None, now, None
        is_completed = status is JobStatus.COMPLETED
        job.expires_at = now + (COMPLETED_TTL if is_completed else FAILED_TTL)
        upload = self.uploads.get(job.source[1])
        if upload is None:
            return
        asked = None if upload.keep_hours is None else timedelta(hours=upload.keep_hours)
        if not is_completed:
            hold = max(FAILED_TTL, asked or timedelta())
        elif asked is not None:
            hold = asked
        else:
            hold = timedelta() if job.from_then else KEEP_INPUTS
        upload.spent_at = max(now + hold, upload.spent_at or now)

    def _release(self, job: ModelJob) -> None:
        """The present attempt's folder goes, and what it was about to publish."""
        for attempt in self.attempts:
            if (attempt.job_id, attempt.attempt) == (job.id, job.attempt):
                attempt.has_folder = False
        if job.output is not None:
            assert job.output.status is OutputStatus.PUBLISHING
            self.published.discard(job.output.id)
            job.output = None

    def _lose(self, attempt: ModelAttempt) -> None:
        """A worker finds that its job is another's: its own folder and file go, nothing else."""
        attempt.stage, attempt.has_folder = "closed", False
        known = {job.output.id for job in self.jobs.values() if job.output is not None}
        if attempt.output_id is not None and attempt.output_id not in known:
            self.published.discard(attempt.output_id)

    def _bury(self, job: ModelJob, reason: Reason) -> None:
        self._drop_output(job, reason)
        self.gone[ThingKind.JOB, job.id] = reason
        for attempt in self.attempts:
            attempt.has_folder &= attempt.job_id != job.id
        del self.jobs[job.id]

    def _drop_output(self, job: ModelJob, reason: Reason) -> None:
        if job.output is not None:
            self.gone[_output(job)] = reason
            self.published.discard(job.output.id)
            job.output = None


def _output(job: ModelJob) -> Thing:
    assert job.output is not None
    return ThingKind.OUTPUT, job.output.id
