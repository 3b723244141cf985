"""The fenced transactions with which a worker ends its attempt, and what is cleaned up after each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import structlog

from app.domain import layout
from app.domain.errors import AppError, InternalError, JobTimedOut, NoSpace
from app.domain.jobs import Fence, Job, JobError, JobStatus, finish
from app.operations.base import Plan
from app.services.disposal import Disposal
from app.services.job_endings import (
    JobRules,
    after_failure,
    after_hand_back,
    pending,
    release_attempt,
    release_scratch,
    settle_inputs,
)
from app.services.job_rates import measure
from app.services.ports import Clock, Database, Files, Metrics, Transaction

logger = structlog.get_logger(__name__)


class Closed(Enum):
    """How the row took the end of an attempt. LOST: it was not this worker's any more."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REQUEUED = "requeued"
    LOST = "lost"


_BY_STATUS = {
    JobStatus.COMPLETED: Closed.COMPLETED,
    JobStatus.FAILED: Closed.FAILED,
    JobStatus.CANCELLED: Closed.CANCELLED,
    JobStatus.QUEUED: Closed.REQUEUED,
}


@dataclass(frozen=True, slots=True)
class _Close:
    """What one closing transaction wrote: the row before and after, and the paths to delete."""

    before: Job
    after: Job
    paths: list[str]


class Closing:
    """Ends attempts. Every method is fenced; a repeat or a lost fence writes nothing.

    Paths are deleted after the commit; when the process dies before, the sweep ``spent_inputs``
    settles their cleanup rows.
    """

    def __init__(
        self,
        db: Database,
        files: Files,
        disposal: Disposal,
        clock: Clock,
        metrics: Metrics,
        rules: JobRules,
    ) -> None:
        self._db = db
        self._files = files
        self._disposal = disposal
        self._clock = clock
        self._metrics = metrics
        self._rules = rules

    async def complete(self, fence: Fence, plan: Plan) -> Closed:
        """Make the job completed and its outputs available, in one transaction.

        A wish to cancel that came first wins: the outputs go and the job is cancelled.
        """

        def become(job: Job) -> Job:
            now, policy = self._clock.now(), self._rules.jobs
            if job.cancel_requested:
                return finish(job, JobStatus.CANCELLED, now, policy)
            told = replace(job, warnings=plan.warnings)
            return finish(told, JobStatus.COMPLETED, now, policy, result=plan.result)

        return await self._close(fence, become, effort=plan.effort)

    async def fail(self, fence: Fence, error: AppError) -> Closed:
        """End a failed attempt: queued again when a retry may cure it, else the job has failed."""
        if isinstance(error, NoSpace):
            # Room first: on the same full disk the transaction would fail as well.
            await self._disposal.settle([layout.scratch_path(fence.job_id, fence.attempt)])
        return await self._close(
            fence, lambda job: after_failure(job, error, self._clock.now(), self._rules), error
        )

    async def crash(self, fence: Fence) -> Closed:
        """End an attempt that met a bug; the caller has logged the traceback."""
        return await self.fail(fence, InternalError("The job met an internal error; see the log."))

    async def cancel(self, fence: Fence) -> Closed:
        """End the job as cancelled."""
        return await self._close(
            fence,
            lambda job: finish(job, JobStatus.CANCELLED, self._clock.now(), self._rules.jobs),
        )

    async def hand_back(self, fence: Fence) -> Closed:
        """Give an unharmed job back to the queue; this uses up no attempt."""
        return await self._close(
            fence, lambda job: after_hand_back(job, self._clock.now(), self._rules)
        )

    async def abandon(self, job: Job, fence: Fence, output_ids: Sequence[str]) -> None:
        """Clean up after a lost lease: this attempt's own scratch, and files nobody has a row for.

        The rows of job and outputs are another worker's by now, or will be, and are not touched.
        """
        logger.warning("job.lease_lost", worker=fence.worker)
        self._metrics.count("job_leases_lost_total")
        scratch = layout.scratch_path(fence.job_id, fence.attempt)

        def stray(tx: Transaction) -> list[str]:
            now = self._clock.now()
            paths = [scratch]
            # A file renamed after its row was removed: no sweep that goes by rows would find it.
            paths += [layout.output_path(i) for i in output_ids if tx.outputs.find(i) is None]
            for path in paths:
                tx.cleanup.put(pending(path, owner=job.owner, reason="lease_lost", now=now))
            return paths

        try:
            paths = await self._db.write(stray)
        except AppError:
            # Without a database the rows cannot be asked; the scratch is this attempt's own anyway.
            paths = [scratch]
        await self._disposal.settle(paths)

    async def _close(
        self,
        fence: Fence,
        become: Callable[[Job], Job],
        error: AppError | None = None,
        *,
        effort: float = 0.0,
    ) -> Closed:
        def work(tx: Transaction) -> _Close | None:
            row = tx.jobs.find(fence.job_id)
            if row is None or not fence.is_held(row):
                return None
            after, now = become(row), self._clock.now()
            if not tx.jobs.update_fenced(after, fence):
                return None
            paths = settle_inputs(tx, after, now, self._rules)
            if after.status is JobStatus.COMPLETED and after.expires_at is not None:
                tx.outputs.publish(row.id, row.attempt, after.expires_at)
                measure(tx, row, effort, now)
                return _Close(row, after, [*release_scratch(tx, row, row.attempt, now), *paths])
            return _Close(row, after, [*release_attempt(tx, row, row.attempt, now), *paths])

        close = await self._db.write(work)
        if close is None:
            return Closed.LOST
        await self._disposal.settle(close.paths)
        self._tell(close, error)
        return _BY_STATUS[close.after.status]

    def _tell(self, close: _Close, error: AppError | None) -> None:
        before, after = close.before, close.after
        if after.status is JobStatus.QUEUED:
            why = "handed_back" if error is None else "failed"
            self._metrics.count("job_requeued_total", why=why)
            logger.info(
                "job.requeued",
                next_attempt=after.attempt,
                max_attempts=after.max_attempts,
                code=error.code if error is not None else None,
            )
            return
        seconds = 0.0
        if after.completed_at is not None and before.started_at is not None:
            seconds = max((after.completed_at - before.started_at).total_seconds(), 0.0)
        self._metrics.observe(
            "job_duration_seconds", seconds, operation=after.operation, outcome=after.status.value
        )
        facts = {"operation": after.operation, "seconds": round(seconds, 3)}
        if after.status is JobStatus.COMPLETED:
            logger.info("job.completed", **facts)
        elif after.status is JobStatus.CANCELLED:
            logger.info("job.cancelled", **facts)
        elif after.error is not None:
            if after.error.code == JobTimedOut.code:
                self._metrics.count("job_timeouts_total")
            logger.warning(
                "job.failed", code=after.error.code, reason=_reason(after.error), **facts
            )


def _reason(error: JobError) -> str:
    """Return what the log says of a failure: its message without what a client calls a file."""
    about = (error.detail or {}).get("input")
    name = about.get("filename") if isinstance(about, dict) else None
    return error.message.replace(f" ({name})", "", 1) if name else error.message
