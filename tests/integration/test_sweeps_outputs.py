"""delivered_outputs, and what expired_jobs does with outputs, over a real folder and database."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.domain.jobs import Job, JobStatus
from app.domain.outputs import Output, OutputStatus
from app.domain.sweeps import SweepName
from app.domain.tombstones import Reason, ThingKind
from app.services.ports import Transaction
from tests.fakes.retention import DAY, HOUR, RETENTION_POLICY, World, open_world
from tests.fakes.sweeping import dry_run, sweep

DELIVERED, EXPIRED = SweepName.DELIVERED_OUTPUTS, SweepName.EXPIRED_JOBS
GRACE = RETENTION_POLICY.delivery_grace
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def output_of(world: World, job: Job, **changes: Any) -> Output:
    output = await world.output(job)
    changed = replace(output, **changes)

    def write(tx: Transaction) -> None:
        tx.outputs.delete(output.id)
        tx.outputs.insert(changed)

    await world.db.write(write)
    return changed


async def delivered(world: World, job: Job | None = None, **changes: Any) -> Output:
    """A one-time output that its client has, as of now."""
    job = job or await world.ended_job(JobStatus.COMPLETED, expires_at=world.clock.now() + DAY)
    how = {
        "one_time": True,
        "status": OutputStatus.DELIVERED,
        "delivered_at": world.clock.now(),
        "expires_at": job.expires_at,
    }
    return await output_of(world, job, **{**how, **changes})


async def find_output(world: World, output_id: str) -> Output | None:
    return await world.db.read(lambda tx: tx.outputs.find(output_id))


def path_of(output: Output) -> str:
    return f"outputs/{output.id}"


# --- delivered_outputs ---------------------------------------------------------------------------


async def test_a_delivered_output_goes_after_its_grace_and_its_job_stays(world: World) -> None:
    output = await delivered(world)
    world.clock.advance(GRACE + MINUTE)
    report = await sweep(world, DELIVERED)
    assert (report.removed, report.bytes_freed, report.errors) == (1, 50, ())
    assert world.stored() == set()
    assert await world.pending() == []
    tombstone = await world.tombstone(ThingKind.OUTPUT, output.id)
    assert tombstone is not None
    assert (tombstone.reason, tombstone.sweep) == (Reason.DELIVERED, "delivered_outputs")
    assert (tombstone.parent_id, tombstone.size_bytes) == (output.job_id, 50)
    job = await world.db.read(lambda tx: tx.jobs.find(output.job_id))
    assert job is not None
    assert job.status is JobStatus.COMPLETED
    assert (await sweep(world, DELIVERED)).examined == 0


async def test_outputs_within_their_grace_undelivered_or_still_read_stay(world: World) -> None:
    job = await world.ended_job(JobStatus.COMPLETED, expires_at=world.clock.now() + DAY)
    read = await delivered(world, job)
    reader = await world.job(read)
    waiting = await output_of(world, job, one_time=True)
    ordinary = await output_of(world, job)
    world.clock.advance(GRACE + MINUTE)
    fresh = await delivered(world, job, delivered_at=world.clock.now() - GRACE + MINUTE)
    kept = [read, waiting, ordinary, fresh]
    assert (await sweep(world, DELIVERED)).removed == 0
    assert world.stored() == {path_of(each) for each in kept}
    assert [await find_output(world, each.id) for each in kept] == kept
    await world.db.write(lambda tx: tx.jobs.delete(reader.id))
    assert (await sweep(world, DELIVERED)).removed == 1
    assert await find_output(world, read.id) is None


async def test_a_job_that_begins_to_read_between_look_and_burial_keeps_the_output(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = await delivered(world)
    world.clock.advance(GRACE + MINUTE)
    size = world.files.size
    write = world.db.write

    async def write_after_job(work: Any) -> Any:
        monkeypatch.setattr(world.db, "write", write)
        await world.job(output)
        return await write(work)

    def size_then_job(path: str) -> int | None:
        monkeypatch.setattr(world.db, "write", write_after_job)
        return size(path)

    monkeypatch.setattr(world.files, "size", size_then_job)
    assert (await sweep(world, DELIVERED)).skipped == {"in_use": 1}
    assert world.stored() == {path_of(output)}


async def test_delivered_outputs_stops_at_its_limit_and_a_dry_run_removes_none(
    world: World,
) -> None:
    for _ in range(3):
        await delivered(world)
    world.clock.advance(GRACE + MINUTE)
    before = world.stored()
    _, victims = await dry_run(world, DELIVERED)
    assert [(each.kind, each.size_bytes) for each in victims] == [("output", 50)] * 3
    assert world.stored() == before
    assert [(await sweep(world, DELIVERED, limit=2)).removed for _ in range(3)] == [2, 1, 0]


@pytest.mark.parametrize(("name", "later"), [(DELIVERED, GRACE + MINUTE), (EXPIRED, 2 * HOUR)])
async def test_an_output_whose_row_died_before_its_bytes_is_settled_later(
    world: World, monkeypatch: pytest.MonkeyPatch, name: SweepName, later: timedelta
) -> None:
    output = await delivered(world, expires_at=world.clock.now() + HOUR)
    world.clock.advance(later)
    with monkeypatch.context() as patch:

        async def die(_: object) -> None:
            raise SystemExit

        patch.setattr(world.disposal, "settle_each", die)
        with pytest.raises(SystemExit):
            await sweep(world, name)
    assert await find_output(world, output.id) is None
    assert world.stored() == {path_of(output)}
    assert (await sweep(world, SweepName.SPENT_INPUTS)).bytes_freed == 50
    assert world.stored() == set()


async def test_one_output_that_cannot_be_deleted_does_not_stop_the_others(world: World) -> None:
    bad, *_ = [await delivered(world) for _ in range(3)]
    path = world.path(path_of(bad))
    path.unlink()
    path.mkdir()
    world.clock.advance(GRACE + MINUTE)
    report = await sweep(world, DELIVERED)
    assert report.bytes_freed == 100
    assert report.removed + len(report.errors) == 3


# --- expired_jobs and outputs with times of their own --------------------------------------------


async def test_an_output_past_its_own_earlier_time_goes_and_the_rest_of_its_job_stays(
    world: World,
) -> None:
    job = await world.ended_job(JobStatus.COMPLETED, expires_at=world.clock.now() + DAY)
    early = await output_of(world, job, expires_at=world.clock.now() + HOUR)
    other = await output_of(world, job, expires_at=world.clock.now() + DAY)
    endless = await output_of(world, job)
    world.clock.advance(2 * HOUR)
    _, victims = await dry_run(world, EXPIRED)
    assert [(each.kind, each.id, each.size_bytes) for each in victims] == [("output", early.id, 50)]
    report = await sweep(world, EXPIRED)
    assert (report.removed, report.bytes_freed, report.errors) == (1, 50, ())
    assert world.stored() == {path_of(other), path_of(endless)}
    tombstone = await world.tombstone(ThingKind.OUTPUT, early.id)
    assert tombstone is not None
    assert (tombstone.reason, tombstone.sweep) == (Reason.OUTPUT_EXPIRED, "expired_jobs")
    assert await world.db.read(lambda tx: tx.jobs.find(job.id)) == job
    assert (await sweep(world, EXPIRED)).removed == 0


async def test_an_output_that_another_job_reads_outlives_its_time(world: World) -> None:
    job = await world.ended_job(JobStatus.COMPLETED, expires_at=world.clock.now() + DAY)
    output = await output_of(world, job, expires_at=world.clock.now() + HOUR)
    reader = await world.job(output)
    world.clock.advance(2 * HOUR)
    assert (await sweep(world, EXPIRED)).removed == 0
    assert world.stored() == {path_of(output)}
    await world.db.write(lambda tx: tx.jobs.delete(reader.id))
    assert (await sweep(world, EXPIRED)).removed == 1


async def test_a_job_stays_as_long_as_one_of_its_outputs_is_promised(world: World) -> None:
    job = await world.ended_job(JobStatus.COMPLETED, expires_at=world.clock.now() + HOUR)
    kept = await output_of(world, job, expires_at=world.clock.now() + 2 * DAY)
    world.clock.advance(DAY)
    report = await sweep(world, EXPIRED)
    assert (report.removed, report.skipped) == (0, {"output_kept": 1})
    assert (await dry_run(world, EXPIRED))[1] == ()
    assert world.stored() == {path_of(kept)}
    world.clock.advance(2 * DAY)
    assert (await sweep(world, EXPIRED)).removed == 1
    assert world.stored() == set()
    assert await world.db.read(lambda tx: tx.jobs.find(job.id)) is None


async def test_jobs_and_outputs_of_expired_jobs_share_its_limit(world: World) -> None:
    for _ in range(2):
        await world.output(await world.ended_job(JobStatus.COMPLETED))
    job = await world.ended_job(JobStatus.COMPLETED, expires_at=world.clock.now() + 9 * DAY)
    for _ in range(3):
        await output_of(world, job, expires_at=world.clock.now() + HOUR)
    world.clock.advance(2 * HOUR)
    assert len((await dry_run(world, EXPIRED))[1]) == 5
    assert [(await sweep(world, EXPIRED, limit=3)).removed for _ in range(3)] == [3, 2, 0]
