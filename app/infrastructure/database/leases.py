"""Named leases: one holder at a time, each for a while."""

from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, or_, update

from app.infrastructure.database.statements import changed, insert_missing
from app.infrastructure.database.tables import leases
from app.services.ports import LeaseRows

_ROW = leases.c
_HOLDER = bindparam("holder_", type_=_ROW.holder.type)
_NOW = bindparam("now_", type_=_ROW.acquired_at.type)
_TAKE = (
    update(leases)
    .where(_ROW.name == bindparam("name_"), or_(_ROW.holder == _HOLDER, _ROW.expires_at <= _NOW))
    .values(holder=_HOLDER, acquired_at=_NOW)
)
_RELEASE = delete(leases).where(_ROW.name == bindparam("name_"), _ROW.holder == _HOLDER)


class SqlLeases(LeaseRows):
    """``release`` of a lease that is another's (by now) does nothing."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def acquire(self, name: str, holder: str, *, now: datetime, ttl: timedelta) -> bool:
        values = {"name_": name, "holder_": holder, "now_": now, "expires_at": now + ttl}
        if changed(self._connection, _TAKE, values):
            return True
        first = {"name": name, "holder": holder, "acquired_at": now, "expires_at": now + ttl}
        return insert_missing(self._connection, leases, first)

    def release(self, name: str, holder: str) -> None:
        self._connection.execute(_RELEASE, {"name_": name, "holder_": holder})
