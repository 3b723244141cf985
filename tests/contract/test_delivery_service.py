"""Delivery is recorded alike on both databases, also by downloads that end at the same time."""

import asyncio

import pytest

from app.domain.delivery import ByteSpan
from app.domain.outputs import Output, OutputStatus
from app.infrastructure.database.engine import SqlDatabase
from app.services.delivery import MOST_SPANS, DeliveryService
from tests.factories import insert_all, make_ended_job, make_output
from tests.fakes.clock import FakeClock

SIZE = 4000


@pytest.fixture
async def output(db: SqlDatabase) -> Output:
    job = make_ended_job(one_time=True)
    output = make_output(job_id=job.id, one_time=True, size_bytes=SIZE)
    await db.write(lambda tx: insert_all(tx, job, output))
    return output


async def found(db: SqlDatabase, output: Output) -> Output:
    row = await db.read(lambda tx: tx.outputs.find(output.id))
    assert row is not None
    return row


async def test_parts_that_end_together_in_two_processes_are_all_counted(
    db: SqlDatabase, url: str, clock: FakeClock, output: Output
) -> None:
    other = SqlDatabase.open(url, clock=clock)
    try:
        services = [DeliveryService(db=each, clock=clock) for each in (db, other)]
        parts = [ByteSpan(start, start + 100) for start in range(0, SIZE, 100)]
        await asyncio.gather(
            *(
                services[number % 2].record(output.id, output.owner, part)
                for number, part in enumerate(parts)
            )
        )
    finally:
        await other.close()
    row = await found(db, output)
    assert (row.status, row.delivered_at) == (OutputStatus.DELIVERED, clock.now())


async def test_the_parts_of_two_principals_are_not_added_up(
    db: SqlDatabase, clock: FakeClock, output: Output
) -> None:
    service = DeliveryService(db=db, clock=clock)
    await service.record(output.id, "a", ByteSpan(0, 2000))
    await service.record(output.id, "b", ByteSpan(2000, SIZE))
    assert (await found(db, output)).status is OutputStatus.AVAILABLE
    await service.record(output.id, "b", ByteSpan(0, 2000))
    assert (await found(db, output)).status is OutputStatus.DELIVERED


async def test_recording_for_what_is_gone_or_delivered_changes_nothing(
    db: SqlDatabase, clock: FakeClock, output: Output
) -> None:
    service = DeliveryService(db=db, clock=clock)
    await service.record(output.id, output.owner, ByteSpan(0, SIZE))
    delivered = await found(db, output)
    clock.advance(60)
    await service.record(output.id, output.owner, ByteSpan(0, SIZE))
    assert await found(db, output) == delivered
    await db.write(lambda tx: tx.outputs.delete(output.id))
    await service.record(output.id, output.owner, ByteSpan(0, SIZE))


async def test_a_client_that_asks_for_every_other_byte_makes_no_rows_without_end(
    db: SqlDatabase, clock: FakeClock, output: Output
) -> None:
    service = DeliveryService(db=db, clock=clock)
    every_other = [ByteSpan(place, place + 1) for place in range(0, 2 * MOST_SPANS, 2)]
    await db.write(lambda tx: tx.deliveries.put(output.id, output.owner, every_other))
    await service.record(output.id, output.owner, ByteSpan(3500, 3501))
    kept = await db.read(lambda tx: tx.deliveries.spans(output.id, output.owner))
    assert kept == tuple(every_other)
    # What joins others still counts.
    await service.record(output.id, output.owner, ByteSpan(1, SIZE))
    assert (await found(db, output)).status is OutputStatus.DELIVERED
