"""Killed workers: what a start and the sweeps make of the jobs they left."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from app.domain import layout
from app.domain.access import OWNER
from app.domain.jobs import Job, JobStatus
from app.domain.outputs import OutputStatus
from app.services.job_rescue import Ailment, Rescued
from tests.factories import make_output
from tests.fakes.doomed_worker import POINTS
from tests.fakes.job_house import POLICY, House, eventually, prepare
from tests.fakes.steps import RESULT

REPOSITORY = Path(__file__).parents[2]


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    prepare(tmp_path)
    house = House.build(tmp_path)
    yield house
    await house.close()


def kill_a_worker(root: Path, point: str) -> None:
    """Let another process run the queued job and be killed at ``point``."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.doomed_worker", str(root), point],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9, done.stderr.decode()


@pytest.mark.parametrize("point", POINTS)
async def test_a_worker_killed_around_its_publication_leaves_nothing_and_the_job_ends_once(
    house: House, point: str
) -> None:
    job = await house.add_job()
    await asyncio.to_thread(kill_a_worker, house.root, point)

    await house.recovery.run()
    left = house.leftovers()
    if point == "after_commit":
        (output,) = await house.outputs(job.id)
        assert left == [layout.output_path(output.id)]
        assert (await house.row(job.id)).attempt == 1
    else:
        assert left == []
        assert await house.outputs(job.id) == []
        row = await house.row(job.id)
        assert (row.status, row.attempt, row.worker) == (JobStatus.QUEUED, 2, None)
        await house.runner.run(job.id, 2)

    row = await house.row(job.id)
    assert row.status is JobStatus.COMPLETED
    (output,) = await house.outputs(job.id)
    assert output.status is OutputStatus.AVAILABLE
    assert (house.root / layout.output_path(output.id)).read_bytes() == RESULT
    assert house.leftovers() == [layout.output_path(output.id)]
    assert await house.cleanups() == []
    assert [p.name for p in (house.root / layout.RUN).glob("worker-*")] == [
        f"worker-{house.worker}.lock"
    ]


async def test_recovery_leaves_the_jobs_of_living_workers_alone(house: House) -> None:
    house.steps.gate = asyncio.Event()
    job = await house.add_job()
    run = asyncio.create_task(house.runner.run(job.id, 1))
    await asyncio.wait_for(house.steps.started.wait(), 5)
    other = House.build(house.root)
    try:
        report = await other.recovery.run()
    finally:
        await other.close()

    assert (report.jobs_recovered, report.scratch_removed, report.workers_removed) == (0, 0, 0)
    house.steps.gate.set()
    await run
    assert (await house.row(job.id)).status is JobStatus.COMPLETED


async def test_recovery_twice_is_recovery_once(house: House) -> None:
    await house.add_job()
    await asyncio.to_thread(kill_a_worker, house.root, "after_rename")

    first = await house.recovery.run()
    second = await house.recovery.run()

    assert (first.jobs_recovered, first.workers_removed) == (1, 1)
    assert (second.jobs_recovered, second.outputs_removed, second.scratch_removed) == (0, 0, 0)


async def test_scratch_and_half_published_outputs_without_a_live_attempt_go(house: House) -> None:
    job = await house.add_job()
    await house.runner.run(job.id, 1)
    (kept,) = await house.outputs(job.id)
    stray = make_output(job_id=job.id, status=OutputStatus.PUBLISHING, expires_at=None)
    await house.real_db.write(lambda tx: tx.outputs.insert(stray))
    (house.root / layout.output_path(stray.id)).write_bytes(b"half")
    for folder in (f"work/{job.id}/1", f"work/{stray.id}/7"):
        (house.root / folder).mkdir(parents=True)
        (house.root / folder / "half").write_bytes(b"half a film")

    report = await house.recovery.run()

    assert (report.outputs_removed, report.scratch_removed) == (1, 2)
    assert report.bytes_freed >= len(b"half") + 2 * len(b"half a film")
    assert house.leftovers() == [layout.output_path(kept.id)]
    assert await house.outputs(job.id) == [kept]


async def claimed_by_the_dead(house: House, **changes: object) -> Job:
    """A processing job whose worker is gone; ``changes`` to its row."""
    job = await house.add_job()
    dead = House.build(house.root)
    dead.steps.gate = asyncio.Event()
    run = asyncio.create_task(dead.runner.run(job.id, 1))
    await asyncio.wait_for(dead.steps.started.wait(), 5)
    row = await house.row(job.id)
    run.cancel()
    await asyncio.wait([run])
    dead.die()
    await dead.close()
    back = replace(row, **changes)  # type: ignore[arg-type]
    await house.real_db.write(
        lambda tx: tx.jobs.update(back, expected=JobStatus.QUEUED, attempt=row.attempt + 1)
    )
    return await house.row(job.id)


async def test_a_silent_worker_s_job_is_queued_again_before_others(house: House) -> None:
    job = await claimed_by_the_dead(house)
    now = house.clock.now()
    assert house.rescue.diagnose(job, now) is None
    later = now + timedelta(seconds=POLICY.lease_seconds + 1)
    assert house.rescue.diagnose(job, later) is Ailment.SILENT

    assert await house.rescue.rescue(job, later) is Rescued.REQUEUED
    assert await house.rescue.rescue(job, later) is None

    row = await house.row(job.id)
    assert (row.status, row.attempt, row.max_attempts, row.priority) == (
        JobStatus.QUEUED,
        2,
        3,
        10,
    )


async def test_a_silent_worker_s_last_attempt_fails_as_worker_lost(house: House) -> None:
    job = await claimed_by_the_dead(house, attempt=1, max_attempts=1)
    later = house.clock.now() + timedelta(minutes=1)

    assert await house.rescue.rescue(job, later) is Rescued.WORKER_LOST

    row = await house.row(job.id)
    assert row.status is JobStatus.FAILED
    assert row.error is not None
    assert row.error.code == "worker_lost"
    assert (await house.upload(job.inputs[0].upload_id or "")).spent_at is not None


async def test_a_silent_worker_s_job_that_was_to_be_cancelled_is_cancelled(house: House) -> None:
    job = await claimed_by_the_dead(house, cancel_requested=True)
    later = house.clock.now() + timedelta(minutes=1)

    assert await house.rescue.rescue(job, later) is Rescued.CANCELLED
    assert (await house.row(job.id)).status is JobStatus.CANCELLED


async def test_a_job_far_past_its_deadline_fails_with_timeout_although_its_worker_beats(
    house: House,
) -> None:
    job = await claimed_by_the_dead(house)
    assert job.deadline_at is not None
    late = job.deadline_at + timedelta(seconds=POLICY.lease_seconds + 1)
    beating = replace(job, heartbeat_at=late)
    await house.real_db.write(
        lambda tx: tx.jobs.update(beating, expected=JobStatus.PROCESSING, attempt=1)
    )

    assert await house.rescue.rescue(beating, late) is Rescued.TIMED_OUT

    row = await house.row(job.id)
    assert row.status is JobStatus.FAILED
    assert row.error is not None
    assert row.error.code == "timeout"
    assert "30 s" in row.error.message
    assert b"tidemill_job_timeouts_total 1.0" in house.metrics.render()


async def test_a_rescue_does_not_take_a_job_whose_worker_has_just_beaten(house: House) -> None:
    job = await claimed_by_the_dead(house)
    seen = replace(job, heartbeat_at=house.clock.now() - timedelta(hours=1))

    assert await house.rescue.rescue(seen, house.clock.now()) is None
    assert (await house.row(job.id)).status is JobStatus.PROCESSING


async def test_a_queued_job_is_dispatched_again_and_an_ended_one_is_not(house: House) -> None:
    job = await house.add_job()
    now = house.clock.now() + timedelta(minutes=5)
    assert await house.rescue.redispatch(job, now) is True
    assert (await house.row(job.id)).dispatched_at == now
    await house.jobs.cancel(OWNER, job.id)
    assert await house.rescue.redispatch(job, now) is False


async def test_a_worker_that_was_stopped_and_goes_on_later_finds_itself_fenced_out(
    house: House,
) -> None:
    job = await house.add_job()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.doomed_worker", str(house.root), "stopped"),
        cwd=REPOSITORY,
    )
    try:
        await eventually(lambda: asyncio.to_thread(is_stopped, process.pid), seconds=30)
        silent = await house.row(job.id)
        later = house.clock.now() + timedelta(minutes=1)
        assert (silent.status, silent.attempt) == (JobStatus.PROCESSING, 1)
        # Its lock is held: a start leaves it alone, the sweep goes by the heartbeat.
        assert (await house.recovery.run()).jobs_recovered == 0
        assert await house.rescue.rescue(silent, later) is Rescued.REQUEUED
        await house.runner.run(job.id, 2)
        done = await house.row(job.id)
        process.send_signal(signal.SIGCONT)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert done.status is JobStatus.COMPLETED
    assert await house.row(job.id) == done
    (output,) = await house.outputs(job.id)
    assert output.attempt == 2
    assert house.leftovers() == [layout.output_path(output.id)]
    assert await house.cleanups() == []


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal (state T)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
