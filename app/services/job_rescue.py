"""Jobs whose worker is gone, silent or past the deadline: queued again, or ended honestly."""

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum

import structlog

from app.domain.errors import AppError, JobTimedOut, WorkerLost
from app.domain.jobs import Job, JobStatus, is_stale
from app.services.disposal import Disposal
from app.services.job_endings import JobRules, after_failure, release_attempt, settle_inputs
from app.services.ports import Database, JobQueue, Metrics, Transaction

logger = structlog.get_logger(__name__)


class Ailment(StrEnum):
    """Why a processing job needs help."""

    SILENT = "heartbeat_stale"
    OVERDUE = "deadline_passed"
    ORPHANED = "worker_gone"


class Rescued(StrEnum):
    """What became of it."""

    REQUEUED = "requeued"
    WORKER_LOST = "worker_lost"
    TIMED_OUT = "timeout"
    CANCELLED = "cancelled"


class JobRescue:
    """What the sweeps ``job_timeouts`` and ``undispatched_jobs`` and the start do for one job.

    Each call looks at the row again inside its transaction, so that a repeat, a second process or a
    worker that comes back does no harm: the attempt moves on, which fences the old worker out.
    """

    def __init__(
        self,
        db: Database,
        queue: JobQueue,
        disposal: Disposal,
        metrics: Metrics,
        rules: JobRules,
    ) -> None:
        self._db = db
        self._queue = queue
        self._disposal = disposal
        self._metrics = metrics
        self._rules = rules

    def diagnose(self, job: Job, now: datetime) -> Ailment | None:
        """Say why a job needs rescue at ``now``, or None.

        The worker's own clock comes first: a deadline counts here only a lease later.
        """
        if is_stale(job, now, self._rules.jobs):
            return Ailment.SILENT
        grace = timedelta(seconds=self._rules.jobs.lease_seconds)
        overdue = job.deadline_at is not None and now > job.deadline_at + grace
        if job.status is JobStatus.PROCESSING and overdue:
            return Ailment.OVERDUE
        return None

    async def rescue(self, job: Job, now: datetime) -> Rescued | None:
        """Help a job that is silent or overdue; None when it needs no help (any more)."""
        return await self._help(job, now, lambda fresh: self.diagnose(fresh, now))

    async def recover(self, job: Job, now: datetime) -> Rescued | None:
        """Take back a processing job whose worker is known to be dead, without waiting."""

        def diagnose(fresh: Job) -> Ailment | None:
            if fresh.status is JobStatus.PROCESSING and fresh.worker == job.worker:
                return Ailment.ORPHANED
            return None

        return await self._help(job, now, diagnose)

    async def redispatch(self, job: Job, now: datetime) -> bool:
        """Hand a queued job to the engine again; False when it is not queued any more."""

        def find(tx: Transaction) -> Job | None:
            return tx.jobs.find(job.id)

        fresh = await self._db.read(find)
        if fresh is None or fresh.status is not JobStatus.QUEUED:
            return False
        await self._queue.enqueue(fresh.id, fresh.attempt)

        def mark(tx: Transaction) -> None:
            tx.jobs.mark_dispatched(fresh.id, fresh.attempt, now)

        await self._db.write(mark)
        return True

    async def _help(
        self, job: Job, now: datetime, diagnose: Callable[[Job], Ailment | None]
    ) -> Rescued | None:
        def work(tx: Transaction) -> tuple[Job, Ailment, list[str]] | None:
            fresh = tx.jobs.find(job.id)
            if fresh is None or fresh.attempt != job.attempt:
                return None
            ailment = diagnose(fresh)
            if ailment is None:
                return None
            helped = after_failure(fresh, _error(fresh, ailment), now, self._rules)
            tx.jobs.update(helped, expected=JobStatus.PROCESSING, attempt=fresh.attempt)
            spent = settle_inputs(tx, helped, now, self._rules)
            return helped, ailment, [*release_attempt(tx, fresh, fresh.attempt, now), *spent]

        done = await self._db.write(work)
        if done is None:
            return None
        helped, ailment, paths = done
        outcome = _outcome(helped)
        logger.warning(
            "job.rescued",
            job_id=job.id,
            attempt=job.attempt,
            worker=job.worker,
            why=ailment.value,
            outcome=outcome.value,
        )
        self._measure(helped, outcome, now)
        await self._disposal.settle(paths)
        if outcome is Rescued.REQUEUED:
            await self._queue.enqueue(helped.id, helped.attempt)
        return outcome

    def _measure(self, helped: Job, outcome: Rescued, now: datetime) -> None:
        if outcome is Rescued.REQUEUED:
            self._metrics.count("job_requeued_total", why="worker_lost")
            return
        if outcome is Rescued.TIMED_OUT:
            self._metrics.count("job_timeouts_total")
        started_at = helped.started_at or now
        self._metrics.observe(
            "job_duration_seconds",
            max((now - started_at).total_seconds(), 0.0),
            operation=helped.operation,
            outcome=helped.status.value,
        )


def _error(job: Job, ailment: Ailment) -> AppError:
    if ailment is Ailment.OVERDUE:
        return JobTimedOut(
            f"The job passed its limit of {job.timeout_seconds:g} s (timeout_seconds) "
            "and its worker did not end it.",
            extra={"limit": "deadline", "timeout_seconds": job.timeout_seconds},
        )
    return WorkerLost(
        f"The worker was lost during attempt {job.attempt} of {job.max_attempts}, the last one."
    )


def _outcome(job: Job) -> Rescued:
    if job.status is JobStatus.QUEUED:
        return Rescued.REQUEUED
    if job.status is JobStatus.CANCELLED:
        return Rescued.CANCELLED
    code = job.error.code if job.error is not None else WorkerLost.code
    return Rescued.TIMED_OUT if code == JobTimedOut.code else Rescued.WORKER_LOST
