"""Rows of kept clips."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import bindparam, delete, func, insert, select, update

from app.domain.kept_clips import KeptClip
from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Statement, Values
from app.infrastructure.database.tables import job_inputs, kept_clips
from app.services.ports import KeptClipRows

_ROW = kept_clips.c
_BY_ID = _ROW.id == bindparam("id_")

_INSERT = Statement(insert(kept_clips))
_FIND = Statement(select(kept_clips).where(_BY_ID))
_BY_KEY = Statement(
    select(kept_clips).where(_ROW.owner == bindparam("owner_"), _ROW.key == bindparam("key_"))
)
_TOUCH = Statement(update(kept_clips).where(_BY_ID))
_DELETE = Statement(delete(kept_clips).where(_BY_ID))
_BY_JOB = Statement(
    select(kept_clips).where(_ROW.job_id == bindparam("job_id_")).order_by(_ROW.used_at, _ROW.id)
)
_BY_UPLOAD = Statement(
    select(kept_clips)
    .where(
        _ROW.job_id.in_(
            select(job_inputs.c.job_id).where(job_inputs.c.upload_id == bindparam("upload_id_"))
        )
    )
    .order_by(_ROW.used_at, _ROW.id)
)
_OLDEST = Statement(select(kept_clips).order_by(_ROW.used_at, _ROW.id).limit(bindparam("limit_")))
_TOTALS = Statement(
    select(
        func.count().label("count"), func.coalesce(func.sum(_ROW.size_bytes), 0).label("size")
    ).select_from(kept_clips)
)


class SqlKeptClips(Repository, KeptClipRows):
    __slots__ = ()

    def insert(self, clip: KeptClip) -> None:
        self._link.change(_INSERT, asdict(clip))

    def find(self, clip_id: str) -> KeptClip | None:
        return self._first(_FIND, {"id_": clip_id})

    def find_by_key(self, owner: str, key: str) -> KeptClip | None:
        return self._first(_BY_KEY, {"owner_": owner, "key_": key})

    def touch(self, clip_id: str, job_id: str, now: datetime) -> bool:
        values = {"id_": clip_id, "job_id": job_id, "used_at": now}
        return self._link.change(_TOUCH, values) > 0

    def delete(self, clip_id: str) -> bool:
        return self._link.change(_DELETE, {"id_": clip_id}) > 0

    def list_by_job(self, job_id: str) -> list[KeptClip]:
        return self._list(_BY_JOB, {"job_id_": job_id})

    def list_by_upload(self, upload_id: str) -> list[KeptClip]:
        return self._list(_BY_UPLOAD, {"upload_id_": upload_id})

    def list_oldest(self, limit: int) -> list[KeptClip]:
        return self._list(_OLDEST, {"limit_": limit})

    def totals(self) -> tuple[int, int]:
        (row,) = self._link.rows(_TOTALS)
        return row["count"], int(row["size"])

    def _first(self, query: Statement, values: Values) -> KeptClip | None:
        row = self._link.first(query, values)
        return None if row is None else KeptClip(**row)

    def _list(self, query: Statement, values: Values) -> list[KeptClip]:
        return [KeptClip(**row) for row in self._link.rows(query, values)]
