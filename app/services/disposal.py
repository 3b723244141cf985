"""Deleting the bytes that buried rows let go of, and trying again until they are gone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from app.domain.access import OWNER
from app.domain.errors import AppError
from app.domain.layout import WORK, attempt_of
from app.domain.sweeps import PendingCleanup
from app.services.ports import Clock, Database, Files, Metrics, Transaction

log = structlog.get_logger(__name__)

FIRST_RETRY = timedelta(seconds=10)
LAST_RETRY = timedelta(hours=1)
ALARM_AFTER_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one path: ``freed_bytes`` are verified, ``error`` is None once it is gone."""

    path: str
    freed_bytes: int
    error: str | None = None


def retry_delay(attempts: int) -> timedelta:
    """Return how long to wait after ``attempts`` failures: doubling from 10 s, at most an hour."""
    doublings = min(max(attempts - 1, 0), 16)
    return min(FIRST_RETRY * (1 << doublings), LAST_RETRY)


def _whose(path: str) -> dict[str, str | int]:
    """Return the ids for the log line of a job's scratch; a request's has none but its path."""
    found = attempt_of(path)
    return {} if found is None else {"job_id": found[0], "attempt": found[1]}


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


class Disposal:
    """Settles what burials released: delete, verify, then forget the cleanup row.

    Crash between the two: the row is still there, and the sweep ``spent_inputs`` settles it.
    """

    def __init__(self, db: Database, files: Files, clock: Clock, metrics: Metrics) -> None:
        self._db = db
        self._files = files
        self._clock = clock
        self._metrics = metrics

    async def settle(self, paths: Sequence[str]) -> int:
        """Delete ``paths`` and return the bytes verified gone. Never raises for a path.

        What cannot be deleted stays as a cleanup row and is tried again with backoff, for ever.
        """
        return sum(result.freed_bytes for result in await self.settle_each(paths))

    async def settle_due(self, limit: int) -> list[Settled]:
        """Try again what is due, at most ``limit`` paths."""
        now = self._clock.now()
        due = await self._db.read(lambda tx: tx.cleanup.list_due(now, limit))
        return await self.settle_each([pending.path for pending in due])

    async def settle_each(self, paths: Sequence[str]) -> list[Settled]:
        """Like ``settle``, telling what became of each path."""
        if not paths:
            return []
        results = [await self._delete(path) for path in paths]
        try:
            pending = await self._db.write(lambda tx: self._record(tx, results))
        except AppError as error:
            # The bytes went; the rows that say otherwise are settled again by spent_inputs.
            log.warning("cleanup.record_failed", paths=len(results), code=error.code)
        else:
            self._metrics.set("cleanup_pending", pending)
        return results

    async def _delete(self, path: str) -> Settled:
        is_scratch = path.startswith(f"{WORK}/")
        try:
            was_there = self._files.modified_at(path) is not None
            freed = await self._files.delete(path)
        except (AppError, OSError) as error:
            text = str(error)
            if is_scratch:
                self._metrics.count("scratch_remove_failed_total")
                log.warning("scratch.remove_failed", path=path, error=text, **_whose(path))
            else:
                log.warning("cleanup.failed", path=path, error=text)
            return Settled(path, 0, text)
        if is_scratch and was_there:
            self._metrics.count("scratch_removed_total")
            log.info("scratch.removed", path=path, bytes_freed=freed, **_whose(path))
        elif was_there:
            log.debug("cleanup.removed", path=path, bytes_freed=freed)
        return Settled(path, freed)

    def _record(self, tx: Transaction, results: Sequence[Settled]) -> int:
        """Write the outcomes and return how many cleanups are pending now."""
        now = self._clock.now()
        for result in results:
            if not _is_text(result.path):
                continue  # a name of no known encoding fits in no row; the next start meets it again
            if result.error is None:
                tx.cleanup.remove(result.path)
            else:
                self._record_failure(tx, result.path, result.error, now)
        return tx.cleanup.count()

    def _record_failure(self, tx: Transaction, path: str, error: str, now: datetime) -> None:
        pending = tx.cleanup.find(path)
        if pending is None:  # scratch that no burial released: from now on it has a row too
            pending = PendingCleanup(
                path=path,
                kind=path.split("/", 1)[0],
                reason="left_over",
                owner=OWNER,
                attempts=0,
                next_attempt_at=now,
                last_error=None,
                created_at=now,
            )
            tx.cleanup.put(pending)
        attempts = pending.attempts + 1
        tx.cleanup.record_failure(path, error=error, next_attempt_at=now + retry_delay(attempts))
        if attempts >= ALARM_AFTER_ATTEMPTS:
            log.error("cleanup.stuck", path=path, attempts=attempts, error=error)
