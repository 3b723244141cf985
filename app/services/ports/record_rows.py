"""The rows about other rows: tombstones, idempotency keys, leases, sweeps, cleanups."""

from datetime import datetime, timedelta
from typing import Protocol

from app.domain.idempotency import IdempotencyRecord
from app.domain.requests import OpenRequest
from app.domain.sweeps import PendingCleanup, SweepName, SweepReport
from app.domain.tombstones import ThingKind, Tombstone
from app.services.ports.cursor import Cursor


class TombstoneRows(Protocol):
    def put(self, tombstone: Tombstone) -> None:
        """Insert; a second one for the same kind and id is ignored."""
        ...

    def find(self, kind: ThingKind, thing_id: str) -> Tombstone | None: ...

    def list_by_parent(self, kind: ThingKind, parent_id: str) -> list[Tombstone]: ...

    def delete_before(self, before: datetime, limit: int) -> int:
        """Remove those of things deleted before ``before``; returns how many."""
        ...

    def count_before(self, before: datetime) -> int:
        """How many ``delete_before`` would remove without a limit."""
        ...


class IdempotencyRows(Protocol):
    def find(self, owner: str, scope: str, key: str) -> IdempotencyRecord | None: ...

    def put(self, record: IdempotencyRecord) -> bool:
        """Insert; False when owner, scope and key have a record already."""
        ...

    def delete_old(self, before: datetime, limit: int) -> int:
        """Remove records made before ``before`` whose thing has no row any more; returns how many."""
        ...

    def count_old(self, before: datetime) -> int:
        """How many ``delete_old`` would remove without a limit."""
        ...


class RequestRows(Protocol):
    """Requests under way whose answer is a file."""

    def insert(self, request: OpenRequest) -> None: ...

    def find(self, request_id: str) -> OpenRequest | None: ...

    def find_by_job(self, job_id: str) -> OpenRequest | None: ...

    def end(self, request_id: str) -> None:
        """Say that it is over and was not cleaned up by itself; nothing without a row."""
        ...

    def delete(self, request_id: str) -> bool: ...

    def list_all(self, limit: int) -> list[OpenRequest]: ...


class LeaseRows(Protocol):
    def acquire(self, name: str, holder: str, *, now: datetime, ttl: timedelta) -> bool:
        """Take or renew a named lease; False while another holder's has not run out."""
        ...

    def release(self, name: str, holder: str) -> None: ...


class SweepReportRows(Protocol):
    def insert(self, report: SweepReport) -> None: ...

    def find_latest(self, sweep: SweepName) -> SweepReport | None: ...

    def list_latest(
        self, limit: int, *, cursor: Cursor | None = None, sweep: SweepName | None = None
    ) -> list[SweepReport]:
        """Newest first, after the cursor (its ``created_at`` is a report's ``started_at``)."""
        ...

    def delete_old(self, before: datetime, limit: int) -> int:
        """Remove reports that started before ``before``, but of each sweep's the latest; returns how
        many.
        """
        ...

    def count_old(self, before: datetime) -> int:
        """How many ``delete_old`` would remove without a limit."""
        ...


class CleanupRows(Protocol):
    def put(self, pending: PendingCleanup) -> None:
        """Insert; one path has one row, a second put is ignored."""
        ...

    def find(self, path: str) -> PendingCleanup | None: ...

    def remove(self, path: str) -> bool: ...

    def record_failure(self, path: str, *, error: str, next_attempt_at: datetime) -> None:
        """Count one more attempt."""
        ...

    def list_due(self, now: datetime, limit: int) -> list[PendingCleanup]: ...

    def list_all(self, limit: int) -> list[PendingCleanup]: ...

    def count(self, *, least_attempts: int = 0) -> int:
        """How many there are that have failed so often."""
        ...

    def list_stuck(self, least_attempts: int, limit: int) -> list[PendingCleanup]:
        """Those that have failed so often, oldest first."""
        ...
