"""Batches: making one of a session, reading it with its derived status, removing all of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from app.domain.batches import Batch, BatchStatus, derive_status
from app.domain.errors import (
    AppError,
    BatchGone,
    BatchNotFound,
    JobFinished,
    JobGone,
    JobNotFound,
    JobRunning,
    SessionEmpty,
    UploadsUnfinished,
)
from app.domain.jobs import Job, JobPolicy
from app.domain.sessions import SessionPolicy, SessionStatus
from app.domain.tombstones import Reason, ThingKind, Tombstone
from app.domain.uploads import Upload, UploadStatus
from app.services.absence import absent
from app.services.batching import OperationLookup, make_batch
from app.services.burial import bury_batch, bury_job
from app.services.disposal import Disposal
from app.services.ports import Clock, Cursor, Database, JobQueue, Transaction, UploadBytes
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
class _Creation:
    """What became of a wish for a batch; no view: ``unfinished`` uploads stand in its way."""

    view: BatchView | None
    made: tuple[Job, ...] = ()
    unfinished: tuple[Upload, ...] = ()
    is_new: bool = False


class JobEnding(Protocol):
    """The part of the job service that ends jobs."""

    async def cancel(self, owner: str, job_id: str) -> object:
        """Ends a job, waiting a little for it. Raises JobNotFound, JobGone, JobFinished."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchService:
    """Use cases of batches."""

    db: Database
    store: UploadBytes
    clock: Clock
    disposal: Disposal
    queue: JobQueue
    jobs: JobEnding
    policy: SessionPolicy
    job_policy: JobPolicy
    operations: OperationLookup

    async def create(self, owner: str, session_id: str) -> tuple[BatchView, bool]:
        """Make the session a batch, or return the one it is already; True when it was made now.

        Raises SessionNotFound, SessionGone, SessionEmpty, UploadsUnfinished.
        """
        outcome = await self.db.write(lambda tx: self._create(tx, owner, session_id))
        if outcome.view is None:
            raise self._unfinished(outcome.unfinished)
        for job in outcome.made:
            await self.queue.enqueue(job.id, job.attempt)
        if outcome.is_new:
            log.info("batch.created", batch_id=outcome.view.batch.id, session_id=session_id)
        return outcome.view, outcome.is_new

    def _create(self, tx: Transaction, owner: str, session_id: str) -> _Creation:
        session = find_session(tx, owner, session_id)
        if session.status is SessionStatus.BATCHED and session.batch_id is not None:
            return _Creation(_view(tx, find_batch(tx, owner, session.batch_id)))
        uploads = tx.uploads.list_by_session(session_id)
        unfinished = [u for u in uploads if u.status is UploadStatus.RECEIVING]
        if unfinished:
            return _Creation(None, unfinished=tuple(unfinished))
        if not uploads:
            raise SessionEmpty("Nothing was uploaded into this session yet.")
        made = make_batch(
            tx,
            session,
            now=self.clock.now(),
            batch_ttl=self.policy.batch_ttl,
            job_policy=self.job_policy,
            operations=self.operations,
        )
        return _Creation(_view(tx, made.batch), made=made.jobs, is_new=True)

    async def get(self, owner: str, batch_id: str) -> BatchView:
        """Return a batch; using it moves its expiry on. Raises BatchNotFound, BatchGone."""
        view = await self.db.read(lambda tx: _view(tx, find_batch(tx, owner, batch_id)))
        now = self.clock.now()
        ttl = self.policy.batch_ttl
        if not should_touch(view.batch.expires_at - ttl, now, ttl):
            return view
        return await self.db.write(lambda tx: self._slide(tx, owner, batch_id))

    def _slide(self, tx: Transaction, owner: str, batch_id: str) -> BatchView:
        batch = find_batch(tx, owner, batch_id)
        expires_at = max(batch.expires_at, self.clock.now() + self.policy.batch_ttl)
        tx.batches.touch(batch_id, expires_at)
        return _view(tx, find_batch(tx, owner, batch_id))

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
            await self._end_jobs(owner, batch_id)
        paths = await self.db.write(lambda tx: self._bury(tx, owner, batch_id))
        # A crash before this leaves cleanup rows, which the sweep spent_inputs settles.
        freed = await self.disposal.settle(paths)
        log.info("batch.deleted", batch_id=batch_id, bytes_freed=freed)

    async def _end_jobs(self, owner: str, batch_id: str) -> None:
        active = await self.db.read(lambda tx: _active(tx, find_batch(tx, owner, batch_id)))
        for job in active:
            try:
                await self.jobs.cancel(owner, job.id)
            except (JobNotFound, JobGone, JobFinished):
                continue

    def _bury(self, tx: Transaction, owner: str, batch_id: str) -> Sequence[str]:
        batch = find_batch(tx, owner, batch_id)
        active = _active(tx, batch)
        if active:
            raise JobRunning(
                "Jobs that read this batch have not finished; cancel=true ends them.",
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
            " them first.",
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


def _view(tx: Transaction, batch: Batch) -> BatchView:
    jobs = tuple(tx.jobs.list_by_batch(batch.id))
    return BatchView(
        batch=batch,
        status=derive_status(job.status for job in jobs),
        files=tuple(tx.uploads.list_by_batch(batch.id)),
        jobs=jobs,
        deleted_files=tuple(tx.tombstones.list_by_parent(ThingKind.UPLOAD, batch.id)),
    )


def _active(tx: Transaction, batch: Batch) -> list[Job]:
    """The batch's own unfinished jobs and whoever else still reads its files or outputs."""
    jobs = tx.jobs.list_by_batch(batch.id)
    own = [job for job in jobs if job.status.is_active]
    upload_ids = [upload.id for upload in tx.uploads.list_by_batch(batch.id)]
    output_ids = [output.id for job in jobs for output in tx.outputs.list_by_job(job.id)]
    readers = tx.jobs.list_active_reading(upload_ids=upload_ids, output_ids=output_ids)
    known = {job.id for job in own}
    return [*own, *(job for job in readers if job.id not in known)]
