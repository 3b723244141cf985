"""stale_sessions and expired_batches over a real folder and database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.domain.errors import StorageFailed
from app.domain.jobs import JobStatus
from app.domain.layout import upload_path
from app.domain.sessions import Session
from app.domain.sweeps import SweepName
from app.domain.tombstones import Reason, ThingKind
from app.domain.uploads import Upload
from app.services.ports import Transaction
from app.services.sweeps.uploads import Seen, UploadWatch
from tests.fakes.retention import DAY, HOUR, World, open_world
from tests.fakes.sweeping import dry_run, sweep

STALE, BATCHES = SweepName.STALE_SESSIONS, SweepName.EXPIRED_BATCHES


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def find_session(world: World, session_id: str) -> Session | None:
    return await world.db.read(lambda tx: tx.sessions.find(session_id))


async def test_a_session_idle_past_its_age_goes_with_all_its_files(world: World) -> None:
    session = await world.session()
    half = await world.upload(session, b"half")
    done = await world.completed_upload(session)
    world.clock.advance(DAY + HOUR)
    report = await sweep(world, STALE)
    assert (report.removed, report.bytes_freed) == (1, 104)
    assert await find_session(world, session.id) is None
    assert world.stored() == set()
    for kind, thing_id in [
        (ThingKind.SESSION, session.id),
        (ThingKind.UPLOAD, half.id),
        (ThingKind.UPLOAD, done.id),
    ]:
        tombstone = await world.tombstone(kind, thing_id)
        assert tombstone is not None
        assert (tombstone.reason, tombstone.sweep) == (Reason.SESSION_EXPIRED, "stale_sessions")
    again = await sweep(world, STALE)
    assert (again.examined, again.removed) == (0, 0)


async def test_young_touched_and_batched_sessions_stay(world: World) -> None:
    old = await world.session()
    await world.completed_upload(old)
    batch, _ = await world.batch()
    world.clock.advance(DAY + HOUR)
    young = await world.session()
    await world.db.write(lambda tx: tx.sessions.touch(old.id, world.clock.now()))
    report = await sweep(world, STALE)
    assert (report.examined, report.removed) == (0, 0)
    for session_id in (old.id, young.id, batch.session_id):
        assert await find_session(world, session_id) is not None


async def test_a_session_whose_file_still_grows_stays_though_no_row_was_touched(
    world: World,
) -> None:
    session = await world.session()
    upload = await world.upload(session, b"half")
    world.clock.advance(DAY + HOUR)
    world.age_file(upload, HOUR)
    assert (await sweep(world, STALE)).skipped == {"receiving": 1}
    assert world.stored() == {upload_path(upload.id)}
    assert (await sweep(world, STALE)).examined == 0  # the row knows of it now


async def test_a_session_with_a_writer_stays(world: World) -> None:
    session = await world.session()
    upload = await world.upload(session, b"half")
    world.clock.advance(DAY + HOUR)
    async with world.locks.hold(upload.id, wait_seconds=0):
        assert (await sweep(world, STALE)).skipped == {"being_written": 1}
    assert await find_session(world, session.id) is not None


async def test_a_session_whose_last_completion_was_lost_is_completed_first(world: World) -> None:
    session = await world.session()
    await world.upload(session, b"x" * 100)
    world.clock.advance(DAY + HOUR)
    assert (await sweep(world, STALE)).skipped == {"whole": 1}


async def test_an_upload_created_after_the_look_keeps_the_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await world.session()
    await world.upload(session, b"half")
    world.clock.advance(DAY + HOUR)
    hold = world.locks.hold
    created = []

    def hold_later(upload_id: str, *, wait_seconds: float) -> object:
        created.append(upload_id)
        return hold(upload_id, wait_seconds=wait_seconds)

    write = world.db.write

    async def write_after_creation(work: object) -> object:
        if created:
            monkeypatch.setattr(world.db, "write", write)
            await world.upload(session, None)
        return await write(work)  # type: ignore[arg-type]

    monkeypatch.setattr(world.locks, "hold", hold_later)
    monkeypatch.setattr(world.db, "write", write_after_creation)
    assert (await sweep(world, STALE)).skipped == {"changed": 1}
    assert await find_session(world, session.id) is not None


async def test_stale_sessions_stops_at_its_limit_and_a_dry_run_removes_none(world: World) -> None:
    for _ in range(3):
        await world.upload(await world.session(), b"half")
    world.clock.advance(DAY + HOUR)
    before = world.stored()
    _, victims = await dry_run(world, STALE)
    assert [each.size_bytes for each in victims] == [4, 4, 4]
    assert world.stored() == before
    assert [(await sweep(world, STALE, limit=2)).removed for _ in range(3)] == [2, 1, 0]


async def test_one_bad_session_does_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [await world.session() for _ in range(3)]
    uploads = [await world.upload(session, b"half") for session in sessions]
    bad, look = uploads[0], UploadWatch.look

    def fail_for_one(watch: UploadWatch, upload: Upload) -> Seen:
        if upload.id == bad.id:
            raise StorageFailed("The disk has a bad sector just there.")
        return look(watch, upload)

    monkeypatch.setattr(UploadWatch, "look", fail_for_one)
    world.clock.advance(DAY + HOUR)
    report = await sweep(world, STALE)
    assert report.removed == 2
    assert len(report.errors) == 1


async def test_an_expired_batch_goes_with_session_and_files_and_its_jobs_stay(
    world: World,
) -> None:
    batch, uploads = await world.batch(2)
    job = await world.ended_job(JobStatus.COMPLETED, uploads[0], batch_id=batch.id)
    output = await world.output(job)
    world.clock.advance(DAY + HOUR)
    report = await sweep(world, BATCHES)
    assert (report.removed, report.bytes_freed) == (1, 200)
    assert await world.db.read(lambda tx: tx.batches.find(batch.id)) is None
    assert await find_session(world, batch.session_id) is None
    assert await world.db.read(lambda tx: tx.jobs.find(job.id)) == job
    assert world.stored() == {f"outputs/{output.id}"}
    for kind, thing_id in [
        (ThingKind.BATCH, batch.id),
        (ThingKind.SESSION, batch.session_id),
        (ThingKind.UPLOAD, uploads[1].id),
    ]:
        tombstone = await world.tombstone(kind, thing_id)
        assert tombstone is not None
        assert tombstone.reason is Reason.BATCH_EXPIRED
    assert (await sweep(world, BATCHES)).examined == 0


async def test_batches_before_expiry_or_needed_by_a_job_stay(world: World) -> None:
    own, (own_file,) = await world.batch()
    foreign, (foreign_file,) = await world.batch()
    fresh, _ = await world.batch(expires_at=world.clock.now() + 9 * DAY)
    await world.job(own_file, batch_id=own.id)
    await world.job(foreign_file)
    world.clock.advance(DAY + HOUR)
    assert (await sweep(world, BATCHES)).removed == 0

    def find(tx: Transaction) -> list[object]:
        return [tx.batches.find(batch.id) for batch in (own, foreign, fresh)]

    assert await world.db.read(find) == [own, foreign, fresh]


async def test_a_batch_whose_rows_died_before_its_bytes_is_settled_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, uploads = await world.batch(2)
    world.clock.advance(DAY + HOUR)
    with monkeypatch.context() as patch:

        async def die(_: object) -> None:
            raise SystemExit

        patch.setattr(world.disposal, "settle_each", die)
        with pytest.raises(SystemExit):
            await sweep(world, BATCHES)
    assert await world.db.read(lambda tx: tx.batches.find(batch.id)) is None
    assert world.stored() == {upload_path(upload.id) for upload in uploads}
    assert (await sweep(world, SweepName.SPENT_INPUTS)).bytes_freed == 200
    assert world.stored() == set()


async def test_expired_batches_stops_at_its_limit_and_a_dry_run_removes_none(world: World) -> None:
    for _ in range(3):
        await world.batch()
    world.clock.advance(DAY + HOUR)
    before = world.stored()
    _, victims = await dry_run(world, BATCHES)
    assert len(victims) == 3
    assert world.stored() == before
    assert [(await sweep(world, BATCHES, limit=2)).removed for _ in range(3)] == [2, 1, 0]


async def test_an_empty_session_that_nobody_used_goes_too(world: World) -> None:
    session = await world.session()
    world.clock.advance(DAY + HOUR)
    assert (await sweep(world, STALE)).removed == 1
    assert await find_session(world, session.id) is None


async def test_a_session_stays_while_one_of_its_uploads_may_still_be_continued(
    world: World,
) -> None:
    session = await world.session()
    upload = await world.upload(session, b"half", expires_at=world.clock.now() + 3 * DAY)
    done = await world.completed_upload(session)
    world.clock.advance(2 * DAY)
    assert (await dry_run(world, STALE))[1] == ()
    assert (await sweep(world, STALE)).skipped == {"promised": 1}
    assert world.stored() == {upload_path(each.id) for each in (upload, done)}
    assert (await sweep(world, STALE)).examined == 0  # no more in the way of those that can go
    world.clock.advance(DAY + HOUR)
    assert (await sweep(world, SweepName.GC_FILES)).removed == 1
    assert (await sweep(world, STALE)).removed == 1
    assert world.stored() == set()
