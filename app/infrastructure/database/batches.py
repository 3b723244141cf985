"""Rows of batches."""

from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, exists, insert, or_, select, update

from app.domain.batches import Batch
from app.domain.jobs import ACTIVE
from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Statement, newest_first, page_values
from app.infrastructure.database.tables import batches, job_inputs, jobs, uploads
from app.services.ports import BatchRows, Cursor

_ROW = batches.c
_BY_ID = _ROW.id == bindparam("id_")

_INSERT = Statement(insert(batches))
_FIND = Statement(select(batches).where(_BY_ID))
_FIRST_PAGE, _NEXT_PAGE = newest_first(
    batches, select(batches).where(_ROW.owner == bindparam("owner_"))
)
_UNTIL = bindparam("until_", type_=_ROW.expires_at.type)
_TOUCH = Statement(
    update(batches).where(_BY_ID, _ROW.expires_at < _UNTIL).values(expires_at=_UNTIL)
)
_UPDATE = Statement(update(batches).where(_BY_ID))
_DELETE = Statement(delete(batches).where(_BY_ID))
_IS_ACTIVE = jobs.c.status.in_(sorted(ACTIVE))
_HAS_ACTIVE_JOB = exists().where(jobs.c.batch_id == _ROW.id, _IS_ACTIVE)
_IS_READ = exists().where(
    uploads.c.batch_id == _ROW.id,
    job_inputs.c.upload_id == uploads.c.id,
    job_inputs.c.job_id == jobs.c.id,
    _IS_ACTIVE,
)
_EXPIRED = Statement(
    select(batches)
    .where(_ROW.expires_at < bindparam("now_"), ~or_(_HAS_ACTIVE_JOB, _IS_READ))
    .order_by(_ROW.expires_at, _ROW.id)
    .limit(bindparam("limit_"))
)


class SqlBatches(Repository, BatchRows):
    """``touch`` only moves forward, and does nothing for a row that is gone."""

    __slots__ = ()

    def insert(self, batch: Batch) -> None:
        self._link.change(_INSERT, _values(batch))

    def find(self, batch_id: str) -> Batch | None:
        row = self._link.first(_FIND, {"id_": batch_id})
        return None if row is None else Batch(**row)

    def list_page(self, owner: str, cursor: Cursor | None, limit: int) -> list[Batch]:
        query = _FIRST_PAGE if cursor is None else _NEXT_PAGE
        found = self._link.rows(query, page_values(cursor, limit) | {"owner_": owner})
        return [Batch(**row) for row in found]

    def touch(self, batch_id: str, expires_at: datetime) -> None:
        self._link.change(_TOUCH, {"id_": batch_id, "until_": expires_at})

    def update(self, batch: Batch) -> None:
        values = {
            "id_": batch.id,
            "expires_at": batch.expires_at,
            "keep_inputs_hours": batch.keep_inputs_hours,
            "slides": batch.slides,
        }
        self._link.change_one(_UPDATE, values, "batch")

    def delete(self, batch_id: str) -> bool:
        return self._link.change(_DELETE, {"id_": batch_id}) > 0

    def list_expired(self, now: datetime, limit: int) -> list[Batch]:
        found = self._link.rows(_EXPIRED, {"now_": now, "limit_": limit})
        return [Batch(**row) for row in found]


def _values(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "owner": batch.owner,
        "session_id": batch.session_id,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        "keep_inputs_hours": batch.keep_inputs_hours,
        "slides": batch.slides,
    }
