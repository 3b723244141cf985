"""Named leases: one holder at a time, each for a while."""

from datetime import datetime, timedelta

from sqlalchemy import bindparam, delete, or_, update

from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Statement, insert_missing
from app.infrastructure.database.tables import leases
from app.services.ports import LeaseRows

_ROW = leases.c
_HOLDER = bindparam("holder_", type_=_ROW.holder.type)
_NOW = bindparam("now_", type_=_ROW.acquired_at.type)
_TAKE = Statement(
    update(leases)
    .where(_ROW.name == bindparam("name_"), or_(_ROW.holder == _HOLDER, _ROW.expires_at <= _NOW))
    .values(holder=_HOLDER, acquired_at=_NOW)
)
_RELEASE = Statement(delete(leases).where(_ROW.name == bindparam("name_"), _ROW.holder == _HOLDER))
_INSERT_MISSING = insert_missing(leases)


class SqlLeases(Repository, LeaseRows):
    """``release`` of a lease that is another's (by now) does nothing."""

    __slots__ = ()

    def acquire(self, name: str, holder: str, *, now: datetime, ttl: timedelta) -> bool:
        values = {"name_": name, "holder_": holder, "now_": now, "expires_at": now + ttl}
        if self._link.change(_TAKE, values):
            return True
        first = {"name": name, "holder": holder, "acquired_at": now, "expires_at": now + ttl}
        return self._link.change(_INSERT_MISSING, first) > 0

    def release(self, name: str, holder: str) -> None:
        self._link.change(_RELEASE, {"name_": name, "holder_": holder})
