"""Rows of requests under way whose answer is a file, on both databases."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from app.domain.access import OWNER
from app.domain.ids import new_id
from app.domain.requests import OpenRequest
from app.infrastructure.database.engine import SqlDatabase
from tests.factories import insert_all, make_job
from tests.fakes.clock import NOON


def make_request(**overrides: Any) -> OpenRequest:
    values: dict[str, Any] = {
        "id": new_id(),
        "owner": OWNER,
        "worker": new_id(),
        "session_id": new_id(),
        "job_id": new_id(),
        "is_over": False,
        "created_at": NOON,
    }
    return OpenRequest(**(values | overrides))


async def test_a_request_comes_back_as_it_was_stored_and_goes_once(db: SqlDatabase) -> None:
    second = make_request(created_at=NOON + timedelta(seconds=1))
    first = make_request()
    await db.write(lambda tx: tx.requests.insert(second))
    await db.write(lambda tx: tx.requests.insert(first))
    assert await db.read(lambda tx: tx.requests.list_all(9)) == [first, second]
    assert await db.read(lambda tx: tx.requests.list_all(1)) == [first]
    assert await db.read(lambda tx: tx.requests.find(first.id)) == first
    assert await db.read(lambda tx: tx.requests.find_by_job(second.job_id)) == second
    assert await db.read(lambda tx: tx.requests.find_by_job(first.id)) is None
    assert await db.write(lambda tx: tx.requests.delete(first.id)) is True
    assert await db.write(lambda tx: tx.requests.delete(first.id)) is False
    assert await db.read(lambda tx: tx.requests.find(first.id)) is None


async def test_a_request_can_be_marked_as_over_and_one_that_went_cannot(db: SqlDatabase) -> None:
    request = make_request()
    await db.write(lambda tx: tx.requests.insert(request))
    await db.write(lambda tx: tx.requests.end(request.id))
    over = replace(request, is_over=True)
    assert await db.read(lambda tx: tx.requests.find(request.id)) == over
    await db.write(lambda tx: tx.requests.end(new_id()))
    assert await db.read(lambda tx: tx.requests.list_all(9)) == [over]


async def test_a_job_keeps_the_name_that_its_output_is_to_have(db: SqlDatabase) -> None:
    job = make_job(output_name="week 12 \N{CLAPPER BOARD}.mp4")
    await db.write(lambda tx: insert_all(tx, job))
    assert await db.read(lambda tx: tx.jobs.find(job.id)) == job
