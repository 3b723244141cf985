"""Rows of sessions."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, delete, exists, insert, select, update

from app.domain.sessions import Session, SessionStatus, Then
from app.infrastructure.database.statements import change_one, changed
from app.infrastructure.database.tables import sessions, uploads
from app.services.ports import SessionRows

_ROW = sessions.c
_BY_ID = _ROW.id == bindparam("id_")

_INSERT = insert(sessions)
_FIND = select(sessions).where(_BY_ID)
_UPDATE = update(sessions).where(_BY_ID, _ROW.status == bindparam("expected_"))
_AT = bindparam("at_", type_=_ROW.active_at.type)
_TOUCH = update(sessions).where(_BY_ID, _ROW.active_at < _AT).values(active_at=_AT)
_DELETE = delete(sessions).where(_BY_ID)
_HAS_ACTIVE_UPLOAD = exists().where(
    uploads.c.session_id == _ROW.id, uploads.c.active_at >= bindparam("before_")
)
_IDLE = (
    select(sessions)
    .where(
        _ROW.status == SessionStatus.OPEN,
        _ROW.active_at < bindparam("before_"),
        ~_HAS_ACTIVE_UPLOAD,
    )
    .order_by(_ROW.active_at, _ROW.id)
    .limit(bindparam("limit_"))
)


class SqlSessions(SessionRows):
    """``touch`` only moves forward, and does nothing for a row that is gone."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def insert(self, session: Session) -> None:
        self._connection.execute(_INSERT, _values(session))

    def find(self, session_id: str) -> Session | None:
        row = self._connection.execute(_FIND, {"id_": session_id}).mappings().first()
        return None if row is None else _session(row)

    def update(self, session: Session, *, expected: SessionStatus) -> None:
        values = _values(session) | {"id_": session.id, "expected_": expected}
        change_one(self._connection, _UPDATE, values, "session")

    def touch(self, session_id: str, active_at: datetime) -> None:
        self._connection.execute(_TOUCH, {"id_": session_id, "at_": active_at})

    def delete(self, session_id: str) -> bool:
        return changed(self._connection, _DELETE, {"id_": session_id}) > 0

    def list_idle(self, before: datetime, limit: int) -> list[Session]:
        found = self._connection.execute(_IDLE, {"before_": before, "limit_": limit})
        return [_session(row) for row in found.mappings()]


def _values(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "owner": session.owner,
        "status": session.status,
        "expected_files": session.expected_files,
        "then": None if session.then is None else asdict(session.then),
        "batch_id": session.batch_id,
        "implicit": session.implicit,
        "keep_inputs_hours": session.keep_inputs_hours,
        "created_at": session.created_at,
        "active_at": session.active_at,
    }


def _session(row: RowMapping) -> Session:
    then = row["then"]
    return Session(**(dict(row) | {"then": None if then is None else Then(**then)}))
