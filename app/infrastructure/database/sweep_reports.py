"""Rows of the reports that sweeps leave."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, select, tuple_

from app.domain.sweeps import SweepName, SweepReport
from app.infrastructure.database.tables import sweep_reports
from app.services.ports import Cursor, SweepReportRows

_ROW = sweep_reports.c
_NEWEST = select(sweep_reports).order_by(_ROW.started_at.desc(), _ROW.id.desc())
_INSERT = insert(sweep_reports)
_LATEST_OF = _NEWEST.where(_ROW.sweep == bindparam("sweep_")).limit(1)
_DELETE_BEFORE = delete(sweep_reports).where(
    _ROW.sweep == bindparam("sweep_"), _ROW.started_at < bindparam("before_")
)


class SqlSweepReports(SweepReportRows):
    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def insert(self, report: SweepReport) -> None:
        self._connection.execute(_INSERT, asdict(report) | {"errors": list(report.errors)})

    def find_latest(self, sweep: SweepName) -> SweepReport | None:
        row = self._connection.execute(_LATEST_OF, {"sweep_": sweep}).mappings().first()
        return None if row is None else _report(row)

    def list_latest(
        self, limit: int, *, cursor: Cursor | None = None, sweep: SweepName | None = None
    ) -> list[SweepReport]:
        query = _NEWEST.limit(limit)
        if sweep is not None:
            query = query.where(_ROW.sweep == sweep)
        if cursor is not None:
            after = tuple_(
                bindparam(None, cursor.created_at, type_=_ROW.started_at.type),
                bindparam(None, cursor.id, type_=_ROW.id.type),
            )
            query = query.where(tuple_(_ROW.started_at, _ROW.id) < after)
        return [_report(row) for row in self._connection.execute(query).mappings()]

    def delete_before(self, sweep: SweepName, before: datetime) -> int:
        return self._connection.execute(
            _DELETE_BEFORE, {"sweep_": sweep, "before_": before}
        ).rowcount


def _report(row: RowMapping) -> SweepReport:
    return SweepReport(**(dict(row) | {"errors": tuple(row["errors"])}))
