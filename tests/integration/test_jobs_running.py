"""One attempt of a job, from claim to every way it can end."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from app.domain import layout
from app.domain.access import OWNER
from app.domain.errors import DatabaseBusy, InputDamaged, NoSpace, RenderFailed
from app.domain.jobs import JobStatus
from app.domain.outputs import OutputStatus
from app.services.ports import Database, ProgressCallback, Transaction
from tests.factories import make_input, make_job
from tests.fakes.job_house import HOLDS, POLICY, House, eventually, prepare
from tests.fakes.media import CLIP
from tests.fakes.steps import RESULT

T = TypeVar("T")

CANCEL_SECONDS = 3.0
"""What is promised of every job."""


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    prepare(tmp_path)
    house = House.build(tmp_path)
    yield house
    await house.close()


@pytest_asyncio.fixture
async def other(house: House) -> AsyncIterator[House]:
    """A second process on the same folder."""
    other = House.build(house.root)
    yield other
    await other.close()


async def test_a_job_that_succeeds_leaves_its_output_and_nothing_else(house: House) -> None:
    job = await house.add_job()

    await house.runner.run(job.id, 1)

    view = await house.view(job.id)
    assert view.job.status is JobStatus.COMPLETED
    assert (view.job.progress, view.job.stage, view.job.worker) == (100.0, None, None)
    assert view.job.result == {"until": 5.0}
    assert view.job.warnings == ("It shines.",)
    (output,) = view.outputs
    assert output.status is OutputStatus.AVAILABLE
    assert (output.filename, output.media_type) == ("clip0-shiny.mp4", "video/mp4")
    assert (output.size_bytes, output.sha256) == (
        len(RESULT),
        hashlib.sha256(RESULT).hexdigest(),
    )
    assert output.expires_at == view.job.expires_at
    assert (house.root / layout.output_path(output.id)).read_bytes() == RESULT
    assert house.leftovers() == [layout.output_path(output.id)]
    assert await house.cleanups() == []


async def test_the_log_says_which_input_was_wrong_and_not_what_its_owner_calls_it(
    house: House,
) -> None:
    batch, uploads = await house.add_batch(CLIP, b"no clip")
    inputs = tuple(make_input(upload.id, order=n) for n, upload in enumerate(uploads))
    job = make_job(operation="join", params={}, inputs=inputs, batch_id=batch.id)
    await house.real_db.write(lambda tx: tx.jobs.insert(job))
    with capture_logs() as logs:
        await house.runner.run(job.id, job.attempt)
    failed = next(each for each in logs if each["event"] == "job.failed")
    assert failed["reason"].startswith("Input 2: ")
    assert "clip1" not in str(logs)
    error = (await house.row(job.id)).error
    assert error is not None
    assert error.message.startswith("Input 2 (clip1): ")


async def test_times_of_a_completed_job_follow_the_policy(house: House) -> None:
    job = await house.add_job()
    await house.runner.run(job.id, 1)

    row = await house.row(job.id)
    assert row.completed_at is not None
    assert row.expires_at == row.completed_at + POLICY.completed_ttl
    upload = await house.upload(job.inputs[0].upload_id or "")
    assert upload.spent_at is not None
    assert abs(upload.spent_at - row.completed_at - HOLDS.keep_inputs) < timedelta(seconds=1)


async def test_a_second_delivery_of_the_same_attempt_does_nothing(house: House) -> None:
    job = await house.add_job()
    await house.runner.run(job.id, 1)
    await house.runner.run(job.id, 1)

    assert len(house.steps.folders) == 2  # the two steps of one run
    assert len(await house.outputs(job.id)) == 1


async def test_the_same_attempt_run_eight_times_at_once_runs_once(
    house: House, other: House
) -> None:
    job = await house.add_job()
    async with asyncio.TaskGroup() as group:
        for runner in [house.runner, other.runner] * 4:
            group.create_task(runner.run(job.id, 1))

    assert len(house.steps.folders) + len(other.steps.folders) == 2
    assert len(await house.outputs(job.id)) == 1


async def test_progress_goes_by_the_weights_and_never_back(house: House) -> None:
    house.steps.gate = asyncio.Event()

    async def script(_: Path, report: ProgressCallback) -> None:
        report(0.5)
        report(0.2)

    house.steps.script = script
    job = await house.add_job()
    run = asyncio.create_task(house.runner.run(job.id, 1))

    async def half_of_the_first_step() -> bool:
        row = await house.row(job.id)
        return row.progress == pytest.approx(12.5) and row.stage == "rub"

    await eventually(half_of_the_first_step)
    house.steps.gate.set()
    await run
    assert (await house.row(job.id)).progress == 100.0


async def test_progress_is_seen_within_a_second_however_rare_heartbeats_are(house: House) -> None:
    rare = replace(POLICY, heartbeat_seconds=10.0, lease_seconds=30.0)
    slow = House.build(house.root, policy=rare)
    slow.steps.gate = asyncio.Event()

    async def script(_: Path, report: ProgressCallback) -> None:
        report(0.5)

    slow.steps.script = script
    try:
        job = await slow.add_job()
        run = asyncio.create_task(slow.runner.run(job.id, 1))

        async def told() -> bool:
            return (await slow.row(job.id)).progress == pytest.approx(12.5)

        await eventually(told, seconds=1.0)
        slow.steps.gate.set()
        await run
    finally:
        await slow.close()


async def test_inputs_are_links_under_their_ids_so_that_no_deletion_pulls_them_away(
    house: House,
) -> None:
    seen: dict[str, bytes] = {}
    job = await house.add_job(CLIP + b"one")
    upload_id = job.inputs[0].upload_id or ""

    async def script(folder: Path, _: ProgressCallback) -> None:
        (house.root / layout.upload_path(upload_id)).unlink(missing_ok=True)
        seen[upload_id] = await asyncio.to_thread((folder / upload_id).read_bytes)

    house.steps.script = script
    await house.runner.run(job.id, 1)

    assert seen[upload_id] == CLIP + b"one"
    assert (await house.row(job.id)).status is JobStatus.COMPLETED


async def test_a_job_over_its_time_limit_fails_and_names_the_limit(house: House) -> None:
    house.steps.gate = asyncio.Event()
    job = await house.add_job(timeout_seconds=0.3)

    begun = house.clock.monotonic()
    await house.runner.run(job.id, 1)

    assert 0.3 <= house.clock.monotonic() - begun < 10
    row = await house.row(job.id)
    assert (row.status, row.attempt) == (JobStatus.FAILED, 1)
    assert row.error is not None
    assert row.error.code == "timeout"
    assert "limit of 0.3 s" in row.error.message
    assert house.steps.stopped == 1
    assert house.leftovers() == []
    assert b"tidemill_job_timeouts_total 1.0" in house.metrics.render()


async def test_what_a_retry_can_cure_is_tried_until_it_works(house: House) -> None:
    job = await house.add_job()
    attempts = 0

    async def script(folder: Path, _: ProgressCallback) -> None:
        nonlocal attempts
        attempts = int(folder.name)
        (folder / "half").write_bytes(b"half")
        if attempts < 3:
            raise RenderFailed("The encoder gave up.")

    house.steps.script = script
    await house.runner.run(job.id, 1)
    row = await house.row(job.id)
    assert (row.status, row.attempt, row.priority) == (JobStatus.QUEUED, 2, 10)
    assert (await house.upload(job.inputs[0].upload_id or "")).spent_at is None
    await house.runner.run(job.id, 2)
    await house.runner.run(job.id, 3)

    row = await house.row(job.id)
    assert (row.status, row.attempt) == (JobStatus.COMPLETED, 3)
    assert len(house.leftovers()) == 1


async def test_a_failure_that_stays_is_told_after_the_last_attempt(house: House) -> None:
    async def script(_: Path, __: ProgressCallback) -> None:
        raise RenderFailed("The encoder gave up.")

    house.steps.script = script
    job = await house.add_job()
    for attempt in (1, 2, 3, 4):
        await house.runner.run(job.id, attempt)

    row = await house.row(job.id)
    assert (row.status, row.attempt) == (JobStatus.FAILED, 3)
    assert row.error is not None
    assert (row.error.code, row.error.message) == ("render_failed", "The encoder gave up.")
    assert row.completed_at is not None
    assert row.expires_at == row.completed_at + POLICY.failed_ttl
    upload = await house.upload(job.inputs[0].upload_id or "")
    assert upload.spent_at is not None
    assert abs(upload.spent_at - row.completed_at - HOLDS.failed_ttl) < timedelta(seconds=1)
    assert house.leftovers() == []


@pytest.mark.parametrize("error", [InputDamaged("It is broken."), NoSpace("The disk is full.")])
async def test_what_no_retry_can_cure_fails_at_once(
    house: House, error: InputDamaged | NoSpace
) -> None:
    async def script(folder: Path, _: ProgressCallback) -> None:
        (folder / "half").write_bytes(b"half")
        raise error

    house.steps.script = script
    job = await house.add_job()
    await house.runner.run(job.id, 1)

    row = await house.row(job.id)
    assert (row.status, row.attempt) == (JobStatus.FAILED, 1)
    assert row.error is not None
    assert row.error.code == error.code
    assert house.leftovers() == []


async def test_a_clip_that_is_none_makes_a_failed_job_that_says_so(house: House) -> None:
    job = await house.add_job()
    upload_id = job.inputs[0].upload_id or ""
    (house.root / layout.upload_path(upload_id)).write_bytes(b"a letter")
    await house.real_db.write(
        lambda tx: (
            tx.uploads.update(replace(u, media=None), expected=u.status)
            if (u := tx.uploads.find(upload_id))
            else None
        )
    )

    await house.runner.run(job.id, 1)

    row = await house.row(job.id)
    assert (row.status, row.attempt) == (JobStatus.FAILED, 1)
    assert row.error is not None
    assert row.error.code == "not_media"
    assert row.error.detail == {"upload_id": upload_id}
    assert house.leftovers() == []


async def test_inputs_that_are_gone_fail_the_job_with_their_code(house: House) -> None:
    job = await house.add_job()
    upload_id = job.inputs[0].upload_id or ""
    await house.real_db.write(lambda tx: tx.uploads.delete(upload_id))

    await house.runner.run(job.id, 1)

    row = await house.row(job.id)
    assert row.error is not None
    assert (row.error.code, row.error.detail) == ("inputs_deleted", {"inputs": [upload_id]})


async def test_cancelling_a_running_job_stops_its_child_at_once(house: House) -> None:
    house.steps.gate = asyncio.Event()
    job = await house.add_job()
    house.engine.start(house.runner)
    await asyncio.wait_for(house.steps.started.wait(), 5)

    begun = house.clock.monotonic()
    view = await house.jobs.cancel(OWNER, job.id)

    assert view.job.status is JobStatus.CANCELLED
    assert house.clock.monotonic() - begun < CANCEL_SECONDS
    assert (house.steps.living, house.steps.stopped) == (0, 1)
    assert house.leftovers() == []
    again = await house.jobs.cancel(OWNER, job.id)
    assert again.job.status is JobStatus.CANCELLED


async def test_cancelling_from_another_process_works_as_soon(house: House, other: House) -> None:
    house.steps.gate = asyncio.Event()
    job = await house.add_job()
    run = asyncio.create_task(house.runner.run(job.id, 1))
    await asyncio.wait_for(house.steps.started.wait(), 5)

    begun = house.clock.monotonic()
    await other.jobs.cancel(OWNER, job.id)
    await run

    assert house.clock.monotonic() - begun < CANCEL_SECONDS
    assert (await house.row(job.id)).status is JobStatus.CANCELLED
    assert house.leftovers() == []


async def test_a_run_that_lost_its_fence_touches_neither_job_nor_outputs(
    house: House, other: House
) -> None:
    house.steps.gate = asyncio.Event()
    job = await house.add_job()
    run = asyncio.create_task(house.runner.run(job.id, 1))
    await asyncio.wait_for(house.steps.started.wait(), 5)

    silent = await house.expire_heartbeat(job.id)
    # The rescuer must be quicker than the next beat, which would renew the lease.
    await other.rescue.recover(silent, other.clock.now())
    before = await house.row(job.id)
    await run

    assert (before.status, before.attempt, before.worker) == (JobStatus.QUEUED, 2, None)
    assert await house.row(job.id) == before
    assert await house.outputs(job.id) == []
    assert house.steps.stopped == 1
    assert house.leftovers() == []
    await other.runner.run(job.id, 2)
    assert (await house.row(job.id)).status is JobStatus.COMPLETED


async def test_a_run_fenced_out_during_its_publication_leaves_no_file(
    house: House, other: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await house.add_job()
    publish = house.files.publish

    async def late(source: Path, output_id: str) -> None:
        # The job is taken away, and the file is back, as if its deletion had failed.
        row = await house.row(job.id)
        await other.rescue.recover(row, other.clock.now())
        again = house.root / layout.WORK / job.id / "1"
        again.mkdir(parents=True)
        (again / source.name).write_bytes(RESULT)
        await publish(again / source.name, output_id)

    monkeypatch.setattr(house.files, "publish", late)
    await house.runner.run(job.id, 1)

    row = await house.row(job.id)
    assert (row.status, row.attempt) == (JobStatus.QUEUED, 2)
    assert await house.outputs(job.id) == []
    assert house.leftovers() == []


class BrokenDatabase(Database):
    """A database that can be taken away."""

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self.is_down = False

    async def write(self, work: Callable[[Transaction], T]) -> T:
        self._refuse()
        return await self._inner.write(work)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        self._refuse()
        return await self._inner.read(work)

    async def check(self) -> None:
        self._refuse()

    async def checkpoint(self) -> None:
        await self._inner.checkpoint()

    def _refuse(self) -> None:
        if self.is_down:
            raise DatabaseBusy


async def test_a_run_whose_database_is_away_longer_than_the_lease_kills_its_child(
    tmp_path: Path,
) -> None:
    prepare(tmp_path)
    broken: list[BrokenDatabase] = []

    def through(db: Database) -> Database:
        broken.append(BrokenDatabase(db))
        return broken[0]

    policy = replace(POLICY, lease_seconds=0.5)
    house = House.build(tmp_path, policy=policy, db_through=through)
    try:
        house.steps.gate = asyncio.Event()
        job = await house.add_job()
        run = asyncio.create_task(house.runner.run(job.id, 1))
        await asyncio.wait_for(house.steps.started.wait(), 5)
        broken[0].is_down = True
        await asyncio.wait_for(run, 5)

        assert (house.steps.living, house.steps.stopped) == (0, 1)
        assert (await house.row(job.id)).status is JobStatus.PROCESSING
        assert house.leftovers() == []
        broken[0].is_down = False
        silent = await house.expire_heartbeat(job.id)
        assert await house.rescue.rescue(silent, house.clock.now()) == "requeued"
        assert (await house.row(job.id)).attempt == 2
    finally:
        await house.close()


async def test_a_short_absence_of_the_database_does_no_harm(tmp_path: Path) -> None:
    prepare(tmp_path)
    broken: list[BrokenDatabase] = []

    def through(db: Database) -> Database:
        broken.append(BrokenDatabase(db))
        return broken[0]

    house = House.build(tmp_path, db_through=through)
    try:
        house.steps.gate = asyncio.Event()
        job = await house.add_job()
        run = asyncio.create_task(house.runner.run(job.id, 1))
        await asyncio.wait_for(house.steps.started.wait(), 5)
        broken[0].is_down = True
        await asyncio.sleep(0.3)
        broken[0].is_down = False
        house.steps.gate.set()
        await run
        assert (await house.row(job.id)).status is JobStatus.COMPLETED
    finally:
        await house.close()


async def test_a_stopping_worker_hands_its_job_back_without_using_up_an_attempt(
    house: House,
) -> None:
    house.steps.gate = asyncio.Event()
    job = await house.add_job()
    house.engine.start(house.runner)
    await asyncio.wait_for(house.steps.started.wait(), 5)

    begun = house.clock.monotonic()
    await house.engine.stop()

    assert house.clock.monotonic() - begun < 2
    row = await house.row(job.id)
    assert (row.status, row.attempt, row.max_attempts) == (JobStatus.QUEUED, 2, 4)
    assert house.steps.living == 0
    assert house.leftovers() == []


async def test_a_worker_stopped_during_publication_finishes_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await house.add_job()
    publish = house.files.publish
    in_publication = asyncio.Event()

    async def slow(source: Path, output_id: str) -> None:
        in_publication.set()
        await asyncio.sleep(0.2)
        await publish(source, output_id)

    monkeypatch.setattr(house.files, "publish", slow)
    house.engine.start(house.runner)
    await asyncio.wait_for(in_publication.wait(), 5)
    await house.engine.stop()

    assert (await house.row(job.id)).status is JobStatus.COMPLETED
    assert len(house.leftovers()) == 1


async def test_a_cancellation_during_publication_still_wins(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await house.add_job()
    publish = house.files.publish
    requests: list[asyncio.Task[object]] = []

    async def slow(source: Path, output_id: str) -> None:
        requests.append(asyncio.create_task(house.jobs.cancel(OWNER, job.id)))
        await asyncio.sleep(0.2)
        await publish(source, output_id)

    monkeypatch.setattr(house.files, "publish", slow)
    house.engine.start(house.runner)
    await house.until(job.id, JobStatus.CANCELLED)
    await requests[0]

    assert await house.outputs(job.id) == []
    await eventually(house.is_tidy)
