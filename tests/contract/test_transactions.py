"""Transactions as whole functions, on both databases."""

import asyncio
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import datetime

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import StatementError

from app.domain.errors import (
    AppError,
    ConflictingUpdate,
    DatabaseBusy,
    InternalError,
    NotReady,
    OffsetMismatch,
)
from app.domain.uploads import UploadStatus
from app.infrastructure.database.engine import SqlDatabase
from app.services.ports import Transaction
from tests.contract.postgres import Cluster
from tests.factories import insert_all, make_job, make_output, make_session, make_upload
from tests.fakes.clock import FakeClock

LIMIT_SECONDS = 10
_COUNT_ELSEWHERE = """
import sys
from sqlalchemy import create_engine, text
from app.infrastructure.database.urls import parse_url
engine = create_engine(parse_url(sys.argv[1]))
with engine.connect() as connection:
    print(connection.execute(text("SELECT count(*) FROM jobs")).scalar_one())
engine.dispose()
"""


class Gate:
    """Work that says it has begun and then waits until it is let go on."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def pass_through(self) -> None:
        self.begun.set()
        assert self.go_on.wait(LIMIT_SECONDS)

    async def wait_until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, LIMIT_SECONDS)


async def count(db: SqlDatabase) -> int:
    return await db.read(lambda tx: tx.jobs.count_queued())


@pytest.mark.parametrize("error", [ValueError("a bug"), OffsetMismatch(), KeyboardInterrupt()])
async def test_work_that_raises_is_rolled_back_and_its_error_passes(
    db: SqlDatabase, error: BaseException
) -> None:
    def work(tx: Transaction) -> None:
        insert_all(tx, make_job())
        raise error

    with pytest.raises(type(error)) as caught:
        await db.write(work)
    assert caught.value is error
    assert await count(db) == 0
    await db.write(lambda tx: insert_all(tx, make_job()))
    assert await count(db) == 1


async def test_a_write_that_returned_is_seen_by_another_process(db: SqlDatabase, url: str) -> None:
    await db.write(lambda tx: insert_all(tx, make_job()))
    shown = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _COUNT_ELSEWHERE, url],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert shown.stdout == "1\n"


async def test_a_read_sees_one_snapshot_and_does_not_hold_writers_up(db: SqlDatabase) -> None:
    gate = Gate()

    def look_twice(tx: Transaction) -> tuple[int, int]:
        first = tx.jobs.count_queued()
        gate.pass_through()
        return first, tx.jobs.count_queued()

    async with asyncio.TaskGroup() as tasks:
        looked = tasks.create_task(db.read(look_twice))
        await gate.wait_until_begun()
        await db.write(lambda tx: insert_all(tx, make_job()))
        assert await count(db) == 1
        gate.go_on.set()
    assert looked.result() == (0, 0)


async def test_a_read_cannot_write(db: SqlDatabase) -> None:
    with pytest.raises(InternalError):
        await db.read(lambda tx: insert_all(tx, make_job()))
    assert await count(db) == 0


async def test_looking_and_then_writing_loses_nothing_to_another_process(
    db: SqlDatabase, other: SqlDatabase
) -> None:
    session = make_session()
    upload = make_upload(session_id=session.id)
    await db.write(lambda tx: insert_all(tx, session, upload))

    def add_one(tx: Transaction) -> None:
        found = tx.uploads.find(upload.id)
        assert found is not None
        raised = replace(found, recorded_offset=found.recorded_offset + 1)
        tx.uploads.update(raised, expected=UploadStatus.RECEIVING)

    await asyncio.gather(*(each.write(add_one) for _ in range(20) for each in (db, other)))
    found = await db.read(lambda tx: tx.uploads.find(upload.id))
    assert found is not None
    assert found.recorded_offset == 40


async def test_a_cancelled_write_that_has_begun_ends_whole_before_its_caller_does(
    db: SqlDatabase,
) -> None:
    gate = Gate()

    def work(tx: Transaction) -> None:
        gate.pass_through()
        insert_all(tx, make_job())

    writing = asyncio.ensure_future(db.write(work))
    await gate.wait_until_begun()
    writing.cancel()
    done, _ = await asyncio.wait((writing,), timeout=0.1)
    assert not done
    gate.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await count(db) == 1


async def test_a_cancelled_write_whose_turn_had_not_come_never_runs(db: SqlDatabase) -> None:
    gate = Gate()
    first = asyncio.ensure_future(db.write(lambda _: gate.pass_through()))
    await gate.wait_until_begun()
    second = asyncio.ensure_future(db.write(lambda tx: insert_all(tx, make_job())))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.go_on.set()
    await first
    assert await count(db) == 0


async def test_a_second_cancellation_goes_through_and_the_transaction_still_ends(
    db: SqlDatabase,
) -> None:
    gate = Gate()

    def work(tx: Transaction) -> None:
        gate.pass_through()
        insert_all(tx, make_job())

    writing = asyncio.ensure_future(db.write(work))
    await gate.wait_until_begun()
    writing.cancel()
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    gate.go_on.set()
    await db.write(lambda _: None)
    assert await count(db) == 1


async def test_whoever_waits_too_long_for_another_writer_is_told_so(
    db: SqlDatabase, url: str, clock: FakeClock
) -> None:
    impatient = SqlDatabase.open(url, clock=clock, busy_seconds=0.2)
    gate = Gate()
    holding = asyncio.ensure_future(db.write(lambda _: gate.pass_through()))
    await gate.wait_until_begun()
    with pytest.raises(DatabaseBusy) as caught:
        await impatient.write(lambda tx: insert_all(tx, make_job()))
    assert caught.value.retry_after_seconds == 1
    assert caught.value.__cause__ is not None
    gate.go_on.set()
    await holding
    await impatient.write(lambda tx: insert_all(tx, make_job()))
    await impatient.close()
    assert await count(db) == 1


async def test_whoever_waits_too_long_for_its_turn_never_runs(url: str, clock: FakeClock) -> None:
    impatient = SqlDatabase.open(url, clock=clock, busy_seconds=0.05)
    gate = Gate()
    holding = asyncio.ensure_future(impatient.write(lambda _: gate.pass_through()))
    await gate.wait_until_begun()
    with pytest.raises(DatabaseBusy):
        await impatient.write(lambda tx: insert_all(tx, make_job()))
    gate.go_on.set()
    await holding
    await impatient.write(lambda _: None)
    assert await count(impatient) == 0
    await impatient.close()


async def test_foreign_keys_are_enforced(db: SqlDatabase) -> None:
    session = make_session()
    upload = make_upload(session_id=session.id)
    for orphan in (make_upload(), make_output()):
        with pytest.raises(ConflictingUpdate):
            await db.write(lambda tx, orphan=orphan: insert_all(tx, orphan))  # type: ignore[misc]
    await db.write(lambda tx: insert_all(tx, session, upload))
    with pytest.raises(ConflictingUpdate):
        await db.write(lambda tx: tx.sessions.delete(session.id))
    assert await db.read(lambda tx: tx.sessions.find(session.id)) == session


async def test_a_time_without_a_zone_is_refused(db: SqlDatabase) -> None:
    naive = datetime(2026, 1, 1, 12, 0)  # noqa: DTZ001
    with pytest.raises(InternalError) as caught:
        await db.write(lambda tx: insert_all(tx, make_session(created_at=naive)))
    assert isinstance(caught.value.__cause__, StatementError)


async def test_a_failed_statement_does_not_spoil_what_comes_after(
    db: SqlDatabase, engine: Engine
) -> None:
    job = make_job()
    await db.write(lambda tx: insert_all(tx, job))
    with pytest.raises(ConflictingUpdate):
        await db.write(lambda tx: insert_all(tx, make_job(), job))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE cleanup_pending RENAME TO hidden"))
    with pytest.raises(AppError):
        await db.write(lambda tx: tx.cleanup.count())
    with pytest.raises(AppError):
        await db.read(lambda tx: tx.cleanup.count())
    assert await count(db) == 1
    await db.write(lambda tx: insert_all(tx, make_job()))
    assert await count(db) == 2


async def test_the_check_asks_the_database_itself(db: SqlDatabase, engine: Engine) -> None:
    await db.check()
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE instance"))
    with pytest.raises(AppError):
        await db.check()


async def test_closing_ends_the_threads_and_later_calls_are_told(
    url: str, clock: FakeClock
) -> None:
    database = SqlDatabase.open(url, clock=clock)
    before = set(threading.enumerate())
    gate = Gate()
    writing = asyncio.ensure_future(database.write(lambda _: gate.pass_through()))
    await gate.wait_until_begun()
    await asyncio.gather(*(count(database) for _ in range(5)))
    named = {each for each in threading.enumerate() if each.name.startswith("tidemill-")}
    started = named - before
    assert started
    gate.go_on.set()
    await database.close()
    await asyncio.wait_for(writing, LIMIT_SECONDS)
    assert not any(thread.is_alive() for thread in started)
    await database.close()
    for call in (database.write, database.read):
        with pytest.raises(NotReady):
            await call(lambda tx: tx.jobs.count_queued())


async def test_a_checkpoint_does_no_harm(db: SqlDatabase) -> None:
    await db.write(lambda tx: insert_all(tx, make_job()))
    await db.checkpoint()
    assert await count(db) == 1


async def test_a_lost_server_is_trouble_once_and_then_forgotten(
    cluster: Cluster, clock: FakeClock
) -> None:
    cluster.execute("CREATE DATABASE lost TEMPLATE migrated")
    database = SqlDatabase.open(cluster.url("lost"), clock=clock)
    await database.write(lambda tx: insert_all(tx, make_job()))
    await count(database)
    cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'lost'")
    # A writer's first word tells that its line is dead, before anything was asked: nobody hears of it.
    await database.write(lambda tx: insert_all(tx, make_job()))
    with pytest.raises(DatabaseBusy):
        await count(database)
    await database.write(lambda tx: insert_all(tx, make_job()))
    assert await count(database) == 3
    await database.close()
    cluster.execute("DROP DATABASE lost")


async def test_a_server_that_is_not_there_is_named_as_such(clock: FakeClock) -> None:
    address = "postgresql+psycopg://somebody@127.0.0.1:1/nowhere"
    database = SqlDatabase.open(address, clock=clock, busy_seconds=1)
    with pytest.raises(DatabaseBusy, match="cannot be reached"):
        await count(database)
    await database.close()
