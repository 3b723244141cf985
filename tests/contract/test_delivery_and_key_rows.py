"""Rows of deliveries, idempotency keys and rates, and the queries that came with them."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import pytest

from app.domain.batches import Batch
from app.domain.delivery import ByteSpan
from app.domain.errors import ConflictingUpdate
from app.domain.idempotency import IdempotencyRecord
from app.domain.jobs import JobStatus
from app.domain.outputs import OutputStatus
from app.domain.sweeps import SweepName
from app.domain.tombstones import ThingKind, Tombstone
from app.infrastructure.database.engine import SqlDatabase
from app.services.ports import RATES_KEPT, Cursor, Transaction
from tests.factories import (
    insert_all,
    make_batch,
    make_completed_upload,
    make_ended_job,
    make_input,
    make_job,
    make_output,
    make_report,
    make_session,
    make_tombstone,
    make_upload,
)
from tests.fakes.clock import NOON

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def record(key: str, thing_id: str, **changes: object) -> IdempotencyRecord:
    kept = IdempotencyRecord(
        owner="me",
        scope="POST /api/v1/jobs",
        key=key,
        fingerprint="f" * 64,
        kind=ThingKind.JOB,
        thing_id=thing_id,
        was_new=True,
        created_at=NOON,
    )
    return replace(kept, **changes)  # type: ignore[arg-type]


def put_key(kept: IdempotencyRecord, tx: Transaction) -> bool:
    return tx.idempotency.put(kept)


def find_key(key: tuple[str, str, str], tx: Transaction) -> IdempotencyRecord | None:
    return tx.idempotency.find(*key)


def put_rate(rate: float, at: datetime, tx: Transaction) -> None:
    tx.rates.put("trim", seconds_per_unit=rate, measured_at=at)


def plan_spent(upload_id: str, at: datetime | None, tx: Transaction) -> None:
    tx.uploads.plan_spent(upload_id, at)


def update_batch(batch: Batch, tx: Transaction) -> None:
    tx.batches.update(batch)


def find_tombstone(tombstone: Tombstone, tx: Transaction) -> Tombstone | None:
    return tx.tombstones.find(tombstone.kind, tombstone.id)


async def test_the_spans_of_each_principal_are_kept_apart_and_go_with_their_output(
    db: SqlDatabase,
) -> None:
    job = make_ended_job()
    output, other = make_output(job_id=job.id), make_output(job_id=job.id)
    await db.write(lambda tx: insert_all(tx, job, output, other))
    mine = (ByteSpan(0, 10), ByteSpan(20, 2**40))
    await db.write(lambda tx: tx.deliveries.put(output.id, "me", mine))
    await db.write(lambda tx: tx.deliveries.put(output.id, "you", (ByteSpan(5, 6),)))
    assert await db.read(lambda tx: tx.deliveries.spans(output.id, "me")) == mine
    assert await db.read(lambda tx: tx.deliveries.spans(output.id, "you")) == (ByteSpan(5, 6),)
    assert await db.read(lambda tx: tx.deliveries.spans(other.id, "me")) == ()

    await db.write(lambda tx: tx.deliveries.put(output.id, "me", (ByteSpan(0, 2**40),)))
    assert await db.read(lambda tx: tx.deliveries.spans(output.id, "me")) == (ByteSpan(0, 2**40),)

    await db.write(lambda tx: tx.outputs.delete(output.id))
    assert await db.read(lambda tx: tx.deliveries.spans(output.id, "me")) == ()
    await db.write(lambda tx: tx.deliveries.put(output.id, "me", mine))
    assert await db.read(lambda tx: tx.deliveries.spans(output.id, "me")) == ()


async def test_a_key_belongs_to_its_first_request_however_many_come_at_once(
    db: SqlDatabase, other: SqlDatabase
) -> None:
    records = [record("k", f"{n:032x}") for n in range(8)]
    wrote = await asyncio.gather(
        *((db, other)[n % 2].write(partial(put_key, each)) for n, each in enumerate(records))
    )
    assert sum(wrote) == 1
    kept = await db.read(lambda tx: tx.idempotency.find("me", "POST /api/v1/jobs", "k"))
    assert kept == records[wrote.index(True)]
    for owner, scope, key in (
        ("you", "POST /api/v1/jobs", "k"),
        ("me", "POST /api/v1/batches", "k"),
        ("me", "POST /api/v1/jobs", "K"),
    ):
        assert await db.read(partial(find_key, (owner, scope, key))) is None


async def test_an_old_key_stays_as_long_as_its_thing_lives(db: SqlDatabase) -> None:
    job, session = make_ended_job(), make_session()
    await db.write(lambda tx: insert_all(tx, job, session))
    living = [
        record("job", job.id),
        record("session", session.id, kind=ThingKind.SESSION),
    ]
    dead = [record("gone", "0" * 32), record("job's id, as a batch", job.id, kind=ThingKind.BATCH)]
    young = record("young", "0" * 32, created_at=NOON + HOUR)
    await db.write(lambda tx: [tx.idempotency.put(each) for each in (*living, *dead, young)])

    assert await db.read(lambda tx: tx.idempotency.count_old(NOON + HOUR)) == 2
    assert await db.write(lambda tx: tx.idempotency.delete_old(NOON + HOUR, 1)) == 1
    assert await db.write(lambda tx: tx.idempotency.delete_old(NOON + HOUR, 10)) == 1
    assert await db.write(lambda tx: tx.idempotency.delete_old(NOON + HOUR, 10)) == 0
    for each in (*living, young):
        assert await db.read(partial(find_key, (each.owner, each.scope, each.key))) == each


async def test_of_each_operation_the_newest_rates_are_kept_and_the_best_is_told(
    db: SqlDatabase,
) -> None:
    assert await db.read(lambda tx: tx.rates.best("trim")) is None
    for n in range(RATES_KEPT + 5):
        await db.write(partial(put_rate, 1.0 + n, NOON + n * HOUR))
    await db.write(lambda tx: tx.rates.put("intro", seconds_per_unit=0.5, measured_at=NOON))
    # The five oldest, which were the fastest, are forgotten.
    assert await db.read(lambda tx: tx.rates.best("trim")) == 6.0
    assert await db.read(lambda tx: tx.rates.best("intro")) == 0.5


async def test_an_output_changes_only_from_the_status_it_is_believed_to_have(
    db: SqlDatabase,
) -> None:
    job = make_ended_job()
    output = make_output(job_id=job.id, one_time=True)
    await db.write(lambda tx: insert_all(tx, job, output))
    delivered = replace(output, status=OutputStatus.DELIVERED, delivered_at=NOON, expires_at=None)
    await db.write(lambda tx: tx.outputs.update(delivered, expected=OutputStatus.AVAILABLE))
    assert await db.read(lambda tx: tx.outputs.find(output.id)) == delivered
    with pytest.raises(ConflictingUpdate):
        await db.write(lambda tx: tx.outputs.update(output, expected=OutputStatus.AVAILABLE))
    assert await db.read(lambda tx: tx.outputs.find(output.id)) == delivered


async def test_delivered_and_expired_outputs_are_listed_unless_an_active_job_reads_them(
    db: SqlDatabase,
) -> None:
    job = make_ended_job()
    early, late, read = (
        make_output(
            job_id=job.id,
            status=OutputStatus.DELIVERED,
            one_time=True,
            delivered_at=NOON + n * HOUR,
            expires_at=NOON + n * HOUR,
        )
        for n in (0, 2, 0)
    )
    kept = make_output(job_id=job.id, expires_at=None)
    publishing = make_output(job_id=job.id, status=OutputStatus.PUBLISHING, expires_at=NOON - DAY)
    reader = make_job(inputs=(make_input(upload_id=None, output_id=read.id),))
    await db.write(lambda tx: insert_all(tx, job, early, late, read, kept, publishing, reader))

    assert await db.read(lambda tx: tx.outputs.list_delivered(NOON, 10)) == [early]
    assert await db.read(lambda tx: tx.outputs.list_delivered(NOON + DAY, 10)) == [early, late]
    assert await db.read(lambda tx: tx.outputs.list_expired(NOON + HOUR, 10)) == [early]
    assert await db.read(lambda tx: tx.outputs.list_expired(NOON + DAY, 1)) == [early]


async def test_uploads_without_a_digest_are_completed_ones_oldest_first(db: SqlDatabase) -> None:
    session = make_session()
    receiving = make_upload(session_id=session.id)
    second = make_completed_upload(session_id=session.id, completed_at=NOON + HOUR)
    first = make_completed_upload(session_id=session.id, completed_at=NOON)
    known = make_completed_upload(session_id=session.id, sha256="a" * 64)
    await db.write(lambda tx: insert_all(tx, session, receiving, second, first, known))

    assert await db.read(lambda tx: tx.uploads.list_without_digest(10)) == [first, second]
    assert await db.read(lambda tx: tx.uploads.list_without_digest(1)) == [first]
    assert await db.write(lambda tx: tx.uploads.set_sha256(first.id, "b" * 64)) is True
    assert await db.write(lambda tx: tx.uploads.set_sha256(receiving.id, "b" * 64)) is False
    assert await db.write(lambda tx: tx.uploads.set_sha256("0" * 32, "b" * 64)) is False
    assert await db.read(lambda tx: tx.uploads.list_without_digest(10)) == [second]


async def test_a_hold_and_a_batch_s_end_can_be_moved_both_ways(db: SqlDatabase) -> None:
    session = make_session()
    batch = make_batch(session_id=session.id)
    upload = make_completed_upload(session_id=session.id, batch_id=batch.id)
    await db.write(lambda tx: insert_all(tx, session, batch, upload))
    for spent_at in (NOON + DAY, NOON, None):
        await db.write(partial(plan_spent, upload.id, spent_at))
        found = await db.read(lambda tx: tx.uploads.find(upload.id))
        assert found is not None
        assert found.spent_at == spent_at
    for hours in (5.0, None):
        changed = replace(batch, expires_at=NOON + HOUR, keep_inputs_hours=hours)
        await db.write(partial(update_batch, changed))
        assert await db.read(lambda tx: tx.batches.find(batch.id)) == changed
    with pytest.raises(ConflictingUpdate):
        await db.write(lambda tx: tx.batches.update(make_batch(session_id=session.id)))


async def test_versions_and_readers_of_many_jobs_come_in_one_go(db: SqlDatabase) -> None:
    inputs = [make_input() for _ in range(3)]
    jobs = [make_job(inputs=(each,)) for each in inputs]
    ended = make_ended_job(inputs=(inputs[0],), created_at=NOON + HOUR)
    await db.write(lambda tx: insert_all(tx, *jobs, ended))
    await db.write(lambda tx: tx.jobs.request_cancel(jobs[1].id))
    ids = [job.id for job in jobs]
    many = [*ids, *(f"{n:032x}" for n in range(1200))]
    versions = await db.read(lambda tx: tx.jobs.list_versions(many))
    assert versions == {jobs[0].id: 1, jobs[1].id: 2, jobs[2].id: 1}
    assert await db.read(lambda tx: tx.jobs.list_versions([])) == {}
    upload_id = inputs[0].upload_id or ""
    readers = await db.read(lambda tx: tx.jobs.list_reading([upload_id]))
    assert [(job.id, job.status) for job in readers] == [
        (jobs[0].id, JobStatus.QUEUED),
        (ended.id, JobStatus.COMPLETED),
    ]


async def test_old_tombstones_go_in_bounded_numbers(db: SqlDatabase) -> None:
    old = [make_tombstone(deleted_at=NOON - n * DAY) for n in (3, 2, 1)]
    young = make_tombstone(deleted_at=NOON)
    await db.write(lambda tx: insert_all(tx, *old, young))
    assert await db.read(lambda tx: tx.tombstones.count_before(NOON)) == 3
    assert await db.write(lambda tx: tx.tombstones.delete_before(NOON, 2)) == 2
    found = [await db.read(partial(find_tombstone, each)) for each in old]
    assert found == [None, None, old[2]]
    assert await db.write(lambda tx: tx.tombstones.delete_before(NOON, 2)) == 1
    assert await db.read(lambda tx: tx.tombstones.find(young.kind, young.id)) == young


async def test_reports_come_in_pages_of_one_sweep_or_of_all(db: SqlDatabase) -> None:
    reports = [
        make_report(
            sweep=SweepName.GC_FILES if n % 2 else SweepName.OLD_RECORDS,
            started_at=NOON + n * HOUR,
        )
        for n in range(5)
    ]
    await db.write(lambda tx: insert_all(tx, *reports))
    newest = reports[::-1]
    first = await db.read(lambda tx: tx.sweep_reports.list_latest(2))
    assert first == newest[:2]
    after = Cursor(first[-1].started_at, first[-1].id)
    assert await db.read(lambda tx: tx.sweep_reports.list_latest(9, cursor=after)) == newest[2:]
    of_one = await db.read(
        lambda tx: tx.sweep_reports.list_latest(9, cursor=after, sweep=SweepName.GC_FILES)
    )
    assert of_one == [reports[1]]
