"""gc_files, unclaimed_uploads and spent_inputs over a real folder and database."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import StorageFailed
from app.domain.jobs import JobStatus
from app.domain.layout import upload_path
from app.domain.sweeps import SweepName
from app.domain.tombstones import Reason, ThingKind
from app.domain.uploads import Upload, UploadStatus
from app.services.sweeps.uploads import Seen, UploadWatch
from tests.fakes.retention import DAY, HOUR, World, open_world
from tests.fakes.sweeping import dry_run, sweep

GC, UNCLAIMED, SPENT = SweepName.GC_FILES, SweepName.UNCLAIMED_UPLOADS, SweepName.SPENT_INPUTS


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


# --- gc_files -----------------------------------------------------------------------------------


async def test_an_unfinished_upload_past_its_expiry_ends_with_its_bytes(world: World) -> None:
    upload = await world.upload(await world.session(), b"half")
    world.clock.advance(DAY + HOUR)
    report = await sweep(world, GC)
    assert (report.examined, report.removed, report.bytes_freed) == (1, 1, 4)
    assert report.errors == ()
    assert await world.find_upload(upload.id) is None
    assert world.stored() == set()
    assert await world.pending() == []
    tombstone = await world.tombstone(ThingKind.UPLOAD, upload.id)
    assert tombstone is not None
    assert (tombstone.reason, tombstone.sweep, tombstone.size_bytes) == (
        Reason.EXPIRED,
        "gc_files",
        4,
    )
    assert tombstone.parent_id == upload.session_id


async def test_one_that_never_got_a_byte_ends_too_and_leaves_no_file(world: World) -> None:
    upload = await world.upload(await world.session())
    world.clock.advance(DAY + HOUR)
    assert (await sweep(world, GC)).removed == 1
    assert await world.find_upload(upload.id) is None
    assert world.stored() == set()


async def test_uploads_before_their_expiry_and_completed_ones_stay(world: World) -> None:
    session = await world.session()
    fresh = await world.upload(session, b"half", expires_at=world.clock.now() + 9 * DAY)
    done = await world.completed_upload(session)
    world.clock.advance(2 * DAY)
    report = await sweep(world, GC)
    assert (report.examined, report.removed) == (0, 0)
    assert world.stored() == {upload_path(fresh.id), upload_path(done.id)}


async def test_an_upload_with_a_writer_is_never_ended(world: World) -> None:
    upload = await world.upload(await world.session(), b"half")
    world.clock.advance(DAY + HOUR)
    async with world.locks.hold(upload.id, wait_seconds=0):
        report = await sweep(world, GC)
    assert report.skipped == {"being_written": 1}
    assert await world.find_upload(upload.id) is not None
    assert world.stored() == {upload_path(upload.id)}


async def test_bytes_that_arrived_after_the_rows_last_touch_keep_an_upload(world: World) -> None:
    upload = await world.upload(await world.session(), b"half")
    world.clock.advance(DAY + HOUR)
    world.age_file(upload, 2 * HOUR)
    report = await sweep(world, GC)
    assert report.skipped == {"active": 1}
    row = await world.find_upload(upload.id)
    assert row is not None
    assert row.expires_at > world.clock.now()
    assert row.recorded_offset == 4
    assert (await sweep(world, GC)).examined == 0


async def test_noting_activity_takes_back_nothing_that_a_patch_told_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await world.upload(await world.session(), b"half")
    world.clock.advance(DAY + HOUR)
    world.age_file(upload, 2 * HOUR)
    read = world.db.read

    async def read_and_be_overtaken(work: Any) -> Any:
        found = await read(work)
        told = replace(upload, recorded_offset=9, synced_offset=9, expires_at=later)
        await world.db.write(lambda tx: tx.uploads.update(told, expected=UploadStatus.RECEIVING))
        return found

    later = world.clock.now() + 3 * DAY
    monkeypatch.setattr(world.db, "read", read_and_be_overtaken)
    await sweep(world, GC)
    monkeypatch.undo()
    row = await world.find_upload(upload.id)
    assert row is not None
    assert (row.synced_offset, row.recorded_offset, row.expires_at) == (9, 9, later)


async def test_an_upload_whose_bytes_are_whole_is_left_to_its_completion(world: World) -> None:
    upload = await world.upload(await world.session(), b"x" * 100)
    world.clock.advance(DAY + HOUR)
    assert (await sweep(world, GC)).skipped == {"whole": 1}
    assert (await sweep(world, UNCLAIMED)).removed == 1
    assert world.stored() == {upload_path(upload.id)}


async def test_gc_files_twice_removes_nothing_more(world: World) -> None:
    await world.upload(await world.session(), b"half")
    world.clock.advance(DAY + HOUR)
    await sweep(world, GC)
    again = await sweep(world, GC)
    assert (again.examined, again.removed, again.bytes_freed) == (0, 0, 0)


async def test_gc_files_stops_at_its_limit_and_goes_on_next_time(world: World) -> None:
    session = await world.session()
    for _ in range(5):
        await world.upload(session, b"half")
    world.clock.advance(DAY + HOUR)
    assert [(await sweep(world, GC, limit=2)).removed for _ in range(4)] == [2, 2, 1, 0]


async def test_a_dry_run_tells_what_would_go_and_changes_nothing(world: World) -> None:
    upload = await world.upload(await world.session(), b"half")
    world.clock.advance(DAY + HOUR)
    report, victims = await dry_run(world, GC)
    assert [(each.kind, each.id, each.size_bytes) for each in victims] == [("upload", upload.id, 4)]
    assert "expired" in victims[0].why
    assert (report.dry_run, report.removed, report.bytes_freed) == (True, 0, 0)
    assert await world.find_upload(upload.id) == upload
    assert world.stored() == {upload_path(upload.id)}
    assert await world.db.read(lambda tx: tx.sweep_reports.list_latest(9)) == []


async def test_one_bad_entry_does_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await world.session()
    uploads = [await world.upload(session, b"half") for _ in range(3)]
    bad, look = uploads[1], UploadWatch.look

    def fail_for_one(watch: UploadWatch, upload: Upload) -> Seen:
        if upload.id == bad.id:
            raise StorageFailed("The disk has a bad sector just there.")
        return look(watch, upload)

    monkeypatch.setattr(UploadWatch, "look", fail_for_one)
    world.clock.advance(DAY + HOUR)
    report = await sweep(world, GC)
    assert report.removed == 2
    assert len(report.errors) == 1
    assert uploads[1].id in report.errors[0]
    assert await world.find_upload(uploads[1].id) is not None


async def test_a_crash_between_row_and_bytes_is_settled_by_spent_inputs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await world.upload(await world.session(), b"half")
    world.clock.advance(DAY + HOUR)
    with monkeypatch.context() as patch:

        async def die(_: object) -> None:
            raise SystemExit

        patch.setattr(world.disposal, "settle_each", die)
        with pytest.raises(SystemExit):
            await sweep(world, GC)
    assert await world.find_upload(upload.id) is None
    assert world.stored() == {upload_path(upload.id)}
    assert [pending.path for pending in await world.pending()] == [upload_path(upload.id)]
    report = await sweep(world, SPENT)
    assert (report.removed, report.bytes_freed) == (1, 4)
    assert world.stored() == set()
    assert await world.pending() == []


# --- unclaimed_uploads --------------------------------------------------------------------------


async def test_whole_uploads_are_completed_and_others_left_alone(world: World) -> None:
    session = await world.session()
    whole = await world.upload(session, b"x" * 100)
    empty = await world.upload(session, None, length=0)
    half = await world.upload(session, b"half")
    deferred = await world.upload(session, b"x" * 100, length=None)
    too_long = await world.upload(session, b"x" * 101)
    report = await sweep(world, UNCLAIMED)
    assert (report.examined, report.removed) == (5, 2)
    assert sorted(world.completed) == sorted([whole.id, empty.id])
    for upload in (half, deferred, too_long):
        row = await world.find_upload(upload.id)
        assert row is not None
        assert row.status is UploadStatus.RECEIVING
    assert (await sweep(world, UNCLAIMED)).removed == 0


async def test_a_whole_upload_with_a_writer_is_left_to_it(world: World) -> None:
    upload = await world.upload(await world.session(), b"x" * 100)
    async with world.locks.hold(upload.id, wait_seconds=0):
        assert (await sweep(world, UNCLAIMED)).skipped == {"being_written": 1}
    assert world.completed == []


async def test_after_an_unclean_boot_only_synced_bytes_count_as_whole(world: World) -> None:
    await world.upload(await world.session(), b"x" * 100, boot_id="another", synced_offset=60)
    assert (await sweep(world, UNCLAIMED)).removed == 0


async def test_a_completion_that_fails_is_an_error_and_the_next_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await world.session()
    uploads = sorted(
        [await world.upload(session, b"x" * 100) for _ in range(3)], key=lambda u: u.id
    )
    complete = world.complete

    async def fail_once(upload_id: str) -> None:
        if upload_id == uploads[0].id:
            raise StorageFailed("The disk said no.")
        await complete(upload_id)

    monkeypatch.setattr(world, "complete", fail_once)
    report = await sweep(world, UNCLAIMED)
    assert report.removed == 2
    assert report.errors == (f"upload {uploads[0].id}: storage_failed",)


async def test_unclaimed_uploads_stops_at_its_limit_and_a_dry_run_completes_none(
    world: World,
) -> None:
    session = await world.session()
    for _ in range(3):
        await world.upload(session, b"x" * 100)
    _, victims = await dry_run(world, UNCLAIMED)
    assert len(victims) == 3
    assert world.completed == []
    assert [(await sweep(world, UNCLAIMED, limit=2)).removed for _ in range(3)] == [2, 1, 0]


# --- spent_inputs -------------------------------------------------------------------------------


async def test_spent_inputs_go_and_leave_a_tombstone_of_retention(world: World) -> None:
    batch, (upload,) = await world.batch()
    await world.db.write(lambda tx: tx.uploads.set_spent(upload.id, world.clock.now()))
    world.clock.advance(timedelta(seconds=1))
    report = await sweep(world, SPENT)
    assert (report.removed, report.bytes_freed) == (1, 100)
    tombstone = await world.tombstone(ThingKind.UPLOAD, upload.id)
    assert tombstone is not None
    assert (tombstone.reason, tombstone.parent_id) == (Reason.SPENT, batch.id)
    assert (await sweep(world, SPENT)).examined == 0


async def test_inputs_that_are_held_or_still_read_stay(world: World) -> None:
    _, (held, read, unused) = await world.batch(3)
    now = world.clock.now()
    await world.db.write(lambda tx: tx.uploads.set_spent(held.id, now + HOUR))
    await world.db.write(lambda tx: tx.uploads.set_spent(read.id, now))
    await world.job(read)
    report = await sweep(world, SPENT)
    assert report.removed == 0
    assert world.stored() == {upload_path(each.id) for each in (held, read, unused)}


async def test_a_job_that_begins_to_read_after_the_look_keeps_its_input(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (upload,) = await world.batch()
    await world.db.write(lambda tx: tx.uploads.set_spent(upload.id, world.clock.now()))
    world.clock.advance(timedelta(seconds=1))
    write = world.db.write
    writes = []

    async def write_after_new_job(work: object) -> object:
        writes.append(work)
        if len(writes) == 2:  # the first takes the lease
            monkeypatch.setattr(world.db, "write", write)
            await world.job(upload)
        return await write(work)  # type: ignore[arg-type]

    monkeypatch.setattr(world.db, "write", write_after_new_job)
    report = await sweep(world, SPENT)
    assert report.skipped == {"in_use": 1}
    assert world.stored() == {upload_path(upload.id)}


async def test_a_dry_run_of_spent_inputs_names_inputs_and_pending_cleanups(world: World) -> None:
    _, (upload,) = await world.batch()
    job = await world.ended_job(JobStatus.COMPLETED, upload)
    await world.db.write(lambda tx: tx.uploads.set_spent(upload.id, world.clock.now()))
    left = world.path(f"work/{job.id}/1")
    left.mkdir(parents=True)
    before = world.stored()
    world.clock.advance(timedelta(seconds=1))
    _, victims = await dry_run(world, SPENT)
    assert [(each.kind, each.size_bytes) for each in victims] == [("upload", 100)]
    assert world.stored() == before
