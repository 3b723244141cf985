"""Trying a failed or cancelled job again: the same job, with attempts anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from app.domain.errors import AppError, JobFinished, JobRunning
from app.domain.jobs import RETRYABLE, Job, retry
from app.services.disposal import Disposal
from app.services.job_endings import JobRules, queue_again, release_attempt
from app.services.job_inputs import check_inputs_kept
from app.services.job_queueing import check_queue
from app.services.job_views import JobView, find_job, view_job
from app.services.ports import Clock, Database, JobQueue, Transaction

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRetry:
    """The use case of trying again. ``batch_ttl``: how long a batch stays from its latest use."""

    db: Database
    clock: Clock
    queue: JobQueue
    disposal: Disposal
    rules: JobRules
    batch_ttl: timedelta

    async def retry(self, owner: str, job_id: str) -> JobView:
        """Queue a failed or cancelled job again and tell the engine.

        From the commit on the job holds its inputs again: sweeps look for readers in the
        transaction that deletes. Raises JobNotFound, JobGone, JobFinished for a completed job,
        JobRunning for one that is queued or processing (also for the second of two callers),
        InputsDeleted, QueueFull.
        """
        view, paths = await self.db.write(lambda tx: self._retry(tx, owner, job_id))
        job = view.job
        log.info("job.retried", job_id=job.id, attempt=job.attempt)
        # A crash before this leaves cleanup rows, which the sweep spent_inputs settles.
        await self.disposal.settle(paths)
        await self.queue.enqueue(job.id, job.attempt)
        return view

    def _retry(self, tx: Transaction, owner: str, job_id: str) -> tuple[JobView, Sequence[str]]:
        job = find_job(tx, owner, job_id)
        if job.status not in RETRYABLE:
            raise _not_now(job)
        check_inputs_kept(tx, job)
        check_queue(tx, self.rules.jobs)
        now = self.clock.now()
        again = queue_again(retry(job, self.rules.jobs), now, self.rules.jobs)
        tx.jobs.update(again, expected=job.status, attempt=job.attempt)
        if job.batch_id is not None:
            tx.batches.touch(job.batch_id, now + self.batch_ttl)
        # Its attempts cleaned up when they ended; whatever is left of them must never be published.
        paths = release_attempt(tx, job, job.attempt, now)
        return view_job(tx, again), paths


def _not_now(job: Job) -> AppError:
    facts = {"status": job.status.value}
    if job.status.is_active:
        return JobRunning("The job has not ended; it goes on by itself.", extra=facts)
    return JobFinished("The job has completed; start a new one instead.", extra=facts)
