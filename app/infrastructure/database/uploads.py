"""Rows of uploads."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from app.domain.jobs import ACTIVE
from app.domain.uploads import Upload, UploadKind, UploadMetadata, UploadStatus
from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Row, Statement, Values
from app.infrastructure.database.tables import job_inputs, jobs, uploads
from app.services.ports import UploadRows

_ROW = uploads.c
_BY_ID = _ROW.id == bindparam("id_")
_IN_SESSION = _ROW.session_id == bindparam("session_id_")
_SPENT_AT = bindparam("spent_at_", type_=_ROW.spent_at.type)

_INSERT = Statement(insert(uploads))
_FIND = Statement(select(uploads).where(_BY_ID))
_BY_SESSION = Statement(select(uploads).where(_IN_SESSION).order_by(_ROW.created_at, _ROW.id))
_OF_SESSION = Statement(
    select(uploads)
    .where(_IN_SESSION, _ROW.status == bindparam("status_"))
    .order_by(_ROW.created_at, _ROW.id)
)
_IS_COMPLETED = and_(_IN_SESSION, _ROW.status == UploadStatus.COMPLETED)
_COMPLETED = Statement(select(func.count()).select_from(uploads).where(_IS_COMPLETED))
_PUT_IN_BATCH = Statement(update(uploads).where(_IS_COMPLETED))
_FINAL = Statement(
    select(uploads).where(
        _ROW.parts_digest == bindparam("digest_"), _ROW.owner == bindparam("owner_")
    )
)
_BY_BATCH = Statement(
    select(uploads)
    .where(_ROW.batch_id == bindparam("batch_id_"))
    .order_by(_ROW.created_at, _ROW.id)
)
_UPDATE = Statement(update(uploads).where(_BY_ID, _ROW.status == bindparam("expected_")))
_TOUCH = Statement(update(uploads).where(_BY_ID, _ROW.status == UploadStatus.RECEIVING))
_SET_VERIFIED = Statement(update(uploads).where(_BY_ID, _ROW.status == UploadStatus.RECEIVING))
_SET_MEDIA = Statement(update(uploads).where(_BY_ID))
_SET_SPENT = Statement(
    update(uploads)
    .where(_BY_ID, or_(_ROW.spent_at.is_(None), _ROW.spent_at < _SPENT_AT))
    .values(spent_at=_SPENT_AT)
)
_DELETE = Statement(delete(uploads).where(_BY_ID))
# A part lies beside its final until that is whole, so it needs its place twice, and its final none.
_MISSING = case(
    (_ROW.kind == UploadKind.FINAL, 0),
    (_ROW.length > _ROW.recorded_offset, _ROW.length - _ROW.recorded_offset),
    else_=0,
)
_COPY = case((_ROW.kind == UploadKind.PARTIAL, _ROW.length), else_=0)
_UNWRITTEN = Statement(
    select(
        func.coalesce(func.sum(_MISSING + _COPY), 0),
    ).where(_ROW.status == UploadStatus.RECEIVING, _ROW.length.is_not(None))
)
_RECEIVING = Statement(
    select(uploads)
    .where(_ROW.status == UploadStatus.RECEIVING, _ROW.id > bindparam("after_id"))
    .order_by(_ROW.id)
    .limit(bindparam("limit_"))
)
_EXPIRED = Statement(
    select(uploads)
    .where(_ROW.status == UploadStatus.RECEIVING, _ROW.expires_at < bindparam("now_"))
    .order_by(_ROW.expires_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_IS_READ = exists().where(
    and_(
        job_inputs.c.upload_id == _ROW.id,
        job_inputs.c.job_id == jobs.c.id,
        jobs.c.status.in_(sorted(ACTIVE)),
    )
)
_SPENT = Statement(
    select(uploads)
    .where(_ROW.status == UploadStatus.COMPLETED, _ROW.spent_at <= bindparam("now_"), ~_IS_READ)
    .order_by(_ROW.spent_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_WITHOUT_DIGEST = Statement(
    select(uploads)
    .where(_ROW.status == UploadStatus.COMPLETED, _ROW.sha256.is_(None))
    .order_by(_ROW.completed_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_SET_SHA256 = Statement(
    update(uploads).where(_ROW.id == bindparam("id_"), _ROW.status == UploadStatus.COMPLETED)
)
_PLAN_SPENT = Statement(update(uploads).where(_ROW.id == bindparam("id_")))
_TOTALS = Statement(
    select(
        _ROW.status,
        func.count().label("count"),
        func.coalesce(func.sum(_ROW.recorded_offset), 0).label("size"),
    ).group_by(_ROW.status)
)


class SqlUploads(Repository, UploadRows):
    """``touch`` and ``set_verified`` raise ConflictingUpdate for an upload that is not receiving (any
    more); ``set_media`` and ``set_spent`` of a row that is gone do nothing.
    """

    __slots__ = ()

    def insert(self, upload: Upload) -> None:
        self._link.change(_INSERT, _lasting(upload) | _changing(upload))

    def find(self, upload_id: str) -> Upload | None:
        row = self._link.first(_FIND, {"id_": upload_id})
        return None if row is None else _upload(row)

    def find_final(self, owner: str, parts: Sequence[str]) -> Upload | None:
        values = {"digest_": _digest(owner, parts), "owner_": owner}
        row = self._link.first(_FINAL, values)
        return None if row is None else _upload(row)

    def list_by_session(self, session_id: str, status: UploadStatus | None = None) -> list[Upload]:
        if status is None:
            return self._list(_BY_SESSION, {"session_id_": session_id})
        return self._list(_OF_SESSION, {"session_id_": session_id, "status_": status})

    def count_completed(self, session_id: str) -> int:
        return int(self._link.value(_COMPLETED, {"session_id_": session_id}))

    def put_in_batch(self, session_id: str, batch_id: str) -> None:
        self._link.change(_PUT_IN_BATCH, {"session_id_": session_id, "batch_id": batch_id})

    def list_by_batch(self, batch_id: str) -> list[Upload]:
        found = self._list(_BY_BATCH, {"batch_id_": batch_id})
        # Stable: those without an order come last, as they were created. Sorted here, as a client's
        # number may be larger than any column.
        return sorted(found, key=_place)

    def update(self, upload: Upload, *, expected: UploadStatus) -> None:
        values = _changing(upload) | {"id_": upload.id, "expected_": expected}
        self._link.change_one(_UPDATE, values, "upload")

    def touch(
        self,
        upload_id: str,
        *,
        active_at: datetime,
        expires_at: datetime,
        recorded_offset: int,
        synced_offset: int,
    ) -> None:
        values = {
            "id_": upload_id,
            "active_at": active_at,
            "expires_at": expires_at,
            "recorded_offset": recorded_offset,
            "synced_offset": synced_offset,
        }
        self._link.change_one(_TOUCH, values, "upload")

    def set_verified(self, upload_id: str, offset: int | None) -> None:
        values = {"id_": upload_id, "verified_offset": offset}
        self._link.change_one(_SET_VERIFIED, values, "upload")

    def set_media(self, upload_id: str, media: dict[str, Any]) -> None:
        self._link.change(_SET_MEDIA, {"id_": upload_id, "media": media})

    def set_spent(self, upload_id: str, spent_at: datetime) -> None:
        self._link.change(_SET_SPENT, {"id_": upload_id, "spent_at_": spent_at})

    def delete(self, upload_id: str) -> bool:
        return self._link.change(_DELETE, {"id_": upload_id}) > 0

    def unwritten_bytes(self) -> int:
        return int(self._link.value(_UNWRITTEN))

    def list_receiving(self, *, after_id: str, limit: int) -> list[Upload]:
        return self._list(_RECEIVING, {"after_id": after_id, "limit_": limit})

    def list_expired(self, now: datetime, limit: int) -> list[Upload]:
        return self._list(_EXPIRED, {"now_": now, "limit_": limit})

    def list_spent(self, now: datetime, limit: int) -> list[Upload]:
        return self._list(_SPENT, {"now_": now, "limit_": limit})

    def list_without_digest(self, limit: int) -> list[Upload]:
        return self._list(_WITHOUT_DIGEST, {"limit_": limit})

    def set_sha256(self, upload_id: str, sha256: str) -> bool:
        return self._link.change(_SET_SHA256, {"id_": upload_id, "sha256": sha256}) > 0

    def plan_spent(self, upload_id: str, spent_at: datetime | None) -> None:
        self._link.change(_PLAN_SPENT, {"id_": upload_id, "spent_at": spent_at})

    def totals(self) -> dict[UploadStatus, tuple[int, int]]:
        found = self._link.rows(_TOTALS)
        return {row["status"]: (row["count"], int(row["size"])) for row in found}

    def _list(self, query: Statement, values: Values) -> list[Upload]:
        return [_upload(row) for row in self._link.rows(query, values)]


def _place(upload: Upload) -> tuple[bool, int]:
    order = upload.metadata.order
    return (order is None, order or 0)


def _lasting(upload: Upload) -> dict[str, Any]:
    """Return the columns that stay as they were inserted."""
    return {
        "id": upload.id,
        "session_id": upload.session_id,
        "kind": upload.kind,
        "concat": upload.concat,
        "parts": list(upload.parts) or None,
        "parts_digest": _digest(upload.owner, upload.parts) if upload.parts else None,
        "metadata_raw": upload.metadata.raw,
        "metadata_parsed": _parsed(upload.metadata),
    }


def _changing(upload: Upload) -> dict[str, Any]:
    return {
        "owner": upload.owner,
        "batch_id": upload.batch_id,
        "status": upload.status,
        "length": upload.length,
        "recorded_offset": upload.recorded_offset,
        "synced_offset": upload.synced_offset,
        "verified_offset": upload.verified_offset,
        "boot_id": upload.boot_id,
        "media": upload.media,
        "sha256": upload.sha256,
        "created_at": upload.created_at,
        "active_at": upload.active_at,
        "completed_at": upload.completed_at,
        "expires_at": upload.expires_at,
        "spent_at": upload.spent_at,
    }


def _parsed(metadata: UploadMetadata) -> dict[str, Any]:
    return {
        "filename": metadata.filename,
        "media_type": metadata.media_type,
        "session_id": metadata.session_id,
        "order": metadata.order,
        "fields": metadata.fields,
    }


def _upload(row: Row) -> Upload:
    raw, parsed = row.pop("metadata_raw"), row.pop("metadata_parsed")
    metadata = UploadMetadata(raw=raw, **(parsed | {"fields": _pairs(parsed["fields"])}))
    del row["parts_digest"]
    parts = tuple(row.pop("parts") or ())
    return Upload(metadata=metadata, parts=parts, **row)


def _digest(owner: str, parts: Sequence[str]) -> str:
    """Return what tells a list of parts from every other one of anybody."""
    return hashlib.sha256("\n".join((*parts, owner)).encode("utf-8", "surrogatepass")).hexdigest()


def _pairs(fields: Iterable[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in fields)
