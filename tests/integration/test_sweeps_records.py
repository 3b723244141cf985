"""old_records over a real database: what is forgotten, what never is, and that the file shrinks."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.domain.access import OWNER
from app.domain.idempotency import IdempotencyRecord
from app.domain.ids import new_id
from app.domain.jobs import JobStatus
from app.domain.layout import DATABASE
from app.domain.sweeps import SweepName, SweepReport
from app.domain.tombstones import ThingKind, Tombstone
from app.services.ports import Transaction
from app.services.sweeps import SweepLimits
from app.services.sweeps.records import OldRecords
from tests.factories import make_report, make_tombstone
from tests.fakes.retention import DAY, HOUR, RETENTION_POLICY, World, open_world
from tests.fakes.sweeping import dry_run, sweep, sweep_service

RECORDS = SweepName.OLD_RECORDS
KEPT = RETENTION_POLICY.tombstones


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def tombstone(world: World, age: timedelta, **changes: Any) -> Tombstone:
    made = make_tombstone(deleted_at=world.clock.now() - age, **changes)
    await world.db.write(lambda tx: tx.tombstones.put(made))
    return made


async def key(world: World, age: timedelta, kind: ThingKind, thing_id: str) -> IdempotencyRecord:
    made = IdempotencyRecord(
        owner=OWNER,
        scope="POST /api/v1/jobs",
        key=new_id(),
        fingerprint="0" * 64,
        kind=kind,
        thing_id=thing_id,
        was_new=True,
        created_at=world.clock.now() - age,
    )
    await world.db.write(lambda tx: tx.idempotency.put(made))
    return made


async def report(world: World, age: timedelta, name: SweepName) -> SweepReport:
    made = make_report(started_at=world.clock.now() - age, sweep=name)
    await world.db.write(lambda tx: tx.sweep_reports.insert(made))
    return made


async def find_key(world: World, record: IdempotencyRecord) -> IdempotencyRecord | None:
    return await world.db.read(lambda tx: tx.idempotency.find(OWNER, record.scope, record.key))


async def reports(world: World) -> list[str]:
    found = await world.db.read(lambda tx: tx.sweep_reports.list_latest(1000))
    return [each.id for each in found if each.sweep is not RECORDS]


async def is_buried(world: World, thing: Tombstone) -> bool:
    return await world.tombstone(thing.kind, thing.id) is not None


async def test_old_records_go_and_younger_ones_and_those_of_living_things_stay(
    world: World,
) -> None:
    gone = [await tombstone(world, KEPT + HOUR) for _ in range(3)]
    kept = await tombstone(world, KEPT - HOUR)
    batch, _ = await world.batch()
    job = await world.ended_job(JobStatus.COMPLETED)
    forgotten = await key(world, DAY + HOUR, ThingKind.JOB, new_id())
    living = [
        await key(world, 9 * DAY, ThingKind.JOB, job.id),
        await key(world, 9 * DAY, ThingKind.BATCH, batch.id),
        await key(world, 9 * DAY, ThingKind.SESSION, batch.session_id),
        await key(world, DAY - HOUR, ThingKind.JOB, new_id()),
    ]
    gc, stale = SweepName.GC_FILES, SweepName.STALE_SESSIONS
    old = [await report(world, 3 * DAY, gc), await report(world, 4 * DAY, stale)]
    young = [await report(world, DAY, gc), await report(world, 3 * DAY, stale)]

    done = await sweep(world, RECORDS)

    assert (done.removed, done.errors, done.bytes_freed) == (3 + 1 + 2, (), 0)
    assert not any([await is_buried(world, each) for each in gone])
    assert await is_buried(world, kept)
    assert await find_key(world, forgotten) is None
    assert all([await find_key(world, each) is not None for each in living])
    assert await reports(world) == [each.id for each in young]
    assert not {each.id for each in old} & set(await reports(world))
    assert (await sweep(world, RECORDS)).removed == 0


async def test_a_thing_that_is_forgotten_was_never_there(world: World) -> None:
    session = await world.session()
    world.clock.advance(DAY + HOUR)
    assert (await sweep(world, SweepName.STALE_SESSIONS)).removed == 1
    assert await world.tombstone(ThingKind.SESSION, session.id) is not None
    world.clock.advance(KEPT + HOUR)
    await sweep(world, RECORDS)
    assert await world.tombstone(ThingKind.SESSION, session.id) is None


async def test_a_dry_run_counts_what_would_go_and_changes_nothing(world: World) -> None:
    gone = [await tombstone(world, KEPT + HOUR) for _ in range(3)]
    record = await key(world, 2 * DAY, ThingKind.JOB, new_id())
    await report(world, 3 * DAY, SweepName.GC_FILES)
    await report(world, 4 * DAY, SweepName.GC_FILES)
    before = await reports(world)
    found, victims = await dry_run(world, RECORDS)
    assert found.removed == 0
    assert [(each.kind, each.why.rpartition(" ")[2]) for each in victims] == [
        ("tombstones", "3"),
        ("idempotency_keys", "1"),
        ("sweep_reports", "1"),
    ]
    assert all([await is_buried(world, each) for each in gone])
    assert await find_key(world, record) is not None
    assert await reports(world) == before


async def test_a_run_stops_after_its_rounds_and_the_next_goes_on(world: World) -> None:
    for _ in range(7):
        await tombstone(world, KEPT + HOUR)
    records = OldRecords(world.db, KEPT, rounds=2)

    async def run() -> int:
        service = sweep_service(world, sweeps=[records], limits=SweepLimits(victims=2))
        done, _ = await service.run(RECORDS, make_report().trigger)
        return done.removed

    assert [await run() for _ in range(3)] == [4, 3, 0]


async def test_the_oldest_go_first(world: World) -> None:
    young = await tombstone(world, KEPT + HOUR)
    old = await tombstone(world, KEPT + 5 * HOUR)
    records = OldRecords(world.db, KEPT, rounds=1)
    service = sweep_service(world, sweeps=[records], limits=SweepLimits(victims=1))
    await service.run(RECORDS, make_report().trigger)
    assert (await is_buried(world, young), await is_buried(world, old)) == (True, False)


async def test_a_run_that_died_between_two_of_its_writes_is_taken_up_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = [await tombstone(world, KEPT + HOUR) for _ in range(4)]
    record = await key(world, 2 * DAY, ThingKind.JOB, new_id())
    write, writes = world.db.write, 0

    async def die_at_the_second(work: Any) -> Any:
        nonlocal writes
        result = await write(work)
        writes += isinstance(result, int) and not isinstance(result, bool)
        if writes == 2:
            raise SystemExit
        return result

    with monkeypatch.context() as patch:
        patch.setattr(world.db, "write", die_at_the_second)
        with pytest.raises(SystemExit):
            await sweep(world, RECORDS, limit=1)
    assert sum([await is_buried(world, each) for each in gone]) == 2
    assert await find_key(world, record) is not None
    world.clock.advance(timedelta(minutes=1))  # the lease of the dead has run out
    assert (await sweep(world, RECORDS, limit=1)).removed == 3
    assert not any([await is_buried(world, each) for each in gone])


async def test_one_kind_that_fails_does_not_keep_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tombstone(world, KEPT + HOUR)
    record = await key(world, 2 * DAY, ThingKind.JOB, new_id())
    records = OldRecords(world.db, KEPT)
    whole = OldRecords._kinds

    def broken(_: Transaction, __: datetime) -> int:
        raise OSError

    def kinds(self: OldRecords, now: datetime) -> Any:
        first, *others = whole(self, now)
        return (replace(first, count=broken), *others)

    monkeypatch.setattr(OldRecords, "_kinds", kinds)
    service = sweep_service(world, sweeps=[records])
    done, _ = await service.run(RECORDS, make_report().trigger)
    assert done.removed == 1
    assert [error.partition(" ")[0] for error in done.errors] == ["tombstones"]
    assert await find_key(world, record) is None


async def test_the_file_of_the_database_shrinks(world: World) -> None:
    at = world.clock.now() - KEPT - HOUR

    def fill(tx: Transaction) -> None:
        for _ in range(4000):
            tx.tombstones.put(make_tombstone(deleted_at=at))

    await world.db.write(fill)
    await world.db.checkpoint()
    file = world.path(DATABASE)
    full = file.stat().st_size
    assert (await sweep(world, RECORDS)).removed == 4000
    assert file.stat().st_size < full / 2
    assert world.path(f"{DATABASE}-wal").stat().st_size < 100_000
