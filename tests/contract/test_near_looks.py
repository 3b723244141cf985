"""Looks at single rows: on the caller's thread while SQLite answers at once, else on a reader's."""

import asyncio
import threading

import pytest

from app.domain.errors import DatabaseBusy, InternalError, NotReady, OffsetMismatch
from app.domain.jobs import Job
from app.infrastructure.database.engine import SqlDatabase
from app.infrastructure.database.near_looks import QUICK_SECONDS
from app.services.ports import Transaction
from tests.factories import insert_all, make_job
from tests.fakes.clock import FakeClock


async def thread_of_a_look(db: SqlDatabase) -> threading.Thread:
    return await db.look(lambda _: threading.current_thread())


async def is_near(db: SqlDatabase) -> bool:
    return await thread_of_a_look(db) is threading.current_thread()


@pytest.fixture
async def near(db: SqlDatabase, kind: str) -> SqlDatabase:
    """The database, after the looks that show that it is quick."""
    for _ in range(2):
        assert not await is_near(db)
    assert await is_near(db) is (kind == "sqlite")
    return db


async def test_a_look_sees_what_was_written_last(near: SqlDatabase) -> None:
    for job in (make_job(), make_job()):
        assert await near.look(lambda tx, job=job: tx.jobs.find(job.id)) is None  # type: ignore[misc]
        await near.write(lambda tx, job=job: insert_all(tx, job))  # type: ignore[misc]
        found: Job | None = await near.look(lambda tx, job=job: tx.jobs.find(job.id))  # type: ignore[misc]
        assert found == job


async def test_a_look_is_one_snapshot(near: SqlDatabase, other: SqlDatabase) -> None:
    gate, job = threading.Event(), make_job()

    def write_elsewhere() -> None:
        asyncio.run(other.write(lambda tx: insert_all(tx, job)))
        gate.set()

    def look_twice(tx: Transaction) -> tuple[Job | None, Job | None]:
        first = tx.jobs.find(job.id)
        threading.Thread(target=write_elsewhere).start()
        assert gate.wait(15)
        return first, tx.jobs.find(job.id)

    assert await near.look(look_twice) == (None, None)
    assert await near.look(lambda tx: tx.jobs.find(job.id)) == job


async def test_a_look_cannot_write_and_its_errors_pass(near: SqlDatabase, kind: str) -> None:
    def fail(tx: Transaction) -> None:
        tx.jobs.find("0" * 32)
        raise OffsetMismatch

    with pytest.raises(OffsetMismatch):
        await near.look(fail)
    assert await is_near(near) is (kind == "sqlite")
    with pytest.raises(InternalError):
        await near.look(lambda tx: insert_all(tx, make_job()))
    assert await near.read(lambda tx: tx.jobs.totals()) == {}
    # The connection that failed is not used again; the next look opens another.
    await thread_of_a_look(near)
    assert await is_near(near) is (kind == "sqlite")


async def test_after_a_slow_look_the_next_go_to_a_thread_until_they_are_quick(
    near: SqlDatabase, kind: str, clock: FakeClock
) -> None:
    await near.look(lambda _: clock.advance(2 * QUICK_SECONDS))
    assert not await is_near(near)
    await near.look(lambda _: clock.advance(2 * QUICK_SECONDS))
    for _ in range(2):
        assert not await is_near(near)
    assert await is_near(near) is (kind == "sqlite")


async def test_looks_at_once_are_all_answered(db: SqlDatabase) -> None:
    job = make_job()
    await db.write(lambda tx: insert_all(tx, job))
    found = await asyncio.gather(*(db.look(lambda tx: tx.jobs.find(job.id)) for _ in range(50)))
    assert found == [job] * 50


async def test_a_look_that_finds_the_database_busy_is_made_again_in_a_thread(
    near: SqlDatabase, kind: str
) -> None:
    threads = []

    def find(_: Transaction) -> str:
        threads.append(threading.current_thread())
        if threads[-1] is threading.main_thread():
            raise DatabaseBusy
        return "found"

    assert await near.look(find) == "found"
    assert len(threads) == (2 if kind == "sqlite" else 1)
    assert threads[-1] is not threading.main_thread()


async def test_a_closed_database_is_not_looked_at(near: SqlDatabase) -> None:
    await near.close()
    with pytest.raises(NotReady):
        await near.look(lambda tx: tx.jobs.find("0" * 32))
