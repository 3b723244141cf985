"""Rows of idempotency keys."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import (
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    tuple_,
)

from app.domain.idempotency import IdempotencyRecord
from app.domain.tombstones import ThingKind
from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Statement, insert_missing
from app.infrastructure.database.tables import (
    batches,
    idempotency_keys,
    jobs,
    outputs,
    sessions,
    uploads,
)
from app.services.ports import IdempotencyRows

_ROW = idempotency_keys.c
_KEY = (_ROW.owner, _ROW.scope, _ROW.key)
_HOMES: Mapping[ThingKind, Table] = {
    ThingKind.UPLOAD: uploads,
    ThingKind.SESSION: sessions,
    ThingKind.BATCH: batches,
    ThingKind.JOB: jobs,
    ThingKind.OUTPUT: outputs,
}
_FIND = Statement(
    select(idempotency_keys).where(
        _ROW.owner == bindparam("owner_"),
        _ROW.scope == bindparam("scope_"),
        _ROW.key == bindparam("key_"),
    )
)
_IS_ALIVE = or_(
    *(
        and_(_ROW.kind == kind, exists().where(table.c.id == _ROW.thing_id))
        for kind, table in _HOMES.items()
    )
)
_IS_OLD = and_(_ROW.created_at < bindparam("before_"), ~_IS_ALIVE)
_OLD = select(*_KEY).where(_IS_OLD).order_by(_ROW.created_at).limit(bindparam("limit_"))
_DELETE_OLD = Statement(delete(idempotency_keys).where(tuple_(*_KEY).in_(_OLD)))
_COUNT_OLD = Statement(select(func.count()).select_from(idempotency_keys).where(_IS_OLD))
_INSERT_MISSING = insert_missing(idempotency_keys)


class SqlIdempotency(Repository, IdempotencyRows):
    __slots__ = ()

    def find(self, owner: str, scope: str, key: str) -> IdempotencyRecord | None:
        values = {"owner_": owner, "scope_": scope, "key_": key}
        row = self._link.first(_FIND, values)
        return None if row is None else IdempotencyRecord(**row)

    def put(self, record: IdempotencyRecord) -> bool:
        return self._link.change(_INSERT_MISSING, asdict(record)) > 0

    def delete_old(self, before: datetime, limit: int) -> int:
        return self._link.change(_DELETE_OLD, {"before_": before, "limit_": limit})

    def count_old(self, before: datetime) -> int:
        return int(self._link.value(_COUNT_OLD, {"before_": before}))
