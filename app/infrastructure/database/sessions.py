"""Rows of sessions."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, exists, insert, select, update

from app.domain.sessions import Session, SessionStatus, Then
from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Row, Statement
from app.infrastructure.database.tables import sessions, uploads
from app.services.ports import SessionRows

_ROW = sessions.c
_BY_ID = _ROW.id == bindparam("id_")

_INSERT = Statement(insert(sessions))
_FIND = Statement(select(sessions).where(_BY_ID))
_UPDATE = Statement(update(sessions).where(_BY_ID, _ROW.status == bindparam("expected_")))
_AT = bindparam("at_", type_=_ROW.active_at.type)
_TOUCH = Statement(update(sessions).where(_BY_ID, _ROW.active_at < _AT).values(active_at=_AT))
_DELETE = Statement(delete(sessions).where(_BY_ID))
_HAS_ACTIVE_UPLOAD = exists().where(
    uploads.c.session_id == _ROW.id, uploads.c.active_at >= bindparam("before_")
)
_IDLE = Statement(
    select(sessions)
    .where(
        _ROW.status == SessionStatus.OPEN,
        _ROW.active_at < bindparam("before_"),
        ~_HAS_ACTIVE_UPLOAD,
    )
    .order_by(_ROW.active_at, _ROW.id)
    .limit(bindparam("limit_"))
)


class SqlSessions(Repository, SessionRows):
    """``touch`` only moves forward, and does nothing for a row that is gone."""

    __slots__ = ()

    def insert(self, session: Session) -> None:
        self._link.change(_INSERT, _values(session) | {"id": session.id})

    def find(self, session_id: str) -> Session | None:
        row = self._link.first(_FIND, {"id_": session_id})
        return None if row is None else _session(row)

    def update(self, session: Session, *, expected: SessionStatus) -> None:
        values = _values(session) | {"id_": session.id, "expected_": expected}
        self._link.change_one(_UPDATE, values, "session")

    def touch(self, session_id: str, active_at: datetime) -> None:
        self._link.change(_TOUCH, {"id_": session_id, "at_": active_at})

    def delete(self, session_id: str) -> bool:
        return self._link.change(_DELETE, {"id_": session_id}) > 0

    def list_idle(self, before: datetime, limit: int) -> list[Session]:
        found = self._link.rows(_IDLE, {"before_": before, "limit_": limit})
        return [_session(row) for row in found]


def _values(session: Session) -> dict[str, Any]:
    """Return the columns that change; an id that is written is looked for in all that refers to it."""
    return {
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


def _session(row: Row) -> Session:
    then = row["then"]
    return Session(**(row | {"then": None if then is None else Then(**then)}))
