"""Rows of how fast jobs went."""

from datetime import datetime

from sqlalchemy import bindparam, delete, func, select

from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Statement, insert_missing
from app.infrastructure.database.tables import job_rates
from app.services.ports import RATES_KEPT, RateRows

_ROW = job_rates.c
_OF = _ROW.operation == bindparam("operation_")
_KEPT = select(_ROW.measured_at).where(_OF).order_by(_ROW.measured_at.desc()).limit(RATES_KEPT)
_FORGET = Statement(delete(job_rates).where(_OF, _ROW.measured_at.not_in(_KEPT)))
_BEST = Statement(select(func.min(_ROW.seconds_per_unit)).where(_OF))
_INSERT_MISSING = insert_missing(job_rates)


class SqlRates(Repository, RateRows):
    """Two measurements of the same microsecond count as one."""

    __slots__ = ()

    def put(self, operation: str, *, seconds_per_unit: float, measured_at: datetime) -> None:
        values = {
            "operation": operation,
            "measured_at": measured_at,
            "seconds_per_unit": seconds_per_unit,
        }
        self._link.change(_INSERT_MISSING, values)
        self._link.change(_FORGET, {"operation_": operation})

    def best(self, operation: str) -> float | None:
        found: float | None = self._link.value(_BEST, {"operation_": operation})
        return found
