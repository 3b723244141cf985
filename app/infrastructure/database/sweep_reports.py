"""Rows of the reports that sweeps leave."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import (
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
from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Row, Statement, page_values
from app.infrastructure.database.tables import sweep_reports
from app.services.ports import Cursor, SweepReportRows

_ROW = sweep_reports.c
_NEWEST = select(sweep_reports).order_by(_ROW.started_at.desc(), _ROW.id.desc())
_INSERT = Statement(insert(sweep_reports))
_LATEST_OF = Statement(_NEWEST.where(_ROW.sweep == bindparam("sweep_")).limit(1))
_AFTER = tuple_(_ROW.started_at, _ROW.id) < tuple_(
    bindparam("after_at", type_=_ROW.started_at.type), bindparam("after_id", type_=_ROW.id.type)
)
_PAGE = _NEWEST.limit(bindparam("limit_"))
_PAGE_OF = _PAGE.where(_ROW.sweep == bindparam("sweep_"))
# By whether one sweep's are asked for, and whether a page came before.
_LATEST = {
    (False, False): Statement(_PAGE),
    (False, True): Statement(_PAGE.where(_AFTER)),
    (True, False): Statement(_PAGE_OF),
    (True, True): Statement(_PAGE_OF.where(_AFTER)),
}
_LATER = sweep_reports.alias("later")
_HAS_LATER = exists().where(
    _LATER.c.sweep == _ROW.sweep,
    tuple_(_LATER.c.started_at, _LATER.c.id) > tuple_(_ROW.started_at, _ROW.id),
)
_IS_OLD = and_(_ROW.started_at < bindparam("before_"), _HAS_LATER)
_OLD = select(_ROW.id).where(_IS_OLD).order_by(_ROW.started_at).limit(bindparam("limit_"))
_DELETE_OLD = Statement(delete(sweep_reports).where(_ROW.id.in_(_OLD)))
_COUNT_OLD = Statement(select(func.count()).select_from(sweep_reports).where(_IS_OLD))


class SqlSweepReports(Repository, SweepReportRows):
    __slots__ = ()

    def insert(self, report: SweepReport) -> None:
        self._link.change(_INSERT, asdict(report) | {"errors": list(report.errors)})

    def find_latest(self, sweep: SweepName) -> SweepReport | None:
        row = self._link.first(_LATEST_OF, {"sweep_": sweep})
        return None if row is None else _report(row)

    def list_latest(
        self, limit: int, *, cursor: Cursor | None = None, sweep: SweepName | None = None
    ) -> list[SweepReport]:
        values = page_values(cursor, limit) | ({} if sweep is None else {"sweep_": sweep})
        query = _LATEST[sweep is not None, cursor is not None]
        return [_report(row) for row in self._link.rows(query, values)]

    def delete_old(self, before: datetime, limit: int) -> int:
        return self._link.change(_DELETE_OLD, {"before_": before, "limit_": limit})

    def count_old(self, before: datetime) -> int:
        return int(self._link.value(_COUNT_OLD, {"before_": before}))


def _report(row: Row) -> SweepReport:
    return SweepReport(**(row | {"errors": tuple(row["errors"])}))
