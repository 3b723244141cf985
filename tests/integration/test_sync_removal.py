"""What a request brought and made goes, whoever has to do it; what it named by its id stays."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.domain import layout
from app.domain.access import OWNER
from app.domain.errors import RenderFailed
from app.domain.ids import new_id
from app.domain.jobs import Job, JobInput, JobStatus
from app.domain.requests import OpenRequest
from app.domain.sweeps import SweepName
from app.domain.tombstones import Reason, ThingKind
from app.infrastructure.worker.worker_lock import WorkerLock, WorkerLocks
from app.services import batch_endings
from app.services.disposal import Disposal
from app.services.job_endings import JobRules
from app.services.ports import Transaction
from app.services.sweeps.base import SweepRun
from app.services.sweeps.jobs import ExpiredJobs, JobTimeouts
from app.services.sync_removal import RequestRemoval
from tests.factories import make_input, make_job, make_request
from tests.fakes.job_house import HOLDS, House, prepare
from tests.fakes.media import CLIP


@dataclass
class Held:
    """A request with all that it may have: its rows, and a clip that is somebody else's."""

    request: OpenRequest
    job: Job
    upload_id: str
    foreign_id: str


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    prepare(tmp_path)
    found = House.build(tmp_path, workers=0)
    yield found
    await found.close()


@pytest.fixture
def removal(house: House) -> RequestRemoval:
    return RequestRemoval(
        db=house.db,
        clock=house.clock,
        disposal=Disposal(house.db, house.files, house.clock, house.metrics),
        queue=house.engine,
        jobs=house.jobs,
        rescue=house.rescue,
        workers=WorkerLocks(house.root / layout.RUN),
        rules=JobRules(house.policy, HOLDS),
        worker=house.worker,
    )


async def hold(house: House, of_worker: str, **job: object) -> Held:
    """Write down a request of a worker that has come as far as its job."""
    batch, (own,) = await house.add_batch(CLIP)
    _, (foreign,) = await house.add_batch(CLIP)
    inputs: tuple[JobInput, ...] = (make_input(own.id), make_input(foreign.id, order=1))
    made = make_job(inputs=inputs, batch_id=batch.id, created_at=house.clock.now(), **job)
    request = OpenRequest(
        *(new_id(), OWNER, of_worker, batch.session_id, made.id),
        is_over=False,
        created_at=house.clock.now(),
    )

    def insert(tx: Transaction) -> None:
        session = tx.sessions.find(batch.session_id)
        assert session is not None
        tx.sessions.update(replace(session, batch_id=batch.id), expected=session.status)
        tx.requests.insert(request)
        tx.jobs.insert(made)

    await house.real_db.write(insert)
    folder = house.root / request.folder
    folder.mkdir(parents=True)
    (folder / "0").write_bytes(b"half a clip")
    return Held(request, made, own.id, foreign.id)


async def is_gone(house: House, held: Held) -> bool:
    """Whether all that was the request's own is gone, and only that."""

    def look(tx: Transaction) -> list[bool]:
        buried = tx.tombstones.find(ThingKind.JOB, held.job.id)
        return [
            tx.requests.find(held.request.id) is None,
            tx.jobs.find(held.job.id) is None,
            buried is not None and buried.reason is Reason.REQUEST_ENDED,
            tx.uploads.find(held.upload_id) is None,
            tx.sessions.find(held.request.session_id) is None,
            tx.uploads.find(held.foreign_id) is not None,
            tx.cleanup.count() == 0,
        ]

    rows = await house.real_db.read(look)
    files = [
        not (house.root / layout.upload_path(held.upload_id)).exists(),
        (house.root / layout.upload_path(held.foreign_id)).exists(),
    ]
    return all([*rows, *files])


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.PROCESSING])
async def test_a_sweep_takes_what_a_dead_process_left_and_leaves_what_it_only_named(
    house: House, removal: RequestRemoval, status: JobStatus
) -> None:
    dead = new_id()
    running = {"worker": dead, "started_at": house.clock.now(), "heartbeat_at": house.clock.now()}
    more = running if status is JobStatus.PROCESSING else {}
    held = await hold(house, dead, status=status, **more)
    sweep = JobTimeouts(house.db, house.rescue, removal)

    rehearsal = SweepRun(SweepName.JOB_TIMEOUTS, house.clock.now(), 10, dry_run=True)
    await sweep.run(rehearsal)
    assert [victim.kind for victim in rehearsal.tally.victims] == ["request"]
    assert not await is_gone(house, held)

    run = SweepRun(SweepName.JOB_TIMEOUTS, house.clock.now(), 10)
    with capture_logs() as logs:
        await sweep.run(run)
    assert (run.tally.removed, run.tally.errors) == (1, [])
    assert await is_gone(house, held)
    (told,) = [each for each in logs if each["event"] == "render.taken_back"]
    assert told["removed"] == 3
    assert told["bytes_freed"] > len(b"half a clip")
    assert not (house.root / layout.WORK / dead).exists()
    await sweep.run(run)
    assert run.tally.removed == 1


async def test_a_job_that_another_process_runs_has_to_end_first(
    house: House, removal: RequestRemoval
) -> None:
    other = new_id()
    alive = WorkerLock.acquire(house.root / layout.RUN, other)
    try:
        running = {"worker": other, "heartbeat_at": house.clock.now()}
        held = await hold(house, new_id(), status=JobStatus.PROCESSING, **running)
        assert await removal.take_back(held.request) is None
        row = await house.row(held.job.id)
        assert (row.status, row.cancel_requested) == (JobStatus.PROCESSING, True)
        assert not await is_gone(house, held)
    finally:
        alive.release()
    assert await removal.take_back(held.request) is not None
    assert await is_gone(house, held)


async def test_a_living_process_s_request_is_left_alone_until_it_says_that_it_is_over(
    house: House, removal: RequestRemoval, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_endings, "DELETE_WAIT_SECONDS", 0.1)
    other = new_id()
    alive = WorkerLock.acquire(house.root / layout.RUN, other)
    try:
        running = {"worker": other, "heartbeat_at": house.clock.now()}
        theirs = await hold(house, other, status=JobStatus.PROCESSING, **running)
        assert await removal.list_left(9) == []
        # As its own process does it, in vain: the job goes on.
        own = replace(house.jobs, cancel_wait_seconds=0.1)
        await replace(removal, worker=other, jobs=own).end(theirs.request)
        (left,) = await removal.list_left(9)
        assert left == replace(theirs.request, is_over=True)
        assert await removal.take_back(left) is None
    finally:
        alive.release()
    assert await removal.take_all_back() == 1
    assert await is_gone(house, theirs)


async def test_this_process_s_own_request_is_left_alone_while_it_is_open(
    house: House, removal: RequestRemoval
) -> None:
    held = await hold(house, house.worker)
    (left,) = await removal.list_left(9)
    assert left == held.request
    await house.real_db.write(lambda tx: tx.requests.delete(held.request.id))
    await removal.begin(held.request)
    assert await removal.list_left(9) == []
    await removal.end(held.request)
    assert await is_gone(house, held)
    await asyncio.gather(removal.end(held.request), removal.end(held.request))


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
async def test_what_is_named_by_its_id_is_not_spent_either(
    house: House, removal: RequestRemoval, ending: str
) -> None:
    once = {"operation": "join", "params": {}, "max_attempts": 1}
    held = await hold(house, house.worker, status=JobStatus.QUEUED, **once)
    await house.real_db.write(lambda tx: tx.requests.delete(held.request.id))
    await removal.begin(held.request)

    async def fail(_: Path, __: object) -> None:
        raise RenderFailed("It broke.")

    house.steps.script = fail if ending == "failed" else None
    if ending == "cancelled":
        await house.jobs.cancel(OWNER, held.job.id)
    else:
        await house.runner.run(held.job.id, held.job.attempt)
    assert (await house.row(held.job.id)).status == ending
    await removal.end(held.request)
    assert await is_gone(house, held)
    assert (await house.upload(held.foreign_id)).spent_at is None


async def test_no_sweep_takes_a_result_that_a_request_is_about_to_send(
    house: House, removal: RequestRemoval
) -> None:
    once = {"operation": "join", "params": {}}
    held = await hold(house, house.worker, status=JobStatus.QUEUED, **once)
    await house.runner.run(held.job.id, held.job.attempt)
    later = house.clock.now() + house.policy.completed_ttl + timedelta(hours=1)
    disposal = Disposal(house.db, house.files, house.clock, house.metrics)
    run = SweepRun(SweepName.EXPIRED_JOBS, later, 10)
    await ExpiredJobs(house.db, disposal, house.policy).run(run)
    assert (run.tally.removed, dict(run.tally.skipped)) == (0, {"in_use": 2})
    (output,) = await house.outputs(held.job.id)
    assert (house.root / layout.output_path(output.id)).exists()
    await removal.end(held.request)
    assert await is_gone(house, held)


async def test_a_request_that_is_cancelled_while_it_is_written_down_leaves_no_row(
    house: House, removal: RequestRemoval
) -> None:
    request = make_request(house.worker, make_job())
    begun = asyncio.create_task(removal.begin(request))
    await asyncio.sleep(0)
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    assert await house.real_db.read(lambda tx: tx.requests.find(request.id)) is None
    assert await removal.list_left(9) == []
