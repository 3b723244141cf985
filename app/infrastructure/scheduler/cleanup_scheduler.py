"""The clock of the sweeps: APScheduler calls each at its interval, and some once after the start."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, timedelta

import structlog
from apscheduler.events import EVENT_SCHEDULER_SHUTDOWN
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from app.domain.errors import AppError, SweepRunning
from app.domain.sweeps import SweepName, Trigger
from app.services.sweeps import SWEEPS_AT_START, SweepService

log = structlog.get_logger(__name__)

BEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 30.0
LATE_AFTER_SECONDS = 300.0
LATE_AFTER_INTERVALS = 3
STOP_SECONDS = 10.0
START_RETRY_SECONDS = 1.0
START_RETRIES = 60
"""A process that was killed in a sweep leaves its lease behind: the start waits until it runs out."""
_CANCEL_SECONDS = 5.0


class CleanupScheduler:
    """One scheduler per process, with its jobs in memory: sweeps, and a beat for readiness.

    ``now`` is always a reading of the sweeps' monotonic clock, in seconds.
    """

    def __init__(self, sweeps: SweepService, intervals: Mapping[SweepName, float]) -> None:
        self._sweeps = sweeps
        self._intervals = dict(intervals)
        self._started_at = self._beat_at = sweeps.monotonic()
        self._running: set[asyncio.Task[object]] = set()
        self._at_start: asyncio.Task[None] | None = None
        self._scheduler = AsyncIOScheduler(
            jobstores={"default": MemoryJobStore()},
            # A late run is still due (the default drops it after 1 s), but one run is enough.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone=UTC,
        )

    def start(self, at_start: Sequence[SweepName]) -> None:
        """Start the clock, and the runs at start in a task of their own. Needs a running loop."""
        # Its "running job" lines say nothing that sweep.finished does not say better.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        for name, seconds in self._intervals.items():
            trigger = IntervalTrigger(seconds=seconds, timezone=UTC)
            self._scheduler.add_job(self._tick, trigger, args=[name], id=name.value)
        beat = IntervalTrigger(seconds=BEAT_SECONDS, timezone=UTC)
        self._scheduler.add_job(self._beat, beat, id="beat")
        self._scheduler.start()
        self._at_start = asyncio.create_task(self._run_at_start(tuple(at_start)))
        log.info("scheduler.started", sweeps=[name.value for name in self._intervals])

    async def stop(self, timeout_seconds: float) -> None:
        """Start nothing new, wait for what runs, cancel what is left. A repeat is harmless."""
        if not self._scheduler.running:
            return
        self._scheduler.remove_all_jobs()
        running = set(self._running)
        if self._at_start is not None:
            running.add(self._at_start)
        if running:
            _, late = await asyncio.wait(running, timeout=timeout_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_CANCEL_SECONDS)
                log.warning("scheduler.sweeps_cancelled", count=len(late))
        stopped = asyncio.Event()
        self._scheduler.add_listener(lambda _: stopped.set(), EVENT_SCHEDULER_SHUTDOWN)
        self._scheduler.shutdown(wait=False)  # happens in a callback of the loop
        await stopped.wait()
        log.info("scheduler.stopped")

    def is_alive(self, now: float) -> bool:
        """Whether the clock still ticks: its last beat is recent."""
        return self._scheduler.running and now - self._beat_at <= DEAD_AFTER_SECONDS

    def late_sweeps(self, now: float) -> list[SweepName]:
        """The sweeps whose last success is older than three intervals and five minutes."""
        return [
            name
            for name, seconds in self._intervals.items()
            if now - (self._sweeps.last_success(name) or self._started_at)
            > max(LATE_AFTER_INTERVALS * seconds, LATE_AFTER_SECONDS)
        ]

    async def _beat(self) -> None:
        self._beat_at = self._sweeps.monotonic()

    async def _run_at_start(self, names: tuple[SweepName, ...]) -> None:
        left = names
        for _ in range(START_RETRIES):
            left = tuple([name for name in left if not await self._run(name, Trigger.START)])
            if not left:
                return
            await asyncio.sleep(START_RETRY_SECONDS)

    async def _tick(self, name: SweepName) -> None:
        task = asyncio.current_task()
        if task is None:  # only for the type: a coroutine always runs in a task here
            return
        self._running.add(task)
        try:
            every = timedelta(seconds=self._intervals[name])
            await self._run(name, Trigger.INTERVAL, every)
        finally:
            self._running.discard(task)

    async def _run(self, name: SweepName, trigger: Trigger, every: timedelta | None = None) -> bool:
        """Run one sweep, whatever becomes of it; False means that it is running elsewhere."""
        try:
            await self._sweeps.run(name, trigger, every=every)
        except SweepRunning:
            log.debug("sweep.skipped", sweep=name.value, why="running elsewhere")
            return False
        except AppError as error:
            log.warning("sweep.not_recorded", sweep=name.value, code=error.code)
        except Exception:  # the sweep runner's edge: one that fails never stops the others
            log.exception("sweep.crashed", sweep=name.value)
        return True


def start_cleanup_scheduler(
    sweeps: SweepService,
    intervals: Mapping[SweepName, float],
    at_start: Sequence[SweepName] = SWEEPS_AT_START,
) -> CleanupScheduler:
    """Start the clock for ``intervals`` (seconds) and the runs at start; returns at once.

    To be called from the lifespan, last, with the event loop running.
    """
    scheduler = CleanupScheduler(sweeps, intervals)
    scheduler.start(at_start)
    return scheduler


async def stop_cleanup_scheduler(
    scheduler: CleanupScheduler, timeout_seconds: float = STOP_SECONDS
) -> None:
    """Stop the clock; running sweeps get ``timeout_seconds`` to end, then they are cancelled."""
    await scheduler.stop(timeout_seconds)
