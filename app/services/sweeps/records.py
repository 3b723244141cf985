"""``old_records``: rows that nobody needs any more, of things whose bytes are long gone."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from app.domain import idempotency
from app.domain.sweeps import SweepName, Victim
from app.services.ports import Database, Transaction
from app.services.sweeps.base import SweepRun

REPORTS_KEPT = timedelta(days=2)
"""At the default intervals some 14,000 reports are written a day."""
ROUNDS = 100
"""Transactions that one run takes per kind, of as many rows as its limit says: uploads write their
tombstones faster than a few thousand a day, and between two rounds the others write.
"""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of rows, all of them older than ``before``."""

    name: str
    before: datetime
    why: str
    count: Callable[[Transaction, datetime], int]
    delete: Callable[[Transaction, datetime, int], int]


class OldRecords:
    """Forgets tombstones past their days, idempotency keys whose thing is gone, and old reports.

    The latest report of each sweep stays. Then the space of what was deleted is given back.
    """

    name: ClassVar[SweepName] = SweepName.OLD_RECORDS

    def __init__(self, db: Database, tombstones_kept: timedelta, *, rounds: int = ROUNDS) -> None:
        self._db = db
        self._tombstones_kept = tombstones_kept
        self._rounds = rounds

    async def run(self, run: SweepRun) -> None:
        run.cutoff = run.now - self._tombstones_kept
        for kind in self._kinds(run.now):
            victim = Victim(kind.name, f"before {_shown(kind.before)}", kind.why)
            with run.entry(victim.kind, victim.id):
                await self._forget(run, kind, victim)
        if not run.dry_run:
            with run.entry("database", "space"):
                await self._db.checkpoint()

    def _kinds(self, now: datetime) -> tuple[_Kind, ...]:
        return (
            _Kind(
                "tombstones",
                now - self._tombstones_kept,
                "kept long enough",
                lambda tx, before: tx.tombstones.count_before(before),
                lambda tx, before, limit: tx.tombstones.delete_before(before, limit),
            ),
            _Kind(
                "idempotency_keys",
                now - idempotency.KEPT,
                "what they made is gone",
                lambda tx, before: tx.idempotency.count_old(before),
                lambda tx, before, limit: tx.idempotency.delete_old(before, limit),
            ),
            _Kind(
                "sweep_reports",
                now - REPORTS_KEPT,
                "kept long enough",
                lambda tx, before: tx.sweep_reports.count_old(before),
                lambda tx, before, limit: tx.sweep_reports.delete_old(before, limit),
            ),
        )

    async def _forget(self, run: SweepRun, kind: _Kind, victim: Victim) -> None:
        found = await self._db.read(lambda tx: kind.count(tx, kind.before))
        counted = Victim(victim.kind, victim.id, f"{victim.why}; rows: {found}")
        if not found or not run.claim(counted):
            return
        for _ in range(self._rounds):
            removed = await self._db.write(lambda tx: kind.delete(tx, kind.before, run.limit))
            run.tally.removed += removed
            if removed < run.limit:
                return


def _shown(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
