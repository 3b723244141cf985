"""The clock of the sweeps: runs at start, at every interval, and ends cleanly."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from app.domain.sweeps import SweepName, SweepReport, Trigger
from app.infrastructure.scheduler import start_cleanup_scheduler, stop_cleanup_scheduler
from app.services.sweeps import SWEEPS_AT_START, SweepRun
from tests.fakes.retention import World, open_world
from tests.fakes.sweeping import sweep_service

LIMIT_SECONDS = 20.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


async def reports(world: World) -> list[SweepReport]:
    return await world.db.read(lambda tx: tx.sweep_reports.list_latest(1000))


@dataclass
class Counting:
    """A sweep that counts its runs, and may break or hang in them."""

    name: ClassVar[SweepName] = SweepName.GC_FILES
    runs: int = 0
    breaks: bool = False
    hangs: bool = False
    was_cancelled: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, run: SweepRun) -> None:
        self.runs += 1
        self.begun.set()
        if self.breaks:
            raise RuntimeError
        if self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.was_cancelled = True
                raise


class Later(Counting):
    name: ClassVar[SweepName] = SweepName.STALE_SESSIONS


async def test_every_interval_set_to_a_second_is_seen_to_run_twice(world: World) -> None:
    scheduler = start_cleanup_scheduler(sweep_service(world), dict.fromkeys(SweepName, 1.0))
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:
                found = await reports(world)
                counts = [
                    sum(each.sweep is name and each.trigger is Trigger.INTERVAL for each in found)
                    for name in SweepName
                ]
                if min(counts) >= 2:
                    break
                await asyncio.sleep(0.1)
    finally:
        await stop_cleanup_scheduler(scheduler)
    assert all(report.errors == () for report in found)


async def test_the_runs_at_start_come_once_in_their_order_without_waiting_for_them(
    world: World,
) -> None:
    scheduler = start_cleanup_scheduler(sweep_service(world), dict.fromkeys(SweepName, 3600.0))
    try:
        assert await reports(world) == []  # it returned before anything ran
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:
                found = await reports(world)
                if len(found) == len(SWEEPS_AT_START):
                    break
                await asyncio.sleep(0.02)
    finally:
        await stop_cleanup_scheduler(scheduler)
    ordered = sorted(found, key=lambda report: report.started_at)
    assert tuple(report.sweep for report in ordered) == SWEEPS_AT_START
    assert {report.trigger for report in ordered} == {Trigger.START}


async def test_a_start_waits_for_the_lease_of_a_killed_process_and_then_runs(
    world: World,
) -> None:
    counting, later = Counting(), Later()
    now = world.clock.now()
    await world.db.write(
        lambda tx: tx.leases.acquire(
            f"sweep:{counting.name.value}", "killed", now=now, ttl=timedelta(seconds=1.5)
        )
    )
    names = [counting.name, later.name]
    scheduler = start_cleanup_scheduler(
        sweep_service(world, sweeps=[counting, later]),
        dict.fromkeys(names, 3600.0),
        at_start=names,
    )
    try:
        await until(lambda: later.runs == 1)
        assert counting.runs == 0
        await until(lambda: counting.runs == 1)
    finally:
        await stop_cleanup_scheduler(scheduler)
    assert later.runs == 1


async def test_a_sweep_that_breaks_runs_again_and_stops_no_other(world: World) -> None:
    broken, later = Counting(breaks=True), Later()
    service = sweep_service(world, sweeps=[broken, later])
    names = [broken.name, later.name]
    scheduler = start_cleanup_scheduler(service, dict.fromkeys(names, 0.1), at_start=names)
    try:
        await until(lambda: broken.runs >= 3 and later.runs >= 3)
    finally:
        await stop_cleanup_scheduler(scheduler)


async def test_a_database_that_fails_does_not_stop_the_clock(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting()
    write = world.db.write
    failures: list[object] = []

    async def fail_twice(work: object) -> object:
        if len(failures) < 2:
            failures.append(work)
            raise RuntimeError
        return await write(work)  # type: ignore[arg-type]

    monkeypatch.setattr(world.db, "write", fail_twice)
    service = sweep_service(world, sweeps=[counting])
    scheduler = start_cleanup_scheduler(service, {counting.name: 0.1}, at_start=[counting.name])
    try:
        await until(lambda: counting.runs >= 2)
    finally:
        await stop_cleanup_scheduler(scheduler)


async def test_a_long_run_is_never_doubled(world: World) -> None:
    counting = Counting(hangs=True)
    service = sweep_service(world, sweeps=[counting])
    scheduler = start_cleanup_scheduler(service, {counting.name: 0.05}, at_start=())
    try:
        await counting.begun.wait()
        await asyncio.sleep(0.5)
        assert counting.runs == 1
    finally:
        await stop_cleanup_scheduler(scheduler, timeout_seconds=0.1)
    assert counting.was_cancelled


async def test_stopping_is_bounded_and_gives_the_lease_back(world: World) -> None:
    counting = Counting(hangs=True)
    service = sweep_service(world, sweeps=[counting])
    scheduler = start_cleanup_scheduler(service, {counting.name: 3600}, at_start=[counting.name])
    await counting.begun.wait()
    begun = asyncio.get_running_loop().time()
    await stop_cleanup_scheduler(scheduler, timeout_seconds=0.2)
    assert asyncio.get_running_loop().time() - begun < 5
    assert counting.was_cancelled
    assert not scheduler.is_alive(service.monotonic())
    counting.hangs = False
    await service.run(counting.name, Trigger.MANUAL)
    await stop_cleanup_scheduler(scheduler)  # a repeat is harmless


async def test_readiness_can_tell_a_living_clock_and_late_sweeps(world: World) -> None:
    counting = Counting(breaks=True)
    service = sweep_service(world, sweeps=[counting, Later()])
    intervals = {SweepName.GC_FILES: 0.1, SweepName.STALE_SESSIONS: 3600.0}
    scheduler = start_cleanup_scheduler(service, intervals, at_start=())
    try:
        now = service.monotonic()
        assert scheduler.is_alive(now)
        assert not scheduler.is_alive(now + 60)
        assert scheduler.late_sweeps(now) == []
        await until(lambda: counting.runs >= 2)
        later = now + timedelta(minutes=6).total_seconds()
        assert scheduler.late_sweeps(later) == [SweepName.GC_FILES]
        counting.breaks = False
        world.clock.advance(timedelta(minutes=6))
        await until(lambda: scheduler.late_sweeps(service.monotonic()) == [])
        assert scheduler.late_sweeps(now + 4 * 3600) == [
            SweepName.GC_FILES,
            SweepName.STALE_SESSIONS,
        ]
    finally:
        await stop_cleanup_scheduler(scheduler)
