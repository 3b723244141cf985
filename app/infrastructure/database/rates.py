"""Rows of how fast jobs went."""

from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, func, select

from app.infrastructure.database.statements import insert_missing
from app.infrastructure.database.tables import job_rates
from app.services.ports import RATES_KEPT, RateRows

_ROW = job_rates.c
_OF = _ROW.operation == bindparam("operation_")
_KEPT = select(_ROW.measured_at).where(_OF).order_by(_ROW.measured_at.desc()).limit(RATES_KEPT)
_FORGET = delete(job_rates).where(_OF, _ROW.measured_at.not_in(_KEPT))
_BEST = select(func.min(_ROW.seconds_per_unit)).where(_OF)


class SqlRates(RateRows):
    """Two measurements of the same microsecond count as one."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def put(self, operation: str, *, seconds_per_unit: float, measured_at: datetime) -> None:
        values = {
            "operation": operation,
            "measured_at": measured_at,
            "seconds_per_unit": seconds_per_unit,
        }
        insert_missing(self._connection, job_rates, values)
        self._connection.execute(_FORGET, {"operation_": operation})

    def best(self, operation: str) -> float | None:
        found: float | None = self._connection.execute(
            _BEST, {"operation_": operation}
        ).scalar_one_or_none()
        return found
