"""One attempt of a job in this process, and the heartbeat that keeps its lease."""

import asyncio
from enum import Enum

import structlog

from app.domain.errors import AppError
from app.domain.jobs import Fence, Job, JobPolicy
from app.domain.outputs import Output
from app.services.job_closing import Closed
from app.services.ports import Beat, Clock, Database, Transaction

logger = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
"""How often a run looks for a cancellation from another process between its heartbeats, and how
often it tells of its progress."""

UNFINISHED_MAXIMUM = 99.9
"""A job shows 100 % only when its outputs are there."""


class Stop(Enum):
    """Why a run was stopped from outside its own work."""

    CANCELLED = "cancelled"
    FENCED = "fenced"
    UNREACHABLE = "unreachable"


class Run:
    """The mutable state of one attempt. ``progress`` is 0..100 and never goes back.

    ``reused``: how many of its steps did not have to run, since their results were kept.
    ``renewed_at``: when the lease was last known to be renewed, by the clock's monotonic seconds.
    """

    def __init__(self, job: Job, fence: Fence, renewed_at: float) -> None:
        self.job = job
        self.fence = fence
        self.renewed_at = renewed_at
        self.progress = 0.0
        self.stage: str | None = None
        self.stop: Stop | None = None
        self.failure: AppError | None = None
        self.closed: Closed | None = None
        self.reused = 0
        self.products: tuple[Output, ...] = ()
        self._work: asyncio.Task[None] | None = None
        self._is_publishing = False

    @property
    def output_ids(self) -> list[str]:
        """The ids under which files of this attempt may have been renamed."""
        return [output.id for output in self.products]

    def begin(self, work: asyncio.Task[None]) -> None:
        """Say which task does the work, so that ``halt`` can end it."""
        self._work = work
        if self.stop is not None:
            work.cancel()

    def advance(self, progress: float) -> None:
        """Move progress on to ``progress``, 0..100."""
        self.progress = max(self.progress, min(progress, UNFINISHED_MAXIMUM))

    def enter_publication(self) -> bool:
        """From here on the work is short and runs to its end; False when it was stopped before."""
        if self.stop is not None:
            return False
        self._is_publishing = True
        return True

    def halt(self, stop: Stop) -> None:
        """Stop the work for ``stop``; the first reason stays.

        A publication is not cut in half: its last transaction sees a cancellation or a lost fence.
        """
        if self.stop is None:
            self.stop = stop
        if self._work is not None and not self._is_publishing:
            self._work.cancel()


class LeaseKeeper:
    """Renews the lease of a run, tells of its progress and brings back that it was cancelled or
    fenced out.
    """

    def __init__(self, db: Database, clock: Clock, policy: JobPolicy) -> None:
        self._db = db
        self._clock = clock
        self._heartbeat = policy.heartbeat_seconds
        self._lease = policy.lease_seconds
        self._tick = min(LOOK_SECONDS, policy.heartbeat_seconds)

    async def keep(self, run: Run) -> None:
        """Beat every heartbeat and when there is progress, and look in between, until it stops."""
        told = run.progress, run.stage
        while run.stop is None:
            await asyncio.sleep(self._tick)
            now, news = self._clock.monotonic(), (run.progress, run.stage)
            is_due = news != told or now - run.renewed_at >= self._heartbeat
            try:
                beat = await (self._beat(run) if is_due else self._look(run))
            except AppError as error:
                logger.warning("job.beat_failed", code=error.code)
                continue
            if beat is None:
                run.halt(Stop.FENCED)
            elif beat.cancel_requested:
                run.halt(Stop.CANCELLED)
            elif is_due:
                run.renewed_at, told = now, news

    async def watch(self, run: Run) -> None:
        """Stop the run when no beat was taken for the length of the lease.

        Another worker may have the job by then. Apart from ``keep``, which may hang in a database
        that does not answer.
        """
        while run.stop is None:
            left = run.renewed_at + self._lease - self._clock.monotonic()
            if left <= 0:
                logger.warning("job.lease_expired", lease_seconds=self._lease)
                run.halt(Stop.UNREACHABLE)
                return
            await asyncio.sleep(min(left, self._lease / 3))

    async def _beat(self, run: Run) -> Beat | None:
        def beat(tx: Transaction) -> Beat | None:
            return tx.jobs.beat(
                run.fence, now=self._clock.now(), progress=run.progress, stage=run.stage
            )

        return await self._db.write(beat)

    async def _look(self, run: Run) -> Beat | None:
        def look(tx: Transaction) -> Beat | None:
            row = tx.jobs.find(run.fence.job_id)
            if row is None or not run.fence.is_held(row):
                return None
            return Beat(cancel_requested=row.cancel_requested)

        return await self._db.read(look)
