"""Taking queued jobs for one worker, and which of them run in this process right now."""

from datetime import timedelta

import structlog

from app.domain.jobs import Fence, Job
from app.services.job_run import Run, Stop
from app.services.ports import Clock, Database, Transaction

logger = structlog.get_logger(__name__)


class Claims:
    """The runs of one worker. ``worker`` is unique per start of a process."""

    def __init__(self, worker: str, db: Database, clock: Clock) -> None:
        self.worker = worker
        self._db = db
        self._clock = clock
        self._runs: dict[Fence, Run] = {}

    def fence(self, job_id: str, attempt: int) -> Fence:
        """Return what this worker holds while it runs that attempt."""
        return Fence(job_id=job_id, attempt=attempt, worker=self.worker)

    def find(self, fence: Fence) -> Run | None:
        """Return the run under ``fence`` if it is going on here."""
        return self._runs.get(fence)

    async def claim(self, fence: Fence) -> Run | None:
        """Make the queued attempt this worker's; None when it is not to be had (any more)."""

        def take(tx: Transaction) -> Job | None:
            row = tx.jobs.find(fence.job_id)
            if row is None:
                return None
            now = self._clock.now()
            deadline_at = now + timedelta(seconds=row.timeout_seconds)
            return tx.jobs.claim(fence, now=now, deadline_at=deadline_at)

        asked_at = self._clock.monotonic()
        job = await self._db.write(take)
        if job is None:
            return None
        run = Run(job, fence, renewed_at=asked_at)
        self._runs[fence] = run
        logger.info("job.claimed", operation=job.operation, worker=self.worker)
        return run

    def release(self, fence: Fence) -> None:
        """Forget a run that has ended."""
        self._runs.pop(fence, None)

    def cancel(self, job_id: str) -> None:
        """Stop the runs of that job here; nothing happens if there is none."""
        for fence, run in self._runs.items():
            if fence.job_id == job_id:
                run.halt(Stop.CANCELLED)
