"""Bytes that rows let go of: deleted, verified, or tried again until they are gone."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.domain.errors import DatabaseBusy
from app.domain.jobs import JobStatus
from app.domain.layout import upload_path
from app.domain.sweeps import SweepName
from app.domain.tombstones import Reason
from app.services.burial import bury_job, bury_upload
from app.services.disposal import ALARM_AFTER_ATTEMPTS
from app.services.storage_ledger import StorageLedger
from tests.fakes.disk import undeletable
from tests.fakes.retention import HOUR, World, open_world
from tests.fakes.sweeping import dry_run, sweep

SPENT = SweepName.SPENT_INPUTS


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def bury_a_job_with_stubborn_scratch(world: World) -> tuple[list[str], Path]:
    job = await world.ended_job(JobStatus.FAILED)
    await world.output(job)
    stubborn = world.path(f"work/{job.id}/1/stubborn")
    stubborn.mkdir(parents=True)
    paths = await world.db.write(
        lambda tx: bury_job(tx, job, reason=Reason.JOB_DELETED, sweep=None, now=world.clock.now())
    )
    return paths, stubborn


async def test_a_buried_upload_is_settled_and_forgotten(world: World) -> None:
    upload = await world.upload(await world.session(), b"half")
    paths = await world.db.write(
        lambda tx: bury_upload(
            tx, upload, reason=Reason.TERMINATED, sweep=None, now=world.clock.now()
        )
    )
    assert paths == [upload_path(upload.id)]
    assert [each.path for each in await world.pending()] == paths
    assert await world.disposal.settle(paths) == 4
    assert world.stored() == set()
    assert await world.pending() == []
    assert await world.disposal.settle(paths) == 0


async def test_what_cannot_be_deleted_waits_as_a_row_and_goes_later(world: World) -> None:
    paths, stubborn = await bury_a_job_with_stubborn_scratch(world)
    with undeletable(stubborn), capture_logs() as logs:
        assert await world.disposal.settle(paths) == 50  # the output went all the same
    assert [each["event"] for each in logs if each["log_level"] != "debug"] == [
        "scratch.remove_failed"
    ]
    (pending,) = await world.pending()
    assert pending.path == str(stubborn.parent.parent.relative_to(world.root))
    assert pending.attempts == 1
    assert pending.last_error is not None
    assert str(world.root) not in pending.last_error
    text = world.metrics.render().decode()
    assert "tidemill_cleanup_pending 1.0" in text
    assert "tidemill_scratch_remove_failed_total 1.0" in text

    assert (await sweep(world, SPENT)).examined == 0  # not due yet
    world.clock.advance(timedelta(seconds=11))
    _, victims = await dry_run(world, SPENT)
    assert [(each.kind, each.id) for each in victims] == [("cleanup", pending.path)]
    with capture_logs() as logs:
        report = await sweep(world, SPENT)
    assert report.removed == 1
    assert "scratch.removed" in [each["event"] for each in logs]
    assert await world.pending() == []
    assert list(world.path("work").iterdir()) == []
    assert "tidemill_cleanup_pending 0.0" in world.metrics.render().decode()


async def test_trying_again_never_ends_and_alarms_after_five(world: World) -> None:
    paths, stubborn = await bury_a_job_with_stubborn_scratch(world)
    events = []
    with undeletable(stubborn):
        await world.disposal.settle(paths)
        for _ in range(ALARM_AFTER_ATTEMPTS):
            world.clock.advance(2 * HOUR)
            with capture_logs() as logs:
                report = await sweep(world, SPENT)
            assert (report.removed, len(report.errors)) == (0, 1)
            events.append([each["event"] for each in logs if each["log_level"] == "error"])
    assert events == [[], [], [], ["cleanup.stuck"], ["cleanup.stuck"]]
    (pending,) = await world.pending()
    assert pending.attempts == 6
    assert pending.next_attempt_at > world.clock.now()


async def test_the_log_says_whose_scratch_went_and_how_much_of_it(world: World) -> None:
    job, worker, request = (letter * 32 for letter in "abc")
    for folder in (f"work/{job}/1", f"work/{worker}/{request}"):
        world.path(folder).mkdir(parents=True)
        (world.path(folder) / "result.part").write_bytes(b"12345")
    with capture_logs() as logs:
        assert await world.disposal.settle([f"work/{job}/1", f"work/{worker}/{request}"]) == 10
        await world.disposal.settle([f"work/{job}/1"])  # what is gone is not removed again
    of_job, of_request = (each for each in logs if each["event"] == "scratch.removed")
    assert (of_job["job_id"], of_job["attempt"], of_job["bytes_freed"]) == (job, 1, 5)
    assert of_request["bytes_freed"] == 5
    assert "job_id" not in of_request
    assert "tidemill_scratch_removed_total 2.0" in world.metrics.render().decode()


async def test_scratch_without_a_row_gets_one_when_it_cannot_go(world: World) -> None:
    stubborn = world.path("work/" + "a" * 32 + "/1")
    stubborn.mkdir(parents=True)
    with undeletable(stubborn), capture_logs() as logs:
        await world.disposal.settle([f"work/{'a' * 32}/1"])
    (failed,) = (each for each in logs if each["event"] == "scratch.remove_failed")
    assert (failed["job_id"], failed["attempt"]) == ("a" * 32, 1)
    (pending,) = await world.pending()
    assert (pending.path, pending.kind, pending.attempts) == (f"work/{'a' * 32}/1", "work", 1)


async def test_a_busy_database_afterwards_does_not_fail_the_caller(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await world.upload(await world.session(), b"half")
    paths = await world.db.write(
        lambda tx: bury_upload(
            tx, upload, reason=Reason.TERMINATED, sweep=None, now=world.clock.now()
        )
    )
    with monkeypatch.context() as patch:

        async def busy(_: object) -> None:
            raise DatabaseBusy

        patch.setattr(world.db, "write", busy)
        assert await world.disposal.settle(paths) == 4
    assert len(await world.pending()) == 1
    report = await sweep(world, SPENT)
    assert (report.removed, report.bytes_freed) == (1, 0)
    assert await world.pending() == []


async def test_an_unsafe_path_in_a_row_deletes_nothing_and_raises_nothing(world: World) -> None:
    marker = world.path("instance.json")
    outside = world.root.parent / "outside"
    for path in (marker, outside):
        path.write_text("{}")
    paths = ["../outside", "instance.json", str(outside), "uploads/../instance.json"]
    assert await world.disposal.settle(paths) == 0
    assert marker.exists()
    assert outside.exists()


async def test_the_storage_report_shows_disk_and_rows_side_by_side(world: World) -> None:
    session = await world.session()
    await world.upload(session, b"x" * 30)
    done = await world.completed_upload(session)
    job = await world.job(done)
    await world.files.make_scratch(job.id, 1, {done.id: upload_path(done.id)})
    await world.output(job)
    ledger = StorageLedger(world.db, world.files, world.clock, world.metrics)
    report = await ledger.report()
    found = {kind.kind: kind for kind in report.kinds}
    uploads, outputs, work = found["uploads"], found["outputs"], found["work"]
    assert (uploads.count, uploads.size_bytes) == (2, 130)
    assert [(row.state, row.count, row.size_bytes) for row in uploads.rows] == [
        ("receiving", 1, 30),
        ("completed", 1, 100),
    ]
    assert (outputs.count, outputs.size_bytes) == (1, 50)
    assert [(row.state, row.count, row.size_bytes) for row in outputs.rows] == [
        ("publishing", 0, 0),
        ("available", 1, 50),
        ("delivered", 0, 0),
    ]
    assert (work.count, work.size_bytes) == (1, 0)
    assert found["database"].size_bytes > 0
    assert report.total_bytes == sum(
        path.lstat().st_size
        for path in world.root.rglob("*")
        if path.is_file() and "work" not in path.parts
    )
    assert (report.reserved_bytes, report.pending_cleanups) == (70, 0)
    assert report.free_bytes > 0

    await ledger.refresh_gauges()
    text = world.metrics.render().decode()
    assert 'tidemill_jobs{status="queued"} 1.0' in text
    assert "tidemill_uploads_open 1.0" in text
    assert "tidemill_storage_reserved_bytes 70.0" in text
