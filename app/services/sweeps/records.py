"""``old_records``: rows that nobody needs any more, of things whose bytes are long gone."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import ClassVar

from app.domain import idempotency
from app.domain.sweeps import SweepName, Victim
from app.services.ports import Database, Transaction
from app.services.sweeps.base import SweepRun

Rows = Callable[[Transaction], int]


class OldRecords:
    """Forgets tombstones past their days and idempotency keys whose thing is gone."""

    name: ClassVar[SweepName] = SweepName.OLD_RECORDS

    def __init__(self, db: Database, tombstones_kept: timedelta) -> None:
        self._db = db
        self._tombstones_kept = tombstones_kept

    async def run(self, run: SweepRun) -> None:
        run.cutoff = before = run.now - self._tombstones_kept
        old_keys = run.now - idempotency.KEPT
        await self._forget(
            run,
            Victim("tombstones", f"before {_shown(before)}", "kept long enough"),
            count=lambda tx: tx.tombstones.count_before(before),
            delete=partial(_delete_tombstones, before=before, limit=run.limit),
        )
        await self._forget(
            run,
            Victim("idempotency_keys", f"before {_shown(old_keys)}", "what they made is gone"),
            count=lambda tx: tx.idempotency.count_old(old_keys),
            delete=partial(_delete_keys, before=old_keys, limit=run.limit),
        )

    async def _forget(self, run: SweepRun, victim: Victim, *, count: Rows, delete: Rows) -> None:
        with run.entry(victim.kind, victim.id):
            found = await self._db.read(count)
            if found and run.claim(victim):
                run.tally.removed += await self._db.write(delete)


def _delete_tombstones(tx: Transaction, *, before: datetime, limit: int) -> int:
    return tx.tombstones.delete_before(before, limit)


def _delete_keys(tx: Transaction, *, before: datetime, limit: int) -> int:
    return tx.idempotency.delete_old(before, limit)


def _shown(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
