"""Batches: making one of a session, reading it with its derived status, removing all of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from app.domain.batches import Batch, BatchStatus, derive_status, ended_as
from app.domain.errors import (
    AppError,
    BatchGone,
    BatchNotFound,
    JobRunning,
    SessionEmpty,
    UploadsUnfinished,
)
from app.domain.idempotency import IdempotentRequest
from app.domain.jobs import Job
from app.domain.retention import RetentionPolicy
from app.domain.sessions import Session, SessionPolicy, SessionStatus
from app.domain.tombstones import Reason, ThingKind, Tombstone
from app.domain.uploads import Upload, UploadStatus
from app.services.absence import absent
from app.services.batch_endings import JobEnding, active_jobs, end_jobs
from app.services.batch_follow_up import follow_up
from app.services.batching import BatchMade, OperationLookup, make_batch
from app.services.burial import bury_batch, bury_job
from app.services.disposal import Disposal
from app.services.idempotency import find_replay, remember, write_once
from app.services.input_holds import check_keep_inputs, plan_holds, promised_until
from app.services.job_endings import JobRules
from app.services.ports import (
    Clock,
    Cursor,
    Database,
    JobQueue,
    Metrics,
    Transaction,
    UploadBytes,
    UploadLocks,
)
from app.services.retention import check_expiry
from app.services.sessions import find_session, should_touch
from app.services.upload_states import offset_of

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch with its files in order, its jobs, and the files that are not kept any more."""

    batch: Batch
    status: BatchStatus
    files: tuple[Upload, ...]
    jobs: tuple[Job, ...]
    deleted_files: tuple[Tombstone, ...]


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """A batch that was asked for: made now, there before, or made by the same key's request.

    ``is_new`` of a replay is what it was the first time.
    """

    view: BatchView
    is_new: bool
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class BatchChange:
    """What ``PATCH`` of a batch may move; ``keep_inputs_hours`` counts where ``moves_holds``."""

    expires_at: datetime | None = None
    moves_holds: bool = False
    keep_inputs_hours: float | None = None


@dataclass(frozen=True, slots=True)
class _Wish:
    """A request for a batch, whole."""

    owner: str
    session_id: str
    only_completed: bool
    idempotent: IdempotentRequest | None


@dataclass(frozen=True, slots=True)
class _Creation:
    """What became of a wish; no answer: ``unfinished`` uploads stand in its way."""

    answer: BatchAnswer | None
    made: BatchMade | None = None
    unfinished: tuple[Upload, ...] = ()


class Completing(Protocol):
    """The part of the completion handler that a batch needs."""

    async def complete(self, upload_id: str) -> object:
        """Completes an upload whose bytes are whole and that nobody writes. Raises AppError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchService:
    """Use cases of batches."""

    db: Database
    store: UploadBytes
    clock: Clock
    locks: UploadLocks
    disposal: Disposal
    queue: JobQueue
    metrics: Metrics
    completion: Completing
    jobs: JobEnding
    policy: SessionPolicy
    retention: RetentionPolicy
    rules: JobRules
    operations: OperationLookup

    async def create(
        self,
        owner: str,
        session_id: str,
        only_completed: bool = False,  # noqa: FBT002 - as a client says it
        idempotent: IdempotentRequest | None = None,
    ) -> BatchAnswer:
        """Make the session a batch, or return the one it is already.

        With ``only_completed`` the unfinished uploads end as superseded: their writers are stopped
        and their bytes go. Raises SessionNotFound, SessionGone, SessionEmpty, UploadsUnfinished,
        IdempotencyKeyReused, BatchGone when what the same request made before is gone.
        """
        wish = _Wish(owner, session_id, only_completed, idempotent)
        await self._complete_whole(wish)
        outcome = await write_once(self.db, idempotent, lambda tx: self._create(tx, wish))
        if outcome.answer is None:
            raise self._unfinished(outcome.unfinished)
        if outcome.made is not None:
            await follow_up(
                outcome.made,
                queue=self.queue,
                locks=self.locks,
                disposal=self.disposal,
                metrics=self.metrics,
            )
        return outcome.answer

    async def _complete_whole(self, wish: _Wish) -> None:
        """Complete uploads of which only the completion was lost: nothing of them is unfinished."""
        unfinished = await self.db.read(lambda tx: _unfinished_of(tx, wish))
        for upload in unfinished:
            if offset_of(upload, self.store) == upload.length:
                try:
                    await self.completion.complete(upload.id)
                except AppError as error:
                    log.info("upload.not_completed", upload_id=upload.id, code=error.code)

    def _create(self, tx: Transaction, wish: _Wish) -> _Creation:
        replay = find_replay(tx, wish.owner, wish.idempotent)
        if replay is not None:
            view = _view(tx, find_batch(tx, wish.owner, replay.thing_id))
            return _Creation(BatchAnswer(view, replay.was_new, is_replay=True))
        session = find_session(tx, wish.owner, wish.session_id)
        made: BatchMade | None = None
        if session.status is SessionStatus.BATCHED and session.batch_id is not None:
            batch = find_batch(tx, wish.owner, session.batch_id)
        else:
            unfinished = _check_ready(tx, session, wish)
            if unfinished:
                return _Creation(None, unfinished=unfinished)
            made = self._make(tx, session)
            batch = made.batch
        remember(
            tx,
            wish.owner,
            wish.idempotent,
            ThingKind.BATCH,
            batch.id,
            was_new=made is not None,
            now=self.clock.now(),
        )
        return _Creation(BatchAnswer(_view(tx, batch), made is not None), made)

    def _make(self, tx: Transaction, session: Session) -> BatchMade:
        return make_batch(
            tx,
            session,
            now=self.clock.now(),
            batch_ttl=self.policy.batch_ttl,
            job_policy=self.rules.jobs,
            operations=self.operations,
        )

    async def change(self, owner: str, batch_id: str, change: BatchChange) -> BatchView:
        """Move the end of a batch, or of the holds on its files, forward or back.

        The batch never ends before a time that a hold on one of its files promises. Raises
        BatchNotFound, BatchGone, InvalidRequest.
        """
        if change.expires_at is not None:
            until = check_expiry(change.expires_at, self.clock.now(), self.retention)
            change = replace(change, expires_at=until)
        check_keep_inputs(change.keep_inputs_hours, self.retention)
        return await self.db.write(lambda tx: self._change(tx, owner, batch_id, change))

    def _change(self, tx: Transaction, owner: str, batch_id: str, change: BatchChange) -> BatchView:
        batch = find_batch(tx, owner, batch_id)
        if change.moves_holds:
            batch = plan_holds(tx, batch, change.keep_inputs_hours, self.rules.holds)
        if change.expires_at is not None:
            batch = replace(batch, expires_at=change.expires_at, slides=False)
        wished = self._slid(batch)
        expires_at = promised_until(tx.uploads.list_by_batch(batch_id), wished)
        batch = replace(batch, expires_at=expires_at)
        tx.batches.update(batch)
        log.info("batch.changed", batch_id=batch_id, expires_at=expires_at.isoformat())
        return _view(tx, batch)

    async def get(self, owner: str, batch_id: str) -> BatchView:
        """Return a batch; using it moves its expiry on. Raises BatchNotFound, BatchGone."""
        view = await self.db.read(lambda tx: _view(tx, find_batch(tx, owner, batch_id)))
        now = self.clock.now()
        ttl = self.policy.batch_ttl
        slides = view.batch.slides and should_touch(view.batch.expires_at - ttl, now, ttl)
        if not slides:
            return view
        return await self.db.write(lambda tx: self._slide(tx, owner, batch_id))

    def _slide(self, tx: Transaction, owner: str, batch_id: str) -> BatchView:
        batch = find_batch(tx, owner, batch_id)
        tx.batches.touch(batch_id, self._slid(batch))
        return _view(tx, find_batch(tx, owner, batch_id))

    def _slid(self, batch: Batch) -> datetime:
        if not batch.slides:
            return batch.expires_at
        return max(batch.expires_at, self.clock.now() + self.policy.batch_ttl)

    async def list(
        self, owner: str, cursor: Cursor | None, limit: int
    ) -> tuple[list[BatchView], Cursor | None]:
        """Return a page of batches, newest first, and where the next begins (None: no more)."""
        views = await self.db.read(
            lambda tx: [_view(tx, b) for b in tx.batches.list_page(owner, cursor, limit + 1)]
        )
        page = views[:limit]
        if len(views) <= limit or not page:
            return page, None
        last = page[-1].batch
        return page, Cursor(last.created_at, last.id)

    async def delete(self, owner: str, batch_id: str, *, cancel: bool) -> None:
        """Remove a batch with its files, its jobs and their outputs.

        ``cancel`` ends jobs that still run; without it they raise JobRunning. Raises BatchNotFound,
        BatchGone.
        """
        if cancel:
            await end_jobs(
                self.jobs,
                lambda: self.db.read(
                    lambda tx: active_jobs(tx, find_batch(tx, owner, batch_id)),
                ),
            )
        paths = await self.db.write(lambda tx: self._bury(tx, owner, batch_id))
        # A crash before this leaves cleanup rows, which the sweep spent_inputs settles.
        freed = await self.disposal.settle(paths)
        log.info("batch.deleted", batch_id=batch_id, bytes_freed=freed)

    def _bury(self, tx: Transaction, owner: str, batch_id: str) -> Sequence[str]:
        batch = find_batch(tx, owner, batch_id)
        active = active_jobs(tx, batch)
        if active:
            raise JobRunning(
                "Jobs that read this batch are stopping; ask again in a moment."
                if all(job.cancel_requested for job in active)
                else "Jobs that read this batch have not finished; cancel=true ends them.",
                extra={"jobs": [job.id for job in active]},
            )
        now, reason = self.clock.now(), Reason.BATCH_DELETED
        paths = [
            path
            for job in tx.jobs.list_by_batch(batch_id)
            for path in bury_job(tx, job, reason=reason, sweep=None, now=now)
        ]
        return paths + bury_batch(tx, batch, reason=reason, sweep=None, now=now)

    def _unfinished(self, uploads: Sequence[Upload]) -> AppError:
        return UploadsUnfinished(
            f"Uploads of this session that have not arrived in full: {len(uploads)}; finish or delete"
            " them first, or ask with only_completed.",
            extra={
                "uploads": [
                    {"id": u.id, "offset": offset_of(u, self.store), "length": u.length}
                    for u in uploads
                ]
            },
        )


def find_batch(tx: Transaction, owner: str, batch_id: str) -> Batch:
    """Return the owner's batch. Raises BatchNotFound, BatchGone."""
    batch = tx.batches.find(batch_id)
    if batch is None or batch.owner != owner:
        raise absent(tx, ThingKind.BATCH, batch_id, owner, (BatchNotFound, BatchGone))
    return batch


def _unfinished_of(tx: Transaction, wish: _Wish) -> list[Upload]:
    session = tx.sessions.find(wish.session_id)
    if session is None or session.owner != wish.owner:
        return []
    uploads = tx.uploads.list_by_session(session.id)
    return [upload for upload in uploads if upload.status is UploadStatus.RECEIVING]


def _check_ready(tx: Transaction, session: Session, wish: _Wish) -> tuple[Upload, ...]:
    """Return the uploads that stand in the way of a batch. Raises SessionEmpty."""
    uploads = tx.uploads.list_by_session(session.id)
    if not uploads:
        raise SessionEmpty("Nothing was uploaded into this session yet.")
    unfinished = tuple(u for u in uploads if u.status is UploadStatus.RECEIVING)
    if not wish.only_completed:
        return unfinished
    if len(unfinished) == len(uploads):
        raise SessionEmpty(
            "No upload of this session has arrived in full yet; nothing was ended.",
            extra={"unfinished": len(unfinished)},
        )
    return ()


def _view(tx: Transaction, batch: Batch) -> BatchView:
    jobs = tuple(tx.jobs.list_by_batch(batch.id))
    files = tuple(tx.uploads.list_by_batch(batch.id))
    # Retention takes a job before its batch: how it ended is still part of what the batch came to.
    buried = map(ended_as, tx.tombstones.list_by_parent(ThingKind.JOB, batch.id))
    outcomes = [*(job.status for job in jobs), *(status for status in buried if status)]
    return BatchView(
        batch=batch,
        status=derive_status(outcomes, has_files=bool(files)),
        files=files,
        jobs=jobs,
        deleted_files=tuple(tx.tombstones.list_by_parent(ThingKind.UPLOAD, batch.id)),
    )
