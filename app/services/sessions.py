"""Sessions: opening, reading and leaving one client's visit."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog

from app.domain.batches import Batch
from app.domain.errors import SessionBatched, SessionGone, SessionNotFound
from app.domain.idempotency import IdempotentRequest
from app.domain.ids import new_id
from app.domain.retention import RetentionPolicy
from app.domain.sessions import Session, SessionPolicy, SessionStatus, Then
from app.domain.tombstones import Reason, ThingKind
from app.domain.uploads import Upload, UploadStatus
from app.services.absence import absent
from app.services.burial import bury_session
from app.services.disposal import Disposal
from app.services.idempotency import find_replay, remember, write_once
from app.services.input_holds import check_keep_inputs
from app.services.ports import (
    Clock,
    Database,
    Metrics,
    Transaction,
    UploadBytes,
    UploadLocks,
)
from app.services.upload_states import UploadView, view_of

log = structlog.get_logger(__name__)

_TOUCH_EVERY = timedelta(minutes=1)


class OperationCheck(Protocol):
    """The part of the job service that says whether a job could be made at all."""

    def check_new(
        self,
        operation: str,
        params: dict[str, Any],
        n_inputs: int | None,
        timeout_seconds: float | None = None,
    ) -> None:
        """Raises UnknownOperation, InvalidParams, InvalidInputs, InvalidRequest, TrimOutOfRange.

        ``n_inputs`` None: not known yet.
        """
        ...


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What a client may wish of a new session. ``keep_inputs_hours`` None: as the settings say."""

    expected_files: int | None = None
    then: Then | None = None
    keep_inputs_hours: float | None = None


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session with its uploads, oldest first. ``expires_at`` is its batch's once it has one."""

    session: Session
    uploads: tuple[UploadView, ...]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SessionMade:
    """A session that was asked for; ``is_replay``: an earlier request of the same key made it."""

    view: SessionView
    is_replay: bool


@dataclass(frozen=True, slots=True)
class _Rows:
    session: Session
    uploads: tuple[Upload, ...]
    batch: Batch | None


def should_touch(active_at: datetime, now: datetime, age: timedelta) -> bool:
    """Whether activity is worth a write: clients poll, and a minute of ``age`` hours is no matter."""
    return now - active_at >= min(_TOUCH_EVERY, age / 20)


def promised_to_uploads(uploads: Sequence[Upload]) -> datetime | None:
    """Return until when unfinished uploads may be continued, as their clients were told."""
    receiving = (u.expires_at for u in uploads if u.status is UploadStatus.RECEIVING)
    return max(receiving, default=None)


def find_session(tx: Transaction, owner: str, session_id: str) -> Session:
    """Return the owner's session. Raises SessionNotFound, SessionGone."""
    session = tx.sessions.find(session_id)
    if session is None or session.owner != owner:
        errors = (SessionNotFound, SessionGone)
        raise absent(tx, ThingKind.SESSION, session_id, owner, errors)
    return session


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionService:
    """Use cases of sessions. ``lock_wait_seconds``: how long a writer may take to let go."""

    db: Database
    store: UploadBytes
    clock: Clock
    locks: UploadLocks
    metrics: Metrics
    disposal: Disposal
    operations: OperationCheck
    policy: SessionPolicy
    retention: RetentionPolicy
    lock_wait_seconds: float

    async def create(
        self, owner: str, request: SessionRequest, idempotent: IdempotentRequest | None = None
    ) -> SessionMade:
        """Open a session, or return the one that the same request opened before.

        Raises InvalidRequest, IdempotencyKeyReused, SessionGone when that one is gone, and what
        ``check_new`` raises when ``then`` could never run.
        """
        made = await write_once(
            self.db, idempotent, lambda tx: self._create(tx, owner, request, idempotent)
        )
        if made.is_replay:
            return made
        log.info(
            "session.opened",
            session_id=made.view.session.id,
            expected_files=request.expected_files,
        )
        return made

    def _create(
        self,
        tx: Transaction,
        owner: str,
        request: SessionRequest,
        idempotent: IdempotentRequest | None,
    ) -> SessionMade:
        replay = find_replay(tx, owner, idempotent)
        if replay is not None:
            return SessionMade(self._view(_find_rows(tx, owner, replay.thing_id)), is_replay=True)
        self._check(request)
        now = self.clock.now()
        session = Session(
            id=new_id(),
            owner=owner,
            status=SessionStatus.OPEN,
            expected_files=request.expected_files,
            then=request.then,
            batch_id=None,
            implicit=False,
            keep_inputs_hours=request.keep_inputs_hours,
            created_at=now,
            active_at=now,
        )
        tx.sessions.insert(session)
        remember(tx, owner, idempotent, ThingKind.SESSION, session.id, was_new=True, now=now)
        return SessionMade(self._view(_Rows(session, (), None)), is_replay=False)

    def _check(self, request: SessionRequest) -> None:
        check_keep_inputs(request.keep_inputs_hours, self.retention)
        then = request.then
        if then is not None:
            self.operations.check_new(
                then.operation, then.params, request.expected_files, then.timeout_seconds
            )

    async def get(self, owner: str, session_id: str) -> SessionView:
        """Return a session as it is now; looking at it counts as using it.

        Raises SessionNotFound, SessionGone.
        """
        rows = await self.db.read(lambda tx: _find_rows(tx, owner, session_id))
        now = self.clock.now()
        is_open = rows.session.status is SessionStatus.OPEN
        if is_open and should_touch(rows.session.active_at, now, self.policy.max_age):
            await self.touch(session_id)
            rows = replace(rows, session=replace(rows.session, active_at=now))
        return self._view(rows)

    async def touch(self, session_id: str) -> None:
        """Record that a request used the session; nothing happens when it is gone."""
        now = self.clock.now()
        await self.db.write(lambda tx: tx.sessions.touch(session_id, now))

    async def delete(self, owner: str, session_id: str) -> None:
        """Stop the session's writers, then remove it with its files.

        Raises SessionNotFound, SessionGone, SessionBatched, UploadLocked when a writer does not
        let go.
        """
        rows = await self.db.read(lambda tx: _find_open(tx, owner, session_id))
        held: set[str] = set()
        async with AsyncExitStack() as stack:
            while True:
                # In one order everywhere, so that two deletions cannot wait for each other.
                for upload_id in sorted(_receiving(rows) - held):
                    hold = self.locks.hold(upload_id, wait_seconds=self.lock_wait_seconds)
                    await stack.enter_async_context(hold)
                    held.add(upload_id)
                rows, paths = await self.db.write(
                    lambda tx: self._bury(tx, owner, session_id, frozenset(held))
                )
                if paths is not None:
                    break
            # A crash before this leaves cleanup rows, which the sweep spent_inputs settles.
            freed = await self.disposal.settle(paths)
        outcome = Reason.SESSION_DELETED.value
        self.metrics.count("upload_finished_total", len(_receiving(rows)), outcome=outcome)
        log.info("session.deleted", session_id=session_id, bytes_freed=freed)

    def _bury(
        self, tx: Transaction, owner: str, session_id: str, held: frozenset[str]
    ) -> tuple[_Rows, list[str] | None]:
        """Bury the session, or return None for paths when an upload began that nobody stopped."""
        rows = _find_open(tx, owner, session_id)
        if _receiving(rows) - held:
            return rows, None
        now = self.clock.now()
        paths = bury_session(tx, rows.session, reason=Reason.SESSION_DELETED, sweep=None, now=now)
        return rows, paths

    def _view(self, rows: _Rows) -> SessionView:
        return SessionView(
            session=rows.session,
            uploads=tuple(view_of(upload, rows.batch, self.store) for upload in rows.uploads),
            expires_at=rows.batch.expires_at if rows.batch else self._expires_at(rows),
        )

    def _expires_at(self, rows: _Rows) -> datetime:
        """When the session goes if nothing happens any more: not before any upload's own promise."""
        last = max((u.active_at for u in rows.uploads), default=rows.session.active_at)
        promised = promised_to_uploads(rows.uploads)
        own = rows.session.expires_at(last, self.policy)
        return max(own, promised) if promised else own


def _find_rows(tx: Transaction, owner: str, session_id: str) -> _Rows:
    session = find_session(tx, owner, session_id)
    batch = tx.batches.find(session.batch_id) if session.batch_id else None
    return _Rows(session, tuple(tx.uploads.list_by_session(session_id)), batch)


def _find_open(tx: Transaction, owner: str, session_id: str) -> _Rows:
    rows = _find_rows(tx, owner, session_id)
    if rows.session.status is SessionStatus.BATCHED:
        raise SessionBatched(
            "The session has become a batch; delete the batch instead.",
            extra={"batch_id": rows.session.batch_id},
        )
    return rows


def _receiving(rows: _Rows) -> set[str]:
    return {u.id for u in rows.uploads if u.status is UploadStatus.RECEIVING}
