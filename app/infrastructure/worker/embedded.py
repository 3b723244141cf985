"""The embedded engine: a loop over the job table in the serving process itself."""

import asyncio
from typing import Protocol

import structlog

from app.domain.errors import AppError
from app.domain.jobs import Job
from app.services.ports import Clock, Database, JobQueue, Transaction

logger = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
"""How often the table is looked at when nobody said that a job is there."""

STOP_SECONDS = 6.0
"""How long running jobs may take to kill their children and hand themselves back."""


class Runner(Protocol):
    """What the engine needs of ``app.services.job_runner.JobRunner``."""

    async def run(self, job_id: str, attempt: int) -> None: ...

    async def crash(self, job_id: str, attempt: int) -> None: ...

    def cancel(self, job_id: str) -> None: ...


class EmbeddedEngine(JobQueue):
    """Carries queued jobs to a runner of the same process, at most ``workers`` at a time.

    Several engines on one database are safe: the runner's claim decides who has a job. With no
    workers it only takes part as a queue, and other processes do the work.
    """

    def __init__(
        self, db: Database, clock: Clock, *, workers: int, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._db = db
        self._clock = clock
        self._workers = workers
        self._poll_seconds = poll_seconds
        self._wake = asyncio.Event()
        self._running: set[str] = set()
        self._runner: Runner | None = None
        self._claims_no_more = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[BaseException] | None = None

    @property
    def running(self) -> int:
        """How many jobs this engine has in hand."""
        return len(self._running)

    @property
    def failed(self) -> "asyncio.Future[BaseException]":
        """Done, with the reason, when the loop has died by itself: the process must stop then."""
        if self._failed is None:
            self._failed = asyncio.get_running_loop().create_future()
        return self._failed

    async def enqueue(self, job_id: str, attempt: int) -> None:
        def mark(tx: Transaction) -> None:
            tx.jobs.mark_dispatched(job_id, attempt, self._clock.now())

        try:
            await self._db.write(mark)
        except AppError as error:
            # The job is there all the same: the loop polls, and undispatched_jobs says it again.
            logger.warning("job.dispatch_unmarked", job_id=job_id, code=error.code)
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        if self._runner is not None:
            self._runner.cancel(job_id)

    def start(self, runner: Runner) -> None:
        """Begin to claim jobs for ``runner``; once, from the loop's own thread."""
        self._loop = asyncio.get_running_loop().create_task(self.run(runner), name="job-engine")
        self._loop.add_done_callback(self._report_death)

    def stop_claiming(self) -> None:
        """Begin no further job, for good; those in hand go on. A repeat is harmless."""
        self._claims_no_more.set()

    async def stop(self, limit_seconds: float = STOP_SECONDS) -> None:
        """Claim no more, kill the children of running jobs and hand the jobs back.

        What takes longer than the limit is left: start-up finds this worker's lock free and queues
        its jobs again.
        """
        loop, self._loop = self._loop, None
        if loop is None:
            return
        loop.cancel()
        _, late = await asyncio.wait([loop], timeout=limit_seconds)
        if late:
            logger.error("worker.stop_late", running=len(self._running), seconds=limit_seconds)

    async def run(self, runner: Runner) -> None:
        """Claim and run jobs until cancelled. Returns only by an error, which is the engine's end."""
        self._runner = runner
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    for job in await self._claimable():
                        self._running.add(job.id)
                        group.create_task(self._carry(runner, job))
                    await self._pause()
        finally:
            self._runner = None

    async def _claimable(self) -> list[Job]:
        free = self._workers - len(self._running)
        if free <= 0 or self._claims_no_more.is_set():
            return []
        # Jobs in hand that are not claimed yet are still in the table's queue.
        limit = free + len(self._running)
        try:
            jobs = await self._db.read(lambda tx: tx.jobs.list_claimable(limit))
        except AppError as error:
            logger.warning("worker.poll_failed", code=error.code)
            return []
        if self._claims_no_more.is_set():  # since the look began
            return []
        return [job for job in jobs if job.id not in self._running][:free]

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._poll_seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _carry(self, runner: Runner, job: Job) -> None:
        try:
            await runner.run(job.id, job.attempt)
        except Exception:
            logger.exception("job.crashed", job_id=job.id, attempt=job.attempt)
            await self._bury_crash(runner, job)
        else:
            self._wake.set()
        finally:
            self._running.discard(job.id)

    async def _bury_crash(self, runner: Runner, job: Job) -> None:
        # No wake-up after this: what crashes at once must not make a hot loop.
        try:
            await runner.crash(job.id, job.attempt)
        except AppError as error:
            # The row stays processing under a silent heartbeat, for the sweep job_timeouts.
            logger.warning("job.crash_unrecorded", job_id=job.id, code=error.code)

    def _report_death(self, loop: "asyncio.Task[None]") -> None:
        if loop.cancelled():
            return
        error = loop.exception() or RuntimeError("the loop ended")
        logger.critical("worker.died", error=repr(error))
        if not self.failed.done():
            self.failed.set_result(error)
