"""job_timeouts, undispatched_jobs and expired_jobs over a real folder and database."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.domain.jobs import Job, JobError, JobStatus
from app.domain.sweeps import SweepName, SweepReport, Trigger
from app.domain.tombstones import Reason, ThingKind
from app.services.sweeps import SweepLimits
from tests.fakes.retention import DAY, HOUR, World, open_world
from tests.fakes.sweeping import RememberingQueue, all_sweeps, dry_run, sweep, sweep_service

TIMEOUTS, UNDISPATCHED = SweepName.JOB_TIMEOUTS, SweepName.UNDISPATCHED_JOBS
EXPIRED = SweepName.EXPIRED_JOBS
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


@pytest.fixture
def queue() -> RememberingQueue:
    return RememberingQueue()


async def sweep_with(world: World, queue: RememberingQueue, name: SweepName) -> SweepReport:
    service = sweep_service(world, sweeps=all_sweeps(world, queue), limits=SweepLimits(victims=10))
    report, _ = await service.run(name, Trigger.INTERVAL)
    return report


async def find_job(world: World, job_id: str) -> Job | None:
    return await world.db.read(lambda tx: tx.jobs.find(job_id))


def running(world: World, **changes: Any) -> dict[str, Any]:
    now = world.clock.now()
    return {
        "status": JobStatus.PROCESSING,
        "worker": "w1",
        "started_at": now,
        "heartbeat_at": now,
        "deadline_at": now + 10 * MINUTE,
        **changes,
    }


async def test_a_job_with_a_silent_worker_is_queued_again(
    world: World, queue: RememberingQueue
) -> None:
    job = await world.job(**running(world))
    world.clock.advance(MINUTE)
    alive = await world.job(**running(world))
    assert (await sweep_with(world, queue, TIMEOUTS)).removed == 1
    found = await find_job(world, job.id)
    assert found is not None
    assert (found.status, found.attempt) == (JobStatus.QUEUED, 2)
    assert queue.told == [(job.id, 2)]
    assert await find_job(world, alive.id) == alive
    assert (await sweep_with(world, queue, TIMEOUTS)).removed == 0


async def test_a_job_past_its_deadline_fails_with_timeout(
    world: World, queue: RememberingQueue
) -> None:
    job = await world.job(**running(world, deadline_at=world.clock.now() - MINUTE))
    report = await sweep_with(world, queue, TIMEOUTS)
    assert report.removed == 1
    found = await find_job(world, job.id)
    assert found is not None
    assert found.error is not None
    assert (found.status, found.error.code) == (JobStatus.FAILED, "timeout")
    assert b"tidemill_job_timeouts_total 1.0" in world.metrics.render()


async def test_a_dry_run_of_job_timeouts_names_the_job_and_lets_it_run(world: World) -> None:
    job = await world.job(**running(world, deadline_at=world.clock.now() - MINUTE))
    _, victims = await dry_run(world, TIMEOUTS)
    assert [(each.id, each.why) for each in victims] == [(job.id, "deadline_passed")]
    assert await find_job(world, job.id) == job


async def test_queued_jobs_nobody_was_told_of_are_dispatched_once(
    world: World, queue: RememberingQueue
) -> None:
    now = world.clock.now()
    forgotten = await world.job(dispatched_at=None)
    old = await world.job(dispatched_at=now - 5 * MINUTE)
    await world.job(dispatched_at=now)
    await world.job(**running(world))
    _, victims = await dry_run(world, UNDISPATCHED)
    assert {each.id for each in victims} == {forgotten.id, old.id}
    assert queue.told == []
    assert (await sweep_with(world, queue, UNDISPATCHED)).removed == 2
    assert sorted(queue.told) == sorted([(forgotten.id, 1), (old.id, 1)])
    assert (await sweep_with(world, queue, UNDISPATCHED)).removed == 0


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (JobStatus.COMPLETED, Reason.RETENTION_COMPLETED),
        (JobStatus.FAILED, Reason.RETENTION_FAILED),
        (JobStatus.CANCELLED, Reason.RETENTION_FAILED),
    ],
)
async def test_an_ended_job_past_its_retention_goes_with_outputs_and_scratch(
    world: World, status: JobStatus, reason: Reason
) -> None:
    batch, (upload,) = await world.batch()
    error = JobError("not_media", "no") if status is JobStatus.FAILED else None
    job = await world.ended_job(status, upload, batch_id=batch.id, from_then=True, error=error)
    output = await world.output(job)
    scratch = world.path(f"work/{job.id}/1")
    scratch.mkdir(parents=True)
    (scratch / "half.mp4").write_bytes(b"z" * 25)
    world.clock.advance(2 * HOUR)
    report = await sweep(world, EXPIRED)
    assert (report.removed, report.bytes_freed, report.errors) == (1, 75, ())
    assert await find_job(world, job.id) is None
    assert world.stored() == {f"uploads/{upload.id}"}
    assert list(world.path("work").iterdir()) == []
    of_job = await world.tombstone(ThingKind.JOB, job.id)
    of_output = await world.tombstone(ThingKind.OUTPUT, output.id)
    assert of_job is not None
    assert of_output is not None
    assert (of_job.reason, of_job.parent_id, of_job.size_bytes) == (reason, batch.id, 50)
    assert of_job.error_code == (error.code if error else None)
    assert (of_output.reason, of_output.parent_id) == (reason, job.id)
    assert (await sweep(world, EXPIRED)).examined == 0


async def test_a_job_that_nobody_ever_ran_goes_after_its_time(world: World) -> None:
    old = await world.job()
    world.clock.advance(DAY + HOUR)
    young = await world.job()
    assert (await sweep(world, EXPIRED)).removed == 1
    tombstone = await world.tombstone(ThingKind.JOB, old.id)
    assert tombstone is not None
    assert tombstone.reason is Reason.RETENTION_QUEUED
    assert await find_job(world, young.id) == young


async def test_running_jobs_and_those_within_their_retention_stay(world: World) -> None:
    kept = [
        await world.ended_job(JobStatus.COMPLETED, expires_at=world.clock.now() + 9 * DAY),
        await world.job(**running(world)),
    ]
    world.clock.advance(2 * DAY)
    assert (await sweep(world, EXPIRED)).removed == 0
    assert [await find_job(world, job.id) for job in kept] == kept


async def test_a_job_whose_output_another_job_reads_stays_until_that_one_ends(
    world: World,
) -> None:
    first = await world.ended_job(JobStatus.COMPLETED)
    output = await world.output(first)
    reader = await world.job(output)
    world.clock.advance(2 * HOUR)
    assert (await sweep(world, EXPIRED)).skipped == {"in_use": 1}
    assert world.stored() == {f"outputs/{output.id}"}
    await world.db.write(lambda tx: tx.jobs.delete(reader.id))
    assert (await sweep(world, EXPIRED)).removed == 1
    assert world.stored() == set()


async def test_expired_jobs_stops_at_its_limit_and_a_dry_run_removes_none(world: World) -> None:
    for _ in range(3):
        await world.output(await world.ended_job(JobStatus.COMPLETED))
    world.clock.advance(2 * HOUR)
    before = world.stored()
    _, victims = await dry_run(world, EXPIRED)
    assert [each.size_bytes for each in victims] == [50, 50, 50]
    assert world.stored() == before
    assert [(await sweep(world, EXPIRED, limit=2)).removed for _ in range(3)] == [2, 1, 0]


async def test_a_job_whose_rows_died_before_its_bytes_is_settled_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.ended_job(JobStatus.COMPLETED)
    await world.output(job)
    world.clock.advance(2 * HOUR)
    with monkeypatch.context() as patch:

        async def die(_: object) -> None:
            raise SystemExit

        patch.setattr(world.disposal, "settle_each", die)
        with pytest.raises(SystemExit):
            await sweep(world, EXPIRED)
    assert await find_job(world, job.id) is None
    assert len(world.stored()) == 1
    assert (await sweep(world, SweepName.SPENT_INPUTS)).bytes_freed == 50
    assert world.stored() == set()
