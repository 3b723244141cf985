"""Running a sweep: one at a time across processes, never stopping the others, leaving a report."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from app.domain.errors import AppError, SweepRunning
from app.domain.ids import new_id
from app.domain.sweeps import SweepName, SweepReport, Trigger, Victim
from app.services.ports import Clock, Database, Metrics
from app.services.sweeps.base import Sweep, SweepRun

log = structlog.get_logger(__name__)

DEFAULT_LIMIT = 2000
LEASE_TTL = timedelta(seconds=30)
"""How long a sweep waits for one whose process was killed; a living one renews its lease."""
RENEW_SECONDS = 8.0
TICK_SHARE = 0.9
"""Of an interval: clocks of several processes differ, and a tick a little early is still the next."""
MAX_ERRORS_KEPT = 100


@dataclass(frozen=True, slots=True)
class SweepLimits:
    """Bounds of every run: victims per run, and how long its lease lasts without renewal."""

    victims: int = DEFAULT_LIMIT
    lease_ttl: timedelta = LEASE_TTL
    renew_seconds: float = RENEW_SECONDS


class SweepService:
    """Runs sweeps by name, for the scheduler, the command and the start alike.

    ``leader`` names this process in leases and reports.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        metrics: Metrics,
        sweeps: Iterable[Sweep],
        *,
        leader: str,
        limits: SweepLimits | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._metrics = metrics
        self._sweeps = {sweep.name: sweep for sweep in sweeps}
        self._leader = leader
        self._limits = limits or SweepLimits()
        self._last_success: dict[SweepName, float] = {}

    @property
    def names(self) -> tuple[SweepName, ...]:
        """The sweeps that there are, in the order in which they were given."""
        return tuple(self._sweeps)

    def monotonic(self) -> float:
        """The service's clock in seconds, for whoever judges lateness."""
        return self._clock.monotonic()

    def last_success(self, name: SweepName) -> float | None:
        """When a run of this process last came to its end, on the ``monotonic`` clock."""
        return self._last_success.get(name)

    async def run(
        self,
        name: SweepName,
        trigger: Trigger,
        *,
        dry_run: bool = False,
        every: timedelta | None = None,
    ) -> tuple[SweepReport, tuple[Victim, ...]]:
        """Run one sweep and return its report and victims.

        Raises ``SweepRunning`` while another run of it goes on, here or in another process, and
        database errors when not even a report can be written. Whatever goes wrong inside the sweep
        is in the report's errors. A dry run changes nothing: it takes no lease and leaves no row.
        ``every`` of a tick is its interval: what another process's clock has just run well is not
        run again, and raises ``SweepRunning`` too.
        """
        run_id = new_id()
        if dry_run:
            return await self._run(run_id, name, trigger, dry_run=True)
        lease, holder = f"sweep:{name.value}", f"{self._leader}:{run_id}"
        if not await self._acquire(lease, holder):
            msg = f"The sweep {name.value} is running."
            raise SweepRunning(msg)
        renewal = asyncio.create_task(self._renew(lease, holder))
        try:
            # Under the lease: a run leaves its report before it gives the lease back.
            if every is not None and await self._has_run_elsewhere(name, every):
                msg = f"The sweep {name.value} has just run in another process."
                raise SweepRunning(msg)
            return await self._run(run_id, name, trigger, dry_run=False)
        finally:
            renewal.cancel()
            await asyncio.wait([renewal])
            await self._release(lease, holder)

    async def _has_run_elsewhere(self, name: SweepName, every: timedelta) -> bool:
        """Whether another process's clock ran it well within this tick."""
        last = await self._db.read(lambda tx: tx.sweep_reports.find_latest(name))
        if last is None or last.leader == self._leader or last.trigger is not Trigger.INTERVAL:
            return False
        age = self._clock.now() - last.started_at
        if last.errors or not timedelta(0) <= age < TICK_SHARE * every:
            return False
        self._last_success[name] = self._clock.monotonic() - age.total_seconds()
        return True

    async def _run(
        self, run_id: str, name: SweepName, trigger: Trigger, *, dry_run: bool
    ) -> tuple[SweepReport, tuple[Victim, ...]]:
        started = self._clock.monotonic()
        run = SweepRun(name, self._clock.now(), self._limits.victims, dry_run)
        came_to_its_end = True
        try:
            await self._sweeps[name].run(run)
        except Exception as error:
            came_to_its_end = False
            code = error.code if isinstance(error, AppError) else type(error).__name__
            # First, since only so many errors are kept: by it a report tells that the run failed.
            run.tally.errors.insert(0, f"sweep {name.value}: {code}")
            # A busy database is expected trouble: where it came from says nothing more.
            is_bug = not isinstance(error, AppError)
            log.error("sweep.failed", sweep=name.value, code=code, exc_info=is_bug)  # noqa: TRY400
        report = self._report(run_id, run, trigger, self._clock.monotonic() - started)
        if not dry_run:
            self._measure(report, succeeded=came_to_its_end)
            await self._db.write(lambda tx: tx.sweep_reports.insert(report))
            if came_to_its_end:
                self._last_success[name] = self._clock.monotonic()
        _log(report)
        return report, tuple(run.tally.victims)

    def _report(self, run_id: str, run: SweepRun, trigger: Trigger, seconds: float) -> SweepReport:
        tally = run.tally
        errors = tuple(tally.errors[:MAX_ERRORS_KEPT])
        if len(tally.errors) > len(errors):
            errors += (f"and {len(tally.errors) - len(errors)} more",)
        return SweepReport(
            id=run_id,
            sweep=run.name,
            trigger=trigger,
            leader=self._leader,
            dry_run=run.dry_run,
            cutoff=run.cutoff,
            examined=tally.examined,
            removed=tally.removed,
            skipped=dict(tally.skipped),
            bytes_freed=tally.bytes_freed,
            errors=errors,
            started_at=run.now,
            duration_seconds=seconds,
        )

    def _measure(self, report: SweepReport, *, succeeded: bool) -> None:
        sweep = report.sweep.value
        self._metrics.count("sweep_removed_total", report.removed, sweep=sweep)
        self._metrics.count("sweep_bytes_freed_total", report.bytes_freed, sweep=sweep)
        self._metrics.count("sweep_errors_total", len(report.errors), sweep=sweep)
        self._metrics.observe("sweep_duration_seconds", report.duration_seconds, sweep=sweep)
        if succeeded:
            ended = self._clock.now().timestamp()
            self._metrics.set("sweep_last_success_timestamp_seconds", ended, sweep=sweep)

    async def _acquire(self, lease: str, holder: str) -> bool:
        now, ttl = self._clock.now(), self._limits.lease_ttl
        return await self._db.write(lambda tx: tx.leases.acquire(lease, holder, now=now, ttl=ttl))

    async def _renew(self, lease: str, holder: str) -> None:
        """Keep the lease while the sweep runs; losing it harms nothing, since sweeps re-check."""
        while True:
            await asyncio.sleep(self._limits.renew_seconds)
            try:
                if not await self._acquire(lease, holder):
                    log.warning("sweep.lease_lost", lease=lease)
                    return
            except AppError as error:
                log.warning("sweep.lease_not_renewed", lease=lease, code=error.code)

    async def _release(self, lease: str, holder: str) -> None:
        try:
            await self._db.write(lambda tx: tx.leases.release(lease, holder))
        except AppError as error:  # it runs out by itself
            log.warning("sweep.lease_not_released", lease=lease, code=error.code)


def _log(report: SweepReport) -> None:
    level = log.warning if report.errors else log.info
    level(
        "sweep.finished",
        sweep=report.sweep.value,
        trigger=report.trigger.value,
        dry_run=report.dry_run,
        examined=report.examined,
        removed=report.removed,
        skipped=report.skipped,
        bytes_freed=report.bytes_freed,
        errors=len(report.errors),
        duration_seconds=round(report.duration_seconds, 3),
    )
