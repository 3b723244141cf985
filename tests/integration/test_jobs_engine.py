"""The embedded engine: who gets which job, how many at a time, and what stops it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from app.domain.errors import QueueFull
from app.domain.jobs import JobStatus
from app.domain.sessions import Then
from app.infrastructure.worker.embedded import EmbeddedEngine
from app.operations.registry import Registry
from app.services.batching import make_batch
from app.services.ports import ProgressCallback, Transaction
from tests.factories import make_completed_upload, make_job, make_session
from tests.fakes.job_house import POLICY, House, eventually, prepare
from tests.fakes.steps import Polish


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    prepare(tmp_path)
    house = House.build(tmp_path)
    yield house
    await house.close()


async def all_ended(house: House) -> bool:
    totals = await house.real_db.read(lambda tx: tx.jobs.totals())
    return not totals.get(JobStatus.QUEUED, 0) + totals.get(JobStatus.PROCESSING, 0)


async def test_two_engines_on_one_database_run_thirty_jobs_once_each(house: House) -> None:
    other = House.build(house.root)
    batch, uploads = await house.add_batch(b"clip one")
    jobs = [
        make_job(
            operation="polish",
            params={},
            batch_id=batch.id,
            inputs=(replace(make_job().inputs[0], upload_id=uploads[0].id),),
            created_at=house.clock.now() + timedelta(microseconds=place),
        )
        for place in range(30)
    ]

    def insert(tx: Transaction) -> None:
        for job in jobs:
            tx.jobs.insert(job)

    await house.real_db.write(insert)
    try:
        for each in (house, other):
            each.engine.start(each.runner)
        await eventually(lambda: all_ended(house), seconds=60)
    finally:
        await other.close()

    runs = Counter(folder.parent.name for folder in house.steps.folders + other.steps.folders)
    assert runs == {job.id: 2 for job in jobs}  # two steps each
    for job in jobs:
        assert (await house.row(job.id)).status is JobStatus.COMPLETED
        assert len(await house.outputs(job.id)) == 1
    assert max(house.steps.most_living, other.steps.most_living) <= 2
    assert house.steps.folders
    assert other.steps.folders


async def test_higher_priority_goes_first(tmp_path: Path) -> None:
    prepare(tmp_path)
    house = House.build(tmp_path, workers=1)
    try:
        low = await house.add_job(priority=-5)
        high = await house.add_job(priority=5)
        house.engine.start(house.runner)
        await eventually(lambda: all_ended(house))
        assert [f.parent.name for f in house.steps.folders] == [high.id] * 2 + [low.id] * 2
    finally:
        await house.close()


async def test_a_new_job_wakes_the_loop_at_once(tmp_path: Path) -> None:
    prepare(tmp_path)
    house = House.build(tmp_path)
    engine = EmbeddedEngine(house.db, house.clock, workers=1, poll_seconds=60)
    try:
        engine.start(house.runner)
        await asyncio.sleep(0.1)
        job = await house.add_job()
        await engine.enqueue(job.id, 1)
        row = await house.until(job.id, JobStatus.COMPLETED)
        assert row.dispatched_at is not None
    finally:
        await engine.stop()
        await house.close()


async def test_no_workers_means_no_work(tmp_path: Path) -> None:
    prepare(tmp_path)
    house = House.build(tmp_path, workers=0)
    try:
        house.engine.start(house.runner)
        job = await house.add_job()
        await asyncio.sleep(0.4)
        assert (await house.row(job.id)).status is JobStatus.QUEUED
    finally:
        await house.close()


async def test_a_bug_fails_its_job_after_the_attempts_and_the_engine_goes_on(
    house: House,
) -> None:
    async def script(_: Path, __: ProgressCallback) -> None:
        raise ZeroDivisionError

    house.steps.script = script
    job = await house.add_job()
    with capture_logs() as logs:
        house.engine.start(house.runner)
        row = await house.until(job.id, JobStatus.FAILED)

    assert row.attempt == 3
    assert row.error is not None
    assert row.error.code == "internal_error"
    crashes = [entry for entry in logs if entry["event"] == "job.crashed"]
    assert [(entry["job_id"], entry["attempt"]) for entry in crashes] == [
        (job.id, 1),
        (job.id, 2),
        (job.id, 3),
    ]
    await eventually(house.is_tidy)
    house.steps.script = None
    fine = await house.add_job()
    await house.until(fine.id, JobStatus.COMPLETED)


async def test_a_loop_that_dies_says_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> list[object]:
        raise ZeroDivisionError

    monkeypatch.setattr(house.engine, "_claimable", broken)
    house.engine.start(house.runner)

    error = await asyncio.wait_for(house.engine.failed, 5)

    assert isinstance(error, ExceptionGroup)
    assert error.subgroup(ZeroDivisionError) is not None


async def test_a_stopped_engine_has_not_failed(house: House) -> None:
    house.engine.start(house.runner)
    await asyncio.sleep(0.05)
    await house.engine.stop()
    await house.engine.stop()
    assert not house.engine.failed.done()


async def test_a_full_queue_refuses_and_jobs_of_then_are_exempt(house: House) -> None:
    for _ in range(POLICY.queue_limit):
        await house.add_job()
    with pytest.raises(QueueFull) as refused:
        await house.add_job()
    assert refused.value.retry_after_seconds
    assert refused.value.extra == {"queued": POLICY.queue_limit, "limit": POLICY.queue_limit}

    now = house.clock.now()
    session = make_session(then=Then("polish", {}), expected_files=1)
    upload = make_completed_upload(session_id=session.id)

    def fill(tx: Transaction) -> int:
        tx.sessions.insert(session)
        tx.uploads.insert(upload)
        made = make_batch(
            tx,
            session,
            now=now,
            batch_ttl=timedelta(hours=1),
            job_policy=POLICY,
            operations=Registry([Polish()]),
        )
        return len(made.jobs)

    assert await house.real_db.write(fill) == 1
    totals = await house.real_db.read(lambda tx: tx.jobs.totals())
    assert totals[JobStatus.QUEUED] == POLICY.queue_limit + 1


async def test_jobs_and_their_ends_are_logged_with_their_ids(house: House) -> None:
    with capture_logs() as logs:
        job = await house.add_job()
        await house.runner.run(job.id, 1)
    events = [entry["event"] for entry in logs]
    assert [e for e in events if e.startswith("job.")] == [
        "job.created",
        "job.claimed",
        "job.completed",
    ]
    assert "scratch.removed" in events


async def test_metrics_tell_how_long_a_job_took_and_how_it_ended(house: House) -> None:
    series = 'tidemill_job_duration_seconds_count{operation="polish",outcome="completed"}'
    assert f"{series} 1.0" not in house.metrics.render().decode()
    job = await house.add_job()
    await house.runner.run(job.id, 1)
    assert f"{series} 1.0" in house.metrics.render().decode()
