"""Rows of outputs, tombstones, leases, sweep reports and pending deletions, on both databases."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from app.domain.outputs import OutputStatus
from app.domain.sweeps import SweepName, Trigger
from app.domain.tombstones import Reason, ThingKind
from app.infrastructure.database.engine import SqlDatabase
from tests.factories import (
    insert_all,
    make_cleanup,
    make_ended_job,
    make_output,
    make_report,
    make_tombstone,
)
from tests.fakes.clock import NOON

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


async def test_outputs_come_back_as_they_were_stored_and_go_once(db: SqlDatabase) -> None:
    job = make_ended_job()
    first = make_output(job_id=job.id, size_bytes=2**40, filename="caf\xe9 \N{CLAPPER BOARD}.mp4")
    second = make_output(job_id=job.id, created_at=NOON + HOUR, expires_at=None)
    await db.write(lambda tx: insert_all(tx, job, second, first))
    assert await db.read(lambda tx: tx.outputs.find(first.id)) == first
    assert await db.read(lambda tx: tx.outputs.list_by_job(job.id)) == [first, second]
    assert await db.read(lambda tx: tx.outputs.totals()) == {
        OutputStatus.AVAILABLE: (2, 2**40 + 500)
    }
    assert await db.write(lambda tx: tx.outputs.delete(first.id)) is True
    assert await db.write(lambda tx: tx.outputs.delete(first.id)) is False
    assert await db.read(lambda tx: tx.outputs.find(first.id)) is None
    assert await db.read(lambda tx: tx.outputs.totals()) == {OutputStatus.AVAILABLE: (1, 500)}


async def test_publishing_makes_the_outputs_of_one_attempt_available(db: SqlDatabase) -> None:
    job = make_ended_job()
    publishing = {"job_id": job.id, "status": OutputStatus.PUBLISHING, "expires_at": None}
    lost = make_output(**publishing, attempt=1)
    won = make_output(**publishing, attempt=2)
    await db.write(lambda tx: insert_all(tx, job, lost, won))
    await db.write(lambda tx: tx.outputs.publish(job.id, 2, NOON + HOUR))
    available = replace(won, status=OutputStatus.AVAILABLE, expires_at=NOON + HOUR)
    assert await db.read(lambda tx: tx.outputs.find(won.id)) == available
    assert await db.read(lambda tx: tx.outputs.list_publishing(10)) == [lost]
    # Once available it does not move any more.
    await db.write(lambda tx: tx.outputs.publish(job.id, 2, NOON + 2 * HOUR))
    assert await db.read(lambda tx: tx.outputs.find(won.id)) == available


async def test_the_first_tombstone_of_a_thing_stands(db: SqlDatabase) -> None:
    first = make_tombstone(
        reason=Reason.EXPIRED, sweep="gc_files", error_code="timeout", completed_at=NOON
    )
    second = replace(first, reason=Reason.TERMINATED)
    same_id = replace(first, kind=ThingKind.JOB)
    await db.write(lambda tx: insert_all(tx, first, second, same_id))
    assert await db.read(lambda tx: tx.tombstones.find(ThingKind.UPLOAD, first.id)) == first
    assert await db.read(lambda tx: tx.tombstones.find(ThingKind.JOB, first.id)) == same_id
    assert await db.read(lambda tx: tx.tombstones.find(ThingKind.BATCH, first.id)) is None


async def test_tombstones_are_found_by_what_they_belonged_to(db: SqlDatabase) -> None:
    parent = "b" * 32
    late = make_tombstone(parent_id=parent, created_at=NOON + HOUR)
    early = make_tombstone(parent_id=parent)
    job = make_tombstone(parent_id=parent, kind=ThingKind.JOB)
    await db.write(lambda tx: insert_all(tx, late, early, job, make_tombstone()))
    found = await db.read(lambda tx: tx.tombstones.list_by_parent(ThingKind.UPLOAD, parent))
    assert found == [early, late]


async def test_a_lease_has_one_holder_until_it_runs_out_or_is_given_back(db: SqlDatabase) -> None:
    async def acquire(holder: str, minutes: int, name: str = "gc_files") -> bool:
        now = NOON + minutes * MINUTE
        return await db.write(lambda tx: tx.leases.acquire(name, holder, now=now, ttl=10 * MINUTE))

    assert await acquire("a", 0)
    assert not await acquire("b", 5)
    assert await acquire("a", 5), "its holder may renew it"
    assert not await acquire("b", 14)
    assert await acquire("b", 5, name="another")
    assert await acquire("b", 15), "it ran out ten minutes after it was renewed"
    assert not await acquire("a", 16)
    await db.write(lambda tx: tx.leases.release("gc_files", "a"))
    assert not await acquire("a", 16), "only its holder can give it back"
    await db.write(lambda tx: tx.leases.release("gc_files", "b"))
    assert await acquire("a", 16)


async def test_of_many_who_want_a_lease_one_gets_it(db: SqlDatabase, other: SqlDatabase) -> None:
    async def acquire(database: SqlDatabase, holder: str, now: timedelta) -> bool:
        return await database.write(
            lambda tx: tx.leases.acquire("gc_files", holder, now=NOON + now, ttl=MINUTE)
        )

    for now in (timedelta(), HOUR):
        outcomes = await asyncio.gather(
            *(
                acquire(each, f"{name}{n}", now)
                for n in range(6)
                for name, each in (("a", db), ("b", other))
            )
        )
        assert sum(outcomes) == 1


async def test_reports_come_back_newest_first(db: SqlDatabase) -> None:
    old = make_report(
        errors=("uploads/x: permission denied",), trigger=Trigger.MANUAL, dry_run=True
    )
    new = make_report(started_at=NOON + HOUR, cutoff=None, bytes_freed=2**40)
    another = make_report(started_at=NOON + MINUTE, sweep=SweepName.STALE_SESSIONS)
    await db.write(lambda tx: insert_all(tx, new, old, another))
    assert await db.read(lambda tx: tx.sweep_reports.list_latest(10)) == [new, another, old]
    assert await db.read(lambda tx: tx.sweep_reports.list_latest(2)) == [new, another]
    assert await db.read(lambda tx: tx.sweep_reports.find_latest(SweepName.GC_FILES)) == new
    assert await db.read(lambda tx: tx.sweep_reports.find_latest(SweepName.SPENT_INPUTS)) is None


async def test_old_reports_can_be_taken_away_but_the_latest_of_each_sweep(
    db: SqlDatabase,
) -> None:
    oldest, older = make_report(started_at=NOON), make_report(started_at=NOON + MINUTE)
    new = make_report(started_at=NOON + HOUR)
    twins = [make_report(started_at=NOON, sweep=SweepName.STALE_SESSIONS) for _ in range(2)]
    latest = max(twins, key=lambda report: report.id)
    await db.write(lambda tx: insert_all(tx, older, new, oldest, *twins))
    assert await db.read(lambda tx: tx.sweep_reports.count_old(NOON)) == 0
    assert await db.read(lambda tx: tx.sweep_reports.count_old(NOON + HOUR)) == 3
    assert await db.write(lambda tx: tx.sweep_reports.delete_old(NOON + HOUR, 2)) == 2
    kept = await db.read(lambda tx: tx.sweep_reports.list_latest(10))
    assert kept == [new, older, latest]
    assert await db.write(lambda tx: tx.sweep_reports.delete_old(NOON + HOUR, 2)) == 1
    assert await db.write(lambda tx: tx.sweep_reports.delete_old(NOON + HOUR, 2)) == 0
    assert await db.read(lambda tx: tx.sweep_reports.list_latest(10)) == [new, latest]


async def test_one_path_has_one_pending_deletion(db: SqlDatabase) -> None:
    first = make_cleanup("uploads/x")
    second = replace(first, reason="expired", next_attempt_at=NOON + HOUR)
    await db.write(lambda tx: insert_all(tx, first, second))
    assert await db.read(lambda tx: tx.cleanup.find("uploads/x")) == first
    assert await db.read(lambda tx: tx.cleanup.count()) == 1
    assert await db.write(lambda tx: tx.cleanup.remove("uploads/x")) is True
    assert await db.write(lambda tx: tx.cleanup.remove("uploads/x")) is False
    assert await db.read(lambda tx: tx.cleanup.find("uploads/x")) is None
    assert await db.read(lambda tx: tx.cleanup.count()) == 0


async def test_a_failed_deletion_is_counted_and_comes_due_later(db: SqlDatabase) -> None:
    stubborn = make_cleanup(created_at=NOON)
    fine = make_cleanup(created_at=NOON + MINUTE, next_attempt_at=NOON - MINUTE)
    future = make_cleanup(created_at=NOON + HOUR, next_attempt_at=NOON + HOUR)
    await db.write(lambda tx: insert_all(tx, future, stubborn, fine))
    assert await db.read(lambda tx: tx.cleanup.list_due(NOON, 10)) == [fine, stubborn]
    assert await db.read(lambda tx: tx.cleanup.list_due(NOON, 1)) == [fine]
    for number in (1, 2):
        await db.write(
            lambda tx, n=number: tx.cleanup.record_failure(  # type: ignore[misc]
                stubborn.path, error=f"busy {n}", next_attempt_at=NOON + n * MINUTE
            )
        )
    await db.write(lambda tx: tx.cleanup.record_failure("gone", error="x", next_attempt_at=NOON))
    failed = replace(stubborn, attempts=2, last_error="busy 2", next_attempt_at=NOON + 2 * MINUTE)
    assert await db.read(lambda tx: tx.cleanup.list_due(NOON, 10)) == [fine]
    assert await db.read(lambda tx: tx.cleanup.list_all(10)) == [failed, fine, future]
    assert await db.read(lambda tx: tx.cleanup.list_all(1)) == [failed]
