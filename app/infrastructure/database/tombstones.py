"""Rows of tombstones: what is known of things that were deleted."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import bindparam, delete, func, select, tuple_

from app.domain.tombstones import ThingKind, Tombstone
from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Statement, insert_missing
from app.infrastructure.database.tables import tombstones
from app.services.ports import TombstoneRows

_ROW = tombstones.c
_FIND = Statement(
    select(tombstones).where(_ROW.kind == bindparam("kind_"), _ROW.id == bindparam("id_"))
)
_BY_PARENT = Statement(
    select(tombstones)
    .where(_ROW.kind == bindparam("kind_"), _ROW.parent_id == bindparam("parent_id_"))
    .order_by(_ROW.created_at, _ROW.id)
)
_IS_OLD = _ROW.deleted_at < bindparam("before_")
_OLD = (
    select(_ROW.kind, _ROW.id).where(_IS_OLD).order_by(_ROW.deleted_at).limit(bindparam("limit_"))
)
_DELETE_OLD = Statement(delete(tombstones).where(tuple_(_ROW.kind, _ROW.id).in_(_OLD)))
_COUNT_OLD = Statement(select(func.count()).select_from(tombstones).where(_IS_OLD))
_INSERT_MISSING = insert_missing(tombstones)


class SqlTombstones(Repository, TombstoneRows):
    __slots__ = ()

    def put(self, tombstone: Tombstone) -> None:
        self._link.change(_INSERT_MISSING, asdict(tombstone))

    def find(self, kind: ThingKind, thing_id: str) -> Tombstone | None:
        row = self._link.first(_FIND, {"kind_": kind, "id_": thing_id})
        return None if row is None else Tombstone(**row)

    def list_by_parent(self, kind: ThingKind, parent_id: str) -> list[Tombstone]:
        found = self._link.rows(_BY_PARENT, {"kind_": kind, "parent_id_": parent_id})
        return [Tombstone(**row) for row in found]

    def delete_before(self, before: datetime, limit: int) -> int:
        return self._link.change(_DELETE_OLD, {"before_": before, "limit_": limit})

    def count_before(self, before: datetime) -> int:
        return int(self._link.value(_COUNT_OLD, {"before_": before}))
