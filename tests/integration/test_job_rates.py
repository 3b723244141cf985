"""What completed runs tell of this machine's speed, and what is made of it; retries beside sweeps."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.domain.access import OWNER
from app.domain.errors import InputDamaged, InputsDeleted, JobGone
from app.domain.jobs import InputRole, JobInput, JobStatus
from app.domain.sweeps import SweepName
from app.operations.base import Plan
from app.services.job_closing import Closed
from app.services.job_requests import JobRequest
from tests.fakes.job_life import HOUR, POLICY, Attempt, Life, make_template


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
async def life(tmp_path: Path, template: Path) -> AsyncIterator[Life]:
    life = Life.open(tmp_path, template=template)
    yield life
    await life.close()


async def started(life: Life) -> Attempt:
    """A job of a new upload, claimed."""
    upload = await life.add_upload()
    item = JobInput(InputRole.CLIP, upload_id=upload.id)
    made = await life.jobs.create(OWNER, JobRequest("polish", {}, inputs=(item,)))
    attempt = await life.claim("w1", made.view.job.id, 1)
    assert attempt is not None
    return attempt


async def run(life: Life, *, seconds: float, effort: float) -> None:
    """A run that took so long for so much."""
    attempt = await started(life)
    life.clock.advance(seconds)
    plan = Plan(steps=(), outputs=(), effort=effort)
    attempt.run.closed = await life.closing.complete(attempt.run.fence, plan)
    assert attempt.run.closed is Closed.COMPLETED


async def best(life: Life) -> float | None:
    return await life.db.read(lambda tx: tx.rates.best("polish"))


async def test_the_fastest_of_the_latest_runs_counts(life: Life) -> None:
    assert await best(life) is None
    await run(life, seconds=20, effort=2000)
    assert await best(life) == pytest.approx(0.01)
    await run(life, seconds=20, effort=10_000)
    await run(life, seconds=50, effort=1000)
    assert await best(life) == pytest.approx(0.002)


@pytest.mark.parametrize(("seconds", "effort"), [(9.9, 50_000), (30, 999), (30, 0), (0, 0)])
async def test_a_run_too_short_to_tell_anything_is_not_kept(
    life: Life, seconds: float, effort: float
) -> None:
    await run(life, seconds=seconds, effort=effort)
    assert await best(life) is None


async def test_only_the_attempt_that_completed_counts_and_only_once(life: Life) -> None:
    attempt = await started(life)
    life.clock.advance(20)
    assert await life.sweep(SweepName.JOB_TIMEOUTS) == []
    plan = Plan(steps=(), outputs=(), effort=5000)
    assert await life.closing.complete(attempt.run.fence, plan) is Closed.LOST
    assert await best(life) is None
    again = await life.claim("w2", attempt.run.job.id, 2)
    assert again is not None
    life.clock.advance(30)
    assert await life.closing.complete(again.run.fence, plan) is Closed.COMPLETED
    assert await life.closing.complete(again.run.fence, plan) is Closed.LOST
    assert await best(life) == pytest.approx(0.006)


async def test_a_job_made_long_ago_and_tried_again_waits_as_long_as_a_new_one(life: Life) -> None:
    attempt = await started(life)
    job_id = attempt.run.job.id
    await life.fail(attempt, InputDamaged())
    life.clock.advance(POLICY.queued_ttl + HOUR)
    await life.jobs.retry(OWNER, job_id)

    assert await life.sweep(SweepName.EXPIRED_JOBS) == []
    assert job_id in (await life.look([job_id], [], [])).jobs

    life.clock.advance(POLICY.queued_ttl + HOUR)
    assert await life.sweep(SweepName.EXPIRED_JOBS) == []
    assert (await life.look([job_id], [], [])).jobs == {}


@pytest.mark.parametrize("sweep", [SweepName.SPENT_INPUTS, SweepName.EXPIRED_JOBS])
@pytest.mark.parametrize("first", ["retry", "sweep", "both"])
async def test_a_retry_beside_a_sweep_has_all_it_needs_or_is_refused(
    life: Life, sweep: SweepName, first: str
) -> None:
    upload = await life.add_upload()
    item = JobInput(InputRole.CLIP, upload_id=upload.id)
    made = await life.jobs.create(OWNER, JobRequest("polish", {}, inputs=(item,)))
    job_id = made.view.job.id
    await life.jobs.cancel(OWNER, job_id)
    life.clock.advance(HOUR + HOUR)  # past the hold on its input and past its own retention

    async def sweep_then() -> None:
        if first == "retry":
            await asyncio.sleep(0.05)
        assert await life.sweep(sweep) == []

    async def retry_then() -> str:
        if first == "sweep":
            await asyncio.sleep(0.05)
        try:
            return (await life.jobs.retry(OWNER, job_id)).job.status
        except (InputsDeleted, JobGone) as error:
            return error.code

    outcome, _ = await asyncio.gather(retry_then(), sweep_then())
    lost = "inputs_deleted" if sweep is SweepName.SPENT_INPUTS else "job_gone"
    assert outcome in {"both": {"queued", lost}, "retry": {"queued"}, "sweep": {lost}}[first]
    found = await life.look([job_id], [upload.id], [])
    if outcome == "queued":
        assert found.jobs[job_id].status is JobStatus.QUEUED
        assert [each.id for each in found.uploads] == [upload.id]
        for name in (SweepName.SPENT_INPUTS, SweepName.EXPIRED_JOBS):
            assert await life.sweep(name) == []
        attempt = await life.claim("w1", job_id, 2)
        assert attempt is not None
        for step in (life.work, life.announce, life.rename, life.complete):
            await step(attempt)
        assert attempt.run.closed is Closed.COMPLETED
    elif sweep is SweepName.SPENT_INPUTS:
        assert found.jobs[job_id].status is JobStatus.CANCELLED
        assert found.uploads == []
    else:
        assert found.jobs == {}
