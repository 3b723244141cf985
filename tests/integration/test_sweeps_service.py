"""One run of a sweep: its lease, its report, its metrics, and a failure that stays its own."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from structlog.testing import capture_logs

from app.domain.errors import SweepRunning
from app.domain.sweeps import SweepName, Trigger
from app.services.sweeps import SweepLimits, SweepRun
from tests.fakes.retention import DAY, HOUR, World, open_world
from tests.fakes.sweeping import all_sweeps, sweep_service

GC = SweepName.GC_FILES


@dataclass
class Gated:
    """A sweep that runs until it is let go."""

    name: ClassVar[SweepName] = GC
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, run: SweepRun) -> None:
        run.tally.examined = 1
        self.begun.set()
        await self.go_on.wait()


class Broken:
    name: ClassVar[SweepName] = SweepName.STALE_SESSIONS

    async def run(self, run: SweepRun) -> None:
        run.tally.removed = 2
        msg = "a bug with secrets in it"
        raise RuntimeError(msg)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def test_every_sweep_of_the_catalogue_is_there_and_runs_on_an_empty_folder(
    world: World,
) -> None:
    service = sweep_service(world)
    assert set(service.names) == set(SweepName)
    for name in SweepName:
        report, victims = await service.run(name, Trigger.MANUAL)
        assert (report.errors, report.removed, victims) == ((), 0, ())


async def test_a_run_leaves_a_report_row_a_log_line_and_metrics(world: World) -> None:
    session = await world.session()
    await world.upload(session, b"half")
    await world.upload(session, b"x" * 100)
    world.clock.advance(DAY + HOUR)
    with capture_logs() as logs:
        report, _ = await sweep_service(world, leader="host:1").run(GC, Trigger.START)
    assert await world.db.read(lambda tx: tx.sweep_reports.find_latest(GC)) == report
    assert (report.trigger, report.leader) == (Trigger.START, "host:1")
    assert (report.examined, report.removed, report.skipped) == (2, 1, {"whole": 1})
    assert report.cutoff is not None
    assert 0 < report.duration_seconds < 60
    (line,) = [each for each in logs if each["event"] == "sweep.finished"]
    assert (line["sweep"], line["removed"], line["bytes_freed"]) == ("gc_files", 1, 4)
    assert line["duration_seconds"] >= 0
    text = world.metrics.render().decode()
    for name, value in [
        ("sweep_removed_total", "1.0"),
        ("sweep_bytes_freed_total", "4.0"),
        ("sweep_errors_total", "0.0"),
        ("sweep_duration_seconds_count", "1.0"),
    ]:
        assert f'tidemill_{name}{{sweep="gc_files"}} {value}' in text
    assert 'tidemill_sweep_last_success_timestamp_seconds{sweep="gc_files"} ' in text


async def test_one_run_at_a_time_across_processes_and_within_one(
    world: World, tmp_path: Path
) -> None:
    gated = Gated()
    first = sweep_service(world, sweeps=[gated], leader="one")
    async with open_world(tmp_path, world.clock) as other:
        second = sweep_service(other, leader="two")
        running = asyncio.ensure_future(first.run(GC, Trigger.INTERVAL))
        await gated.begun.wait()
        for service in (first, second):
            with pytest.raises(SweepRunning):
                await service.run(GC, Trigger.MANUAL)
        await second.run(SweepName.STALE_SESSIONS, Trigger.MANUAL)  # another sweep may run
        gated.go_on.set()
        await running
        report, _ = await second.run(GC, Trigger.MANUAL)  # the lease was given back
    assert report.leader == "two"


async def test_a_tick_is_one_run_however_many_processes_have_a_clock(
    world: World, tmp_path: Path
) -> None:
    first, every = sweep_service(world, leader="one"), timedelta(seconds=60)
    async with open_world(tmp_path, world.clock) as other:
        second = sweep_service(other, leader="two")
        await first.run(GC, Trigger.INTERVAL, every=every)
        world.clock.advance(timedelta(seconds=30))
        assert second.last_success(GC) is None
        with pytest.raises(SweepRunning):
            await second.run(GC, Trigger.INTERVAL, every=every)
        assert second.last_success(GC) == pytest.approx(second.monotonic() - 30)
        await second.run(GC, Trigger.MANUAL)  # whoever asks for it gets it
        world.clock.advance(timedelta(seconds=30))
        await first.run(GC, Trigger.INTERVAL, every=every)
        await first.run(GC, Trigger.INTERVAL, every=every)  # its own clock knows when
        world.clock.advance(timedelta(seconds=59))  # the first has died
        await second.run(GC, Trigger.INTERVAL, every=every)


async def test_a_run_that_broke_elsewhere_stands_for_no_other(world: World, tmp_path: Path) -> None:
    name, every = Broken.name, timedelta(seconds=60)
    await sweep_service(world, sweeps=[Broken()], leader="one").run(name, Trigger.INTERVAL)
    async with open_world(tmp_path, world.clock) as other:
        await sweep_service(other, leader="two").run(name, Trigger.INTERVAL, every=every)


async def test_a_long_run_keeps_its_lease(world: World, tmp_path: Path) -> None:
    gated = Gated()
    limits = SweepLimits(lease_ttl=timedelta(seconds=0.4), renew_seconds=0.1)
    first = sweep_service(world, sweeps=[gated], limits=limits)
    running = asyncio.ensure_future(first.run(GC, Trigger.INTERVAL))
    await gated.begun.wait()
    begun = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - begun < 1:
        with pytest.raises(SweepRunning):
            await sweep_service(world, leader="two").run(GC, Trigger.MANUAL)
        await asyncio.sleep(0.05)
    gated.go_on.set()
    await running


async def test_the_lease_of_a_killed_process_runs_out(world: World) -> None:
    now = world.clock.now()
    await world.db.write(
        lambda tx: tx.leases.acquire(f"sweep:{GC.value}", "dead", now=now, ttl=timedelta(minutes=2))
    )
    with pytest.raises(SweepRunning):
        await sweep_service(world).run(GC, Trigger.INTERVAL)
    world.clock.advance(timedelta(minutes=3))
    await sweep_service(world).run(GC, Trigger.INTERVAL)


async def test_a_sweep_that_breaks_is_reported_and_stops_no_other(world: World) -> None:
    service = sweep_service(world, sweeps=[Broken(), *all_sweeps(world)[:1]])
    with capture_logs() as logs:
        report, _ = await service.run(SweepName.STALE_SESSIONS, Trigger.INTERVAL)
    assert report.errors == ("sweep stale_sessions: RuntimeError",)
    assert report.removed == 2
    assert "sweep.failed" in [each["event"] for each in logs]
    assert service.last_success(SweepName.STALE_SESSIONS) is None
    text = world.metrics.render().decode()
    assert 'tidemill_sweep_errors_total{sweep="stale_sessions"} 1.0' in text
    assert 'last_success_timestamp_seconds{sweep="stale_sessions"}' not in text
    await service.run(SweepName.UNCLAIMED_UPLOADS, Trigger.INTERVAL)
    assert service.last_success(SweepName.UNCLAIMED_UPLOADS) is not None


async def test_a_cancelled_run_gives_its_lease_back(world: World) -> None:
    gated = Gated()
    service = sweep_service(world, sweeps=[gated])
    running = asyncio.ensure_future(service.run(GC, Trigger.INTERVAL))
    await gated.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    gated.go_on.set()
    await service.run(GC, Trigger.INTERVAL)


async def test_eight_runs_at_once_remove_each_victim_once(world: World, tmp_path: Path) -> None:
    session = await world.session()
    for _ in range(5):
        await world.upload(session, b"half")
    world.clock.advance(DAY + HOUR)
    outcomes = await asyncio.gather(
        *(sweep_service(world).run(GC, Trigger.INTERVAL) for _ in range(8)),
        return_exceptions=True,
    )
    reports = [each[0] for each in outcomes if not isinstance(each, BaseException)]
    assert sum(report.removed for report in reports) == 5
    assert sum(report.bytes_freed for report in reports) == 20
    assert all(isinstance(each, (tuple, SweepRunning)) for each in outcomes)
