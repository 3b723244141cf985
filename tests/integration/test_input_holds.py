"""Moving keep_inputs_hours of a batch whose jobs have ended: what stays, what goes, and when."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from app.domain.batches import Batch
from app.domain.holds import HoldPolicy
from app.domain.jobs import Job, JobStatus
from app.domain.sweeps import SweepName
from app.domain.uploads import Upload
from app.services.input_holds import plan_holds, promised_until
from app.services.job_endings import JobRules, settle_inputs
from app.services.ports import Transaction
from tests.fakes.retention import DAY, HOUR, JOB_POLICY, World, open_world
from tests.fakes.sweeping import sweep

POLICY = HoldPolicy(keep_inputs=HOUR, failed_ttl=3 * HOUR)
RULES = JobRules(JOB_POLICY, POLICY)
COMPLETED, FAILED, CANCELLED = JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED
MINUTE = timedelta(minutes=1)
CLOSE = timedelta(seconds=30)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def used(
    world: World, batch: Batch, upload: Upload, status: JobStatus = COMPLETED, **changes: object
) -> Job:
    """A job of the batch that has just ended, and let go of its input as jobs do."""
    job = await world.ended_job(status, upload, batch_id=batch.id, **changes)
    now = world.clock.now()
    await world.db.write(lambda tx: settle_inputs(tx, job, now, RULES))
    return job


async def move(world: World, batch_id: str, hours: float | None) -> None:
    """What a PATCH of ``keep_inputs_hours`` does."""

    def work(tx: Transaction) -> None:
        batch = tx.batches.find(batch_id)
        assert batch is not None
        changed = plan_holds(tx, batch, hours, POLICY)
        until = promised_until(tx.uploads.list_by_batch(batch_id), changed.expires_at)
        tx.batches.update(replace(changed, expires_at=until))

    await world.db.write(work)


async def spent_at(world: World, upload: Upload) -> datetime | None:
    found = await world.find_upload(upload.id)
    assert found is not None
    return found.spent_at


async def taken(world: World) -> int:
    return (await sweep(world, SweepName.SPENT_INPUTS)).removed


async def test_files_are_kept_longer_and_go_when_that_is_over(world: World) -> None:
    batch, (upload,) = await world.batch()
    await used(world, batch, upload)
    world.clock.advance(30 * MINUTE)
    await move(world, batch.id, 48)
    world.clock.advance(47 * HOUR)
    assert (await taken(world), await world.find_upload(upload.id) is not None) == (0, True)
    # A promised time holds the file against the end of its batch as well.
    assert (await sweep(world, SweepName.EXPIRED_BATCHES)).removed == 0
    world.clock.advance(HOUR)
    assert await taken(world) == 1
    assert world.stored() == set()


async def test_files_go_earlier_when_the_wish_is_taken_back(world: World) -> None:
    batch, (upload,) = await world.batch(keep_inputs_hours=48.0)
    await used(world, batch, upload)
    world.clock.advance(2 * HOUR)
    assert await taken(world) == 0
    await move(world, batch.id, None)
    assert await taken(world) == 1


async def test_forward_and_back_and_forward_again_ends_where_it_was(world: World) -> None:
    batch, (upload,) = await world.batch()
    await used(world, batch, upload)
    plans = []
    for hours in (48.0, 0.5, 48.0, None):
        await move(world, batch.id, hours)
        plans.append(await spent_at(world, upload))
    assert plans[0] == plans[2]
    assert plans[0] is not None
    assert plans[1] == plans[0] - 47.5 * HOUR
    assert plans[3] == plans[0] - 47 * HOUR


@pytest.mark.parametrize("status", [FAILED, CANCELLED])
async def test_the_time_for_a_retry_is_never_taken_back(world: World, status: JobStatus) -> None:
    batch, (upload,) = await world.batch()
    await used(world, batch, upload)
    await used(world, batch, upload, status)
    await move(world, batch.id, 0)
    world.clock.advance(3 * HOUR - 5 * MINUTE)
    assert await taken(world) == 0
    world.clock.advance(10 * MINUTE)
    assert await taken(world) == 1


async def test_what_a_job_reads_now_stays_whatever_the_plan(world: World) -> None:
    batch, (upload,) = await world.batch()
    await used(world, batch, upload)
    reader = await world.job(upload)
    world.clock.advance(10 * MINUTE)
    await move(world, batch.id, 0)
    assert await taken(world) == 0
    await world.db.write(lambda tx: tx.jobs.delete(reader.id))
    assert await taken(world) == 1


async def test_each_file_goes_by_the_jobs_that_used_it(world: World) -> None:
    batch, (early, late, unused) = await world.batch(3)
    await used(world, batch, early)
    world.clock.advance(30 * MINUTE)
    await used(world, batch, late)
    await move(world, batch.id, 2)
    assert await spent_at(world, unused) is None
    world.clock.advance(100 * MINUTE)
    assert await taken(world) == 1
    assert await world.find_upload(early.id) is None
    assert await world.find_upload(late.id) is not None


async def test_files_that_are_gone_stay_gone(world: World) -> None:
    batch, (gone, kept) = await world.batch(2)
    await used(world, batch, gone, from_then=True)
    await used(world, batch, kept)
    assert await taken(world) == 1
    await move(world, batch.id, 48)
    assert await world.find_upload(gone.id) is None
    assert await spent_at(world, kept) is not None


async def test_a_hold_whose_job_is_gone_moves_by_the_difference(world: World) -> None:
    batch, (upload,) = await world.batch(keep_inputs_hours=72.0)
    job = await used(world, batch, upload, expires_at=world.clock.now() + DAY)
    before = await spent_at(world, upload)
    world.clock.advance(DAY + HOUR)
    assert (await sweep(world, SweepName.EXPIRED_JOBS)).removed == 1
    assert await world.db.read(lambda tx: tx.jobs.find(job.id)) is None
    await move(world, batch.id, 100)
    assert before is not None
    assert await spent_at(world, upload) == before + 28 * HOUR
    await move(world, batch.id, 20)
    assert await taken(world) == 1
