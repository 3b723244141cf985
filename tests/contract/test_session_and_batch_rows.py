"""Rows of sessions and batches, on both databases."""

from dataclasses import replace
from datetime import timedelta

import pytest

from app.domain.errors import ConflictingUpdate
from app.domain.jobs import JobStatus
from app.domain.sessions import SessionStatus, Then
from app.infrastructure.database.engine import SqlDatabase
from app.services.ports import Cursor
from tests.factories import (
    insert_all,
    make_batch,
    make_completed_upload,
    make_input,
    make_job,
    make_session,
    make_upload,
)
from tests.fakes.clock import NOON

HOUR = timedelta(hours=1)


async def test_a_session_comes_back_as_it_was_stored(db: SqlDatabase) -> None:
    then = Then(operation="trim", params={"start": 2.5, "end": None}, timeout_seconds=60.0)
    session = make_session(expected_files=3, then=then, implicit=True, owner="someone")
    plain = make_session()
    await db.write(lambda tx: insert_all(tx, session, plain))
    assert await db.read(lambda tx: tx.sessions.find(session.id)) == session
    assert await db.read(lambda tx: tx.sessions.find(plain.id)) == plain
    assert await db.read(lambda tx: tx.sessions.find("0" * 32)) is None


async def test_a_session_is_updated_only_from_the_expected_status(db: SqlDatabase) -> None:
    session = make_session()
    batched = replace(session, status=SessionStatus.BATCHED, batch_id="b" * 32)
    await db.write(lambda tx: insert_all(tx, session))
    await db.write(lambda tx: tx.sessions.update(batched, expected=SessionStatus.OPEN))
    with pytest.raises(ConflictingUpdate):
        await db.write(lambda tx: tx.sessions.update(session, expected=SessionStatus.OPEN))
    assert await db.read(lambda tx: tx.sessions.find(session.id)) == batched


async def test_touching_a_session_only_moves_forward(db: SqlDatabase) -> None:
    session = make_session()
    await db.write(lambda tx: insert_all(tx, session))
    for at in (NOON + HOUR, NOON - HOUR):
        await db.write(lambda tx, at=at: tx.sessions.touch(session.id, at))  # type: ignore[misc]
    await db.write(lambda tx: tx.sessions.touch("0" * 32, NOON))
    found = await db.read(lambda tx: tx.sessions.find(session.id))
    assert found == replace(session, active_at=NOON + HOUR)


async def test_deleting_a_session_works_once(db: SqlDatabase) -> None:
    session = make_session()
    await db.write(lambda tx: insert_all(tx, session))
    assert await db.write(lambda tx: tx.sessions.delete(session.id)) is True
    assert await db.write(lambda tx: tx.sessions.delete(session.id)) is False


async def test_idle_are_open_sessions_without_activity_of_their_own_or_of_an_upload(
    db: SqlDatabase,
) -> None:
    idle, idler = (make_session(active_at=NOON - hours * HOUR) for hours in (1, 2))
    touched = make_session(active_at=NOON)
    receives = make_session(active_at=NOON - HOUR)
    received = make_session(active_at=NOON - HOUR)
    batched = make_session(active_at=NOON - HOUR, status=SessionStatus.BATCHED)
    uploads = [
        make_upload(session_id=idler.id, active_at=NOON - HOUR),
        make_upload(session_id=receives.id, active_at=NOON - 2 * HOUR),
        make_upload(session_id=receives.id, active_at=NOON),
        make_completed_upload(session_id=received.id, active_at=NOON + HOUR),
    ]
    sessions = (idle, idler, touched, receives, received, batched)
    await db.write(lambda tx: insert_all(tx, *sessions, *uploads))
    assert await db.read(lambda tx: tx.sessions.list_idle(NOON, 10)) == [idler, idle]
    assert await db.read(lambda tx: tx.sessions.list_idle(NOON, 1)) == [idler]


async def test_a_batch_comes_back_as_it_was_stored_and_goes_once(db: SqlDatabase) -> None:
    session = make_session()
    batch = make_batch(session_id=session.id, expires_at=NOON + HOUR)
    await db.write(lambda tx: insert_all(tx, session, batch))
    assert await db.read(lambda tx: tx.batches.find(batch.id)) == batch
    assert await db.write(lambda tx: tx.batches.delete(batch.id)) is True
    assert await db.write(lambda tx: tx.batches.delete(batch.id)) is False
    assert await db.read(lambda tx: tx.batches.find(batch.id)) is None


async def test_a_session_becomes_one_batch_only(db: SqlDatabase) -> None:
    session = make_session()
    first, second = make_batch(session_id=session.id), make_batch(session_id=session.id)
    await db.write(lambda tx: insert_all(tx, session, first))
    with pytest.raises(ConflictingUpdate):
        await db.write(lambda tx: insert_all(tx, second))
    assert await db.read(lambda tx: tx.batches.list_page("owner", None, 10)) == [first]


async def test_touching_a_batch_only_moves_forward(db: SqlDatabase) -> None:
    session = make_session()
    batch = make_batch(session_id=session.id, expires_at=NOON)
    await db.write(lambda tx: insert_all(tx, session, batch))
    for until in (NOON + HOUR, NOON - HOUR):
        await db.write(lambda tx, until=until: tx.batches.touch(batch.id, until))  # type: ignore[misc]
    found = await db.read(lambda tx: tx.batches.find(batch.id))
    assert found == replace(batch, expires_at=NOON + HOUR)


async def test_pages_of_batches_go_newest_first_and_miss_nothing_of_the_same_instant(
    db: SqlDatabase,
) -> None:
    sessions = [make_session() for _ in range(7)]
    batches = [
        make_batch(session_id=session.id, created_at=NOON + (number // 3) * HOUR)
        for number, session in enumerate(sessions)
    ]
    foreign_session = make_session()
    foreign = make_batch(session_id=foreign_session.id, owner="another")
    await db.write(lambda tx: insert_all(tx, *sessions, foreign_session, *batches, foreign))
    seen = []
    cursor = None
    while page := await db.read(
        lambda tx, cursor=cursor: tx.batches.list_page("owner", cursor, 2)  # type: ignore[misc]
    ):
        seen += page
        cursor = Cursor(page[-1].created_at, page[-1].id)
    assert seen == sorted(batches, key=lambda batch: (batch.created_at, batch.id), reverse=True)


async def test_expired_are_batches_that_no_active_job_needs(db: SqlDatabase) -> None:
    sessions = [make_session() for _ in range(6)]
    past = NOON - HOUR
    plain, finished, on_the_dot, busy, read, alive = batches = [
        make_batch(session_id=session.id, expires_at=expires_at)
        for session, expires_at in zip(
            sessions, (past - HOUR, past, NOON, past, past, NOON + HOUR), strict=True
        )
    ]
    upload = make_completed_upload(session_id=read.session_id, batch_id=read.id)
    unused = make_completed_upload(session_id=finished.session_id, batch_id=finished.id)
    jobs = [
        make_job(batch_id=finished.id, status=JobStatus.COMPLETED, inputs=(make_input(unused.id),)),
        make_job(batch_id=busy.id, status=JobStatus.PROCESSING),
        # A job of no batch at all reads a file of this one.
        make_job(status=JobStatus.QUEUED, inputs=(make_input(upload.id),)),
    ]
    await db.write(lambda tx: insert_all(tx, *sessions, *batches, upload, unused, *jobs))
    assert await db.read(lambda tx: tx.batches.list_expired(NOON, 10)) == [plain, finished]
    assert await db.read(lambda tx: tx.batches.list_expired(NOON, 1)) == [plain]
    later = await db.read(lambda tx: tx.batches.list_expired(NOON + 2 * HOUR, 10))
    assert later == [plain, finished, on_the_dot, alive]


async def test_a_batch_that_ends_where_its_client_put_it_is_stored_so(db: SqlDatabase) -> None:
    session = make_session()
    batch = make_batch(session_id=session.id, expires_at=NOON + HOUR)
    await db.write(lambda tx: insert_all(tx, session, batch))
    moved = replace(batch, expires_at=NOON - HOUR, keep_inputs_hours=0.5, slides=False)
    await db.write(lambda tx: tx.batches.update(moved))
    assert await db.read(lambda tx: tx.batches.find(batch.id)) == moved
