"""What the embedded database is on disk: its pragmas, its size, its plans, its end of space."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from app.domain.errors import AppError, DatabaseBusy, NoSpace
from app.domain.jobs import JobStatus
from app.domain.sweeps import SweepName
from app.domain.tombstones import ThingKind
from app.domain.uploads import UploadStatus
from app.infrastructure.database.connections import open_links
from app.infrastructure.database.engine import SqlDatabase
from app.infrastructure.database.link import Link
from app.infrastructure.database.migrate import upgrade
from app.infrastructure.database.transaction import SqlTransaction
from app.infrastructure.database.urls import parse_url, sqlite_url
from app.services.ports import Cursor, JobFilter, Transaction
from tests.factories import (
    insert_all,
    make_cleanup,
    make_fence,
    make_job,
    make_session,
    make_upload,
)
from tests.fakes.clock import NOON, FakeClock

MEBIBYTE = 1024 * 1024
_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "auto_vacuum": 2,
    "busy_timeout": 5000,
    "temp_store": 2,
}


@pytest.fixture
def path(tmp_path: Path, migrated_file: Path) -> Path:
    path = tmp_path / "a folder?" / "tidemill #1 50%.db"
    path.parent.mkdir()
    shutil.copyfile(migrated_file, path)
    return path


@pytest.fixture
async def file_db(path: Path, clock: FakeClock) -> AsyncIterator[SqlDatabase]:
    database = SqlDatabase.open(sqlite_url(path), clock=clock)
    yield database
    await database.close()


def size(path: Path) -> int:
    return path.stat().st_size


def pragma(link: Link, name: str) -> Any:
    return link.driver.execute(f"PRAGMA {name}").fetchone()[0]


async def test_every_connection_has_its_pragmas(file_db: SqlDatabase) -> None:
    def look(link: Link) -> dict[str, Any]:
        return {name: pragma(link, name) for name in _PRAGMAS}

    assert await file_db._writer.run(look) == _PRAGMAS
    assert await file_db._readers.run(look) == _PRAGMAS
    assert await file_db._writer.run(lambda each: pragma(each, "query_only")) == 0
    assert await file_db._readers.run(lambda each: pragma(each, "query_only")) == 1


async def test_the_file_shrinks_when_rows_have_gone(file_db: SqlDatabase, path: Path) -> None:
    await file_db.checkpoint()
    before = size(path)
    paths = [f"uploads/{number:05}{'x' * 200}" for number in range(10_000)]
    await file_db.write(lambda tx: insert_all(tx, *(make_cleanup(each) for each in paths)))
    await file_db.checkpoint()
    assert size(path) > before + 2 * MEBIBYTE

    def remove_all(tx: Transaction) -> None:
        for each in paths:
            assert tx.cleanup.remove(each)

    await file_db.write(remove_all)
    await file_db.checkpoint()
    assert size(path) < before + MEBIBYTE / 4
    assert size(path.with_name(f"{path.name}-wal")) == 0


async def test_a_checkpoint_beside_another_writer_is_told_that_the_database_is_busy(
    path: Path, clock: FakeClock
) -> None:
    database = SqlDatabase.open(sqlite_url(path), clock=clock, busy_seconds=0.1)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy):
            await database.checkpoint()
    await database.checkpoint()
    await database.close()


async def test_closing_leaves_one_file(path: Path, clock: FakeClock) -> None:
    database = SqlDatabase.open(sqlite_url(path), clock=clock)
    await database.write(lambda tx: insert_all(tx, make_job()))
    await asyncio.gather(*(database.read(lambda tx: tx.jobs.count_queued()) for _ in range(9)))
    await database.close()
    assert list(path.parent.iterdir()) == [path]


async def test_a_file_that_cannot_shrink_is_written_anew_by_the_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "restored.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE kept (word TEXT)")
        connection.execute("INSERT INTO kept VALUES ('still here')")
        connection.commit()
    upgrade(sqlite_url(path))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("SELECT word FROM kept").fetchone() == ("still here",)


async def test_a_full_disk_is_no_space_and_loses_nothing(file_db: SqlDatabase) -> None:
    kept = make_job()
    await file_db.write(lambda tx: insert_all(tx, kept))

    def fill_up(link: Link) -> None:
        link.tell(f"PRAGMA max_page_count={pragma(link, 'page_count')}")

    await file_db._writer.run(fill_up)
    jobs = [make_job(params={"text": "x" * 5000}) for _ in range(50)]
    with pytest.raises(NoSpace):
        await file_db.write(lambda tx: insert_all(tx, *jobs))
    assert await file_db.read(lambda tx: tx.jobs.totals()) == {JobStatus.QUEUED: 1}
    assert await file_db.read(lambda tx: tx.jobs.find(kept.id)) == kept


def test_no_query_reads_a_whole_table_but_those_that_sum_it_up(path: Path) -> None:
    link = open_links(parse_url(sqlite_url(path)), writer=True, busy_seconds=1)()
    statements: list[str] = []
    link.begin()
    link.driver.set_trace_callback(statements.append)
    run_every_query(SqlTransaction(link))
    link.driver.set_trace_callback(None)
    for statement in statements:
        steps = [row[3] for row in link.driver.execute(f"EXPLAIN QUERY PLAN {statement}")]
        whole = [step for step in steps if step.startswith("SCAN") and "USING" not in step]
        assert not whole, (statement, steps)
    link.rollback()
    link.close()
    assert len(statements) > 40


def run_every_query(tx: SqlTransaction) -> None:
    """Call all that lists, finds or changes; only sums over whole tables are left out."""
    one, cursor = "0" * 32, Cursor(NOON, "0" * 32)
    fence = make_fence(make_job())
    tx.uploads.find(one)
    tx.uploads.list_by_session(one)
    tx.uploads.list_by_session(one, UploadStatus.RECEIVING)
    tx.uploads.count_completed(one)
    tx.uploads.put_in_batch(one, one)
    tx.uploads.list_by_batch(one)
    tx.uploads.set_media(one, {})
    tx.uploads.set_spent(one, NOON)
    tx.uploads.delete(one)
    tx.uploads.unwritten_bytes()
    tx.uploads.list_receiving(after_id="", limit=1)
    tx.uploads.list_expired(NOON, 1)
    tx.uploads.list_spent(NOON, 1)
    tx.sessions.find(one)
    tx.sessions.touch(one, NOON)
    tx.sessions.delete(one)
    tx.sessions.list_idle(NOON, 1)
    tx.batches.find(one)
    tx.batches.list_page("owner", None, 1)
    tx.batches.list_page("owner", cursor, 1)
    tx.batches.touch(one, NOON)
    tx.batches.delete(one)
    tx.batches.list_expired(NOON, 1)
    run_every_query_of_jobs(tx, cursor)
    tx.jobs.claim(fence, now=NOON, deadline_at=NOON)
    tx.jobs.beat(fence, now=NOON, progress=0, stage=None)
    tx.outputs.find(one)
    tx.outputs.list_by_job(one)
    tx.outputs.publish(one, 1, NOON)
    tx.outputs.delete(one)
    tx.outputs.list_publishing(1)
    tx.tombstones.find(ThingKind.JOB, one)
    tx.tombstones.list_by_parent(ThingKind.JOB, one)
    tx.leases.release("gc_files", "a")
    tx.sweep_reports.find_latest(SweepName.GC_FILES)
    tx.sweep_reports.list_latest(1)
    tx.cleanup.find("uploads/x")
    tx.cleanup.remove("uploads/x")
    tx.cleanup.record_failure("uploads/x", error="", next_attempt_at=NOON)
    tx.cleanup.list_due(NOON, 1)
    tx.cleanup.list_all(1)


def run_every_query_of_jobs(tx: SqlTransaction, cursor: Cursor) -> None:
    one = "0" * 32
    for where in (
        JobFilter(),
        JobFilter(batch_id=one),
        JobFilter(status=JobStatus.QUEUED),
        JobFilter(operation="trim"),
    ):
        tx.jobs.list_page("owner", where, None, 1)
        tx.jobs.list_page("owner", where, cursor, 1)
    tx.jobs.find(one)
    tx.jobs.list_by_batch(one)
    tx.jobs.list_active_reading(upload_ids=[one], output_ids=[one])
    tx.jobs.count_queued()
    tx.jobs.list_claimable(1)
    tx.jobs.request_cancel(one)
    tx.jobs.mark_dispatched(one, 1, NOON)
    tx.jobs.delete(one)
    tx.jobs.list_processing(1)
    tx.jobs.list_undispatched(NOON, 1)
    tx.jobs.list_expired(NOON, NOON, 1)


async def test_a_row_that_cannot_be_read_leaves_no_lock_behind(
    file_db: SqlDatabase, path: Path, clock: FakeClock
) -> None:
    session = make_session()
    upload = make_upload(session_id=session.id)
    await file_db.write(lambda tx: insert_all(tx, session, upload))
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE uploads SET boot_id = CAST(x'ff' AS TEXT)")
    other = SqlDatabase.open(sqlite_url(path), clock=clock, busy_seconds=0.2)

    def work(tx: Transaction) -> None:
        tx.sessions.touch(session.id, NOON + timedelta(days=1))
        tx.uploads.find(upload.id)

    with pytest.raises(AppError) as kept:  # as whoever logs an error keeps it for a while
        await file_db.write(work)
    await other.write(lambda tx: tx.sessions.touch(session.id, NOON + timedelta(days=2)))
    assert kept.value is not None
    await other.close()


async def test_a_thread_that_cannot_start_is_left_to_the_others(
    file_db: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await file_db.read(lambda _: 1) == 1
    start = Thread.start

    def refuse(thread: Thread) -> None:
        if thread.name.startswith("tidemill-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(Thread, "start", refuse)
    assert await file_db.read(lambda _: 2) == 2
    with pytest.raises(DatabaseBusy):
        await file_db.write(lambda _: 3)
    monkeypatch.undo()
    assert await file_db.write(lambda _: 4) == 4
