"""What monitors read of rows, on both databases: stuck deletions, and the last success of sweeps."""

from datetime import timedelta

from app.domain.sweeps import SweepName
from app.infrastructure.database.engine import SqlDatabase
from app.services.storage_ledger import last_successes
from tests.factories import insert_all, make_cleanup, make_report
from tests.fakes.clock import NOON

HOUR = timedelta(hours=1)


async def test_stuck_deletions_are_counted_and_listed_by_their_attempts(db: SqlDatabase) -> None:
    fresh = make_cleanup(created_at=NOON - HOUR)
    stuck = make_cleanup(attempts=5, last_error="why", created_at=NOON)
    older = make_cleanup(attempts=9, last_error="why", created_at=NOON - 2 * HOUR)
    await db.write(lambda tx: insert_all(tx, fresh, stuck, older))
    assert await db.read(lambda tx: tx.cleanup.count()) == 3
    assert await db.read(lambda tx: tx.cleanup.count(least_attempts=5)) == 2
    assert await db.read(lambda tx: tx.cleanup.list_stuck(5, 10)) == [older, stuck]
    assert await db.read(lambda tx: tx.cleanup.list_stuck(5, 1)) == [older]
    assert await db.read(lambda tx: tx.cleanup.list_stuck(10, 10)) == []


async def test_the_last_success_of_a_sweep_passes_over_runs_that_failed(db: SqlDatabase) -> None:
    good = make_report(started_at=NOON, errors=("upload x: storage_failed",))
    broken = make_report(started_at=NOON + HOUR, errors=("sweep gc_files: KeyError", "and more"))
    hopeless = make_report(sweep=SweepName.OLD_RECORDS, errors=("sweep old_records: KeyError",))
    assert (good.came_to_its_end, broken.came_to_its_end) == (True, False)
    await db.write(lambda tx: insert_all(tx, good, broken, hopeless))
    found = await db.read(last_successes)
    assert found == {SweepName.GC_FILES: NOON + timedelta(seconds=0.25)}
