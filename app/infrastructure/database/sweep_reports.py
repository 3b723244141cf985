"""Rows of the reports that sweeps leave."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import (
    Connection,
    RowMapping,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    tuple_,
)

from app.domain.sweeps import SweepName, SweepReport
from app.infrastructure.database.statements import changed
from app.infrastructure.database.tables import sweep_reports
from app.services.ports import Cursor, SweepReportRows

_ROW = sweep_reports.c
_NEWEST = select(sweep_reports).order_by(_ROW.started_at.desc(), _ROW.id.desc())
_INSERT = insert(sweep_reports)
_LATEST_OF = _NEWEST.where(_ROW.sweep == bindparam("sweep_")).limit(1)
_LATER = sweep_reports.alias("later")
_HAS_LATER = exists().where(
    _LATER.c.sweep == _ROW.sweep,
    tuple_(_LATER.c.started_at, _LATER.c.id) > tuple_(_ROW.started_at, _ROW.id),
)
_IS_OLD = and_(_ROW.started_at < bindparam("before_"), _HAS_LATER)
_OLD = select(_ROW.id).where(_IS_OLD).order_by(_ROW.started_at).limit(bindparam("limit_"))
_DELETE_OLD = delete(sweep_reports).where(_ROW.id.in_(_OLD))
_COUNT_OLD = select(func.count()).select_from(sweep_reports).where(_IS_OLD)


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

    def delete_old(self, before: datetime, limit: int) -> int:
        return changed(self._connection, _DELETE_OLD, {"before_": before, "limit_": limit})

    def count_old(self, before: datetime) -> int:
        return int(self._connection.execute(_COUNT_OLD, {"before_": before}).scalar_one())


def _report(row: RowMapping) -> SweepReport:
    return SweepReport(**(dict(row) | {"errors": tuple(row["errors"])}))
