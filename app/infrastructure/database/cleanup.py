"""Rows of bytes that are still to be deleted."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import bindparam, delete, func, select, update

from app.domain.sweeps import PendingCleanup
from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Statement, Values, insert_missing
from app.infrastructure.database.tables import cleanup_pending
from app.services.ports import CleanupRows

_ROW = cleanup_pending.c
_BY_PATH = _ROW.path == bindparam("path_")
_FIND = Statement(select(cleanup_pending).where(_BY_PATH))
_REMOVE = Statement(delete(cleanup_pending).where(_BY_PATH))
_RECORD_FAILURE = Statement(
    update(cleanup_pending).where(_BY_PATH).values(attempts=_ROW.attempts + 1)
)
_DUE = Statement(
    select(cleanup_pending)
    .where(_ROW.next_attempt_at <= bindparam("now_"))
    .order_by(_ROW.next_attempt_at, _ROW.path)
    .limit(bindparam("limit_"))
)
_OLDEST = select(cleanup_pending).order_by(_ROW.created_at, _ROW.path).limit(bindparam("limit_"))
_ALL = Statement(_OLDEST)
_COUNT = Statement(select(func.count()).where(_ROW.attempts >= bindparam("least_")))
_STUCK = Statement(_OLDEST.where(_ROW.attempts >= bindparam("least_")))
_INSERT_MISSING = insert_missing(cleanup_pending)


class SqlCleanup(Repository, CleanupRows):
    """``record_failure`` of a path that has no row does nothing."""

    __slots__ = ()

    def put(self, pending: PendingCleanup) -> None:
        self._link.change(_INSERT_MISSING, asdict(pending))

    def find(self, path: str) -> PendingCleanup | None:
        row = self._link.first(_FIND, {"path_": path})
        return None if row is None else PendingCleanup(**row)

    def remove(self, path: str) -> bool:
        return self._link.change(_REMOVE, {"path_": path}) > 0

    def record_failure(self, path: str, *, error: str, next_attempt_at: datetime) -> None:
        values = {"path_": path, "last_error": error, "next_attempt_at": next_attempt_at}
        self._link.change(_RECORD_FAILURE, values)

    def list_due(self, now: datetime, limit: int) -> list[PendingCleanup]:
        return self._list(_DUE, {"now_": now, "limit_": limit})

    def list_all(self, limit: int) -> list[PendingCleanup]:
        return self._list(_ALL, {"limit_": limit})

    def list_stuck(self, least_attempts: int, limit: int) -> list[PendingCleanup]:
        return self._list(_STUCK, {"least_": least_attempts, "limit_": limit})

    def count(self, *, least_attempts: int = 0) -> int:
        return int(self._link.value(_COUNT, {"least_": least_attempts}))

    def _list(self, query: Statement, values: Values) -> list[PendingCleanup]:
        return [PendingCleanup(**row) for row in self._link.rows(query, values)]
