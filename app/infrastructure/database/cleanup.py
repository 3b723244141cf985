"""Rows of bytes that are still to be deleted."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, update

from app.domain.sweeps import PendingCleanup
from app.infrastructure.database.statements import Values, changed, insert_missing
from app.infrastructure.database.tables import cleanup_pending
from app.services.ports import CleanupRows

_ROW = cleanup_pending.c
_BY_PATH = _ROW.path == bindparam("path_")
_FIND = select(cleanup_pending).where(_BY_PATH)
_REMOVE = delete(cleanup_pending).where(_BY_PATH)
_RECORD_FAILURE = update(cleanup_pending).where(_BY_PATH).values(attempts=_ROW.attempts + 1)
_DUE = (
    select(cleanup_pending)
    .where(_ROW.next_attempt_at <= bindparam("now_"))
    .order_by(_ROW.next_attempt_at, _ROW.path)
    .limit(bindparam("limit_"))
)
_ALL = select(cleanup_pending).order_by(_ROW.created_at, _ROW.path).limit(bindparam("limit_"))
_COUNT = select(func.count()).where(_ROW.attempts >= bindparam("least_"))
_STUCK = _ALL.where(_ROW.attempts >= bindparam("least_"))


class SqlCleanup(CleanupRows):
    """``record_failure`` of a path that has no row does nothing."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def put(self, pending: PendingCleanup) -> None:
        insert_missing(self._connection, cleanup_pending, asdict(pending))

    def find(self, path: str) -> PendingCleanup | None:
        row = self._connection.execute(_FIND, {"path_": path}).mappings().first()
        return None if row is None else PendingCleanup(**row)

    def remove(self, path: str) -> bool:
        return changed(self._connection, _REMOVE, {"path_": path}) > 0

    def record_failure(self, path: str, *, error: str, next_attempt_at: datetime) -> None:
        values = {"path_": path, "last_error": error, "next_attempt_at": next_attempt_at}
        self._connection.execute(_RECORD_FAILURE, values)

    def list_due(self, now: datetime, limit: int) -> list[PendingCleanup]:
        return self._list(_DUE, {"now_": now, "limit_": limit})

    def list_all(self, limit: int) -> list[PendingCleanup]:
        return self._list(_ALL, {"limit_": limit})

    def list_stuck(self, least_attempts: int, limit: int) -> list[PendingCleanup]:
        return self._list(_STUCK, {"least_": least_attempts, "limit_": limit})

    def count(self, *, least_attempts: int = 0) -> int:
        return int(self._connection.execute(_COUNT, {"least_": least_attempts}).scalar_one())

    def _list(self, query: Any, values: Values) -> list[PendingCleanup]:
        found = self._connection.execute(query, values)
        return [PendingCleanup(**row) for row in found.mappings()]
