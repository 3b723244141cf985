"""Requests with a key on both databases: made once, by whoever comes first."""

import asyncio

import pytest

from app.domain.access import OWNER
from app.domain.errors import ConflictingUpdate, IdempotencyKeyReused
from app.domain.idempotency import IdempotentRequest
from app.domain.ids import new_id
from app.domain.tombstones import ThingKind
from app.infrastructure.database.engine import SqlDatabase
from app.services.idempotency import find_replay, remember, write_once
from app.services.ports import Transaction
from tests.factories import make_job
from tests.fakes.clock import NOON

REQUEST = IdempotentRequest("POST /api/v1/jobs", "key", "fingerprint")


def make_or_find(tx: Transaction, request: IdempotentRequest | None = REQUEST) -> tuple[str, bool]:
    """Make a job under the key, or return the one there is; True when it was made now."""
    found = find_replay(tx, OWNER, request)
    if found is not None:
        return found.thing_id, False
    job = make_job()
    tx.jobs.insert(job)
    remember(tx, OWNER, request, ThingKind.JOB, job.id, was_new=True, now=NOON)
    return job.id, True


async def count_jobs(db: SqlDatabase) -> int:
    return sum((await db.read(lambda tx: tx.jobs.totals())).values())


async def test_eight_at_once_in_two_processes_make_one(db: SqlDatabase, other: SqlDatabase) -> None:
    answers = await asyncio.gather(
        *(write_once(each, REQUEST, make_or_find) for each in [db, other] * 4)
    )
    assert len({thing_id for thing_id, _ in answers}) == 1
    assert [is_new for _, is_new in answers].count(True) == 1
    assert await count_jobs(db) == 1


async def test_a_key_that_is_taken_in_between_rolls_back_and_is_looked_for_again(
    db: SqlDatabase, other: SqlDatabase
) -> None:
    first, _ = await other.write(make_or_find)
    looks = 0

    def as_if_it_were_the_first(tx: Transaction) -> tuple[str, bool]:
        nonlocal looks
        looks += 1
        if looks > 1:
            return make_or_find(tx)
        job = make_job()
        tx.jobs.insert(job)
        remember(tx, OWNER, REQUEST, ThingKind.JOB, job.id, was_new=True, now=NOON)
        return job.id, True

    assert await write_once(db, REQUEST, as_if_it_were_the_first) == (first, False)
    assert looks == 2
    assert await count_jobs(db) == 1


async def test_without_a_key_nothing_is_kept_and_a_conflict_is_the_callers(db: SqlDatabase) -> None:
    for _ in range(2):
        await write_once(db, None, lambda tx: make_or_find(tx, None))
    assert await count_jobs(db) == 2

    def conflict(tx: Transaction) -> None:
        raise ConflictingUpdate

    with pytest.raises(ConflictingUpdate):
        await write_once(db, None, conflict)


async def test_owner_and_call_have_keys_of_their_own_and_another_body_is_refused(
    db: SqlDatabase,
) -> None:
    await db.write(make_or_find)
    elsewhere = IdempotentRequest("POST /api/v1/batches", REQUEST.key, REQUEST.fingerprint)
    changed = IdempotentRequest(REQUEST.scope, REQUEST.key, new_id())
    found = await db.read(lambda tx: find_replay(tx, OWNER, REQUEST))
    assert found is not None
    assert (found.kind, found.was_new, found.created_at) == (ThingKind.JOB, True, NOON)
    assert await db.read(lambda tx: find_replay(tx, "somebody else", changed)) is None
    assert await db.read(lambda tx: find_replay(tx, OWNER, elsewhere)) is None
    with pytest.raises(IdempotencyKeyReused):
        await db.read(lambda tx: find_replay(tx, OWNER, changed))
