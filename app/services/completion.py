"""Completing uploads: once each, in one transaction with the batch their session becomes."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from app.domain.errors import (
    AppError,
    NoSpace,
    StorageFailed,
    UploadGone,
    UploadIncomplete,
    UploadNotFound,
)
from app.domain.jobs import JobPolicy
from app.domain.sessions import SessionPolicy
from app.domain.tombstones import Reason, ThingKind
from app.domain.uploads import (
    FsyncMode,
    Upload,
    UploadKind,
    UploadStatus,
    complete,
    trusted_offset,
)
from app.services.absence import as_gone
from app.services.batch_follow_up import follow_up
from app.services.batching import BatchMade, OperationLookup, make_batch
from app.services.burial import bury_part, bury_with_own_session
from app.services.cancellation import uninterrupted
from app.services.disposal import Disposal
from app.services.ports import (
    Clock,
    Database,
    JobQueue,
    Metrics,
    Transaction,
    UploadBytes,
    WriterLocks,
)
from app.services.upload_distrust import durable_offset, take_back

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a finished upload became. No batch while its session is not full."""

    upload_id: str
    batch_id: str | None
    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """``paths``: what is to be deleted now. ``is_lost``: a final could not be completed, and ended."""

    completion: Completion
    upload: Upload
    made: BatchMade | None
    is_new: bool
    paths: tuple[str, ...] = ()
    is_lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionService:
    """The one place where an upload becomes completed; whoever asks again gets the same answer."""

    db: Database
    clock: Clock
    locks: WriterLocks
    store: UploadBytes
    disposal: Disposal
    queue: JobQueue
    metrics: Metrics
    operations: OperationLookup
    sessions: SessionPolicy
    jobs: JobPolicy

    async def complete(
        self,
        upload_id: str,
        *,
        held: Upload | None = None,
        synced: bool = False,
        wait_seconds: float = 0,
    ) -> Completion:
        """Complete the upload if its bytes are whole, and return what it became.

        ``held``: the row as its writer, who is the caller, knows it, with the file's digest if that
        has seen every byte; without one the upload is locked
        here: a present writer is asked to stop and raises UploadLocked when it has not let go after
        ``wait_seconds`` (0: it is left in peace). ``synced``: its bytes are durable already.
        Raises UploadNotFound, UploadGone, UploadIncomplete, NoSpace, StorageFailed, DatabaseBusy. A
        repeat is harmless. A part is never complete, and a final takes its parts along: without all
        of them it ends and is gone.
        """
        upload = await self.db.look(lambda tx: _find(tx, upload_id)) if held is None else held
        if upload.kind is UploadKind.PARTIAL:
            raise UploadIncomplete("The upload is a part: it is complete as a part of its final.")
        if upload.status is UploadStatus.COMPLETED:
            return await self.find(upload)
        if held is not None:
            return await self._complete(held, synced=synced)
        async with self.locks.hold_for_writing(upload_id, wait_seconds=wait_seconds) as hold:
            # Only now is it certain what the row says: who held it may have completed or ended it.
            upload = await self.db.look(lambda tx: _find(tx, upload_id))
            if upload.status is UploadStatus.COMPLETED:
                return await self.find(upload)
            if upload.length == 0:
                hold.keep_file()
            return await self._complete(upload, synced=False)

    async def complete_together(self, uploads: Sequence[Upload]) -> Completion:
        """Complete uploads of one session in one transaction, and return what the last one became.

        For a caller that has put their bytes in place whole and durable. All or none: raises
        UploadNotFound, UploadGone, UploadIncomplete, StorageFailed, DatabaseBusy. A repeat is harmless.
        """
        for upload in uploads:
            self._check_whole(upload)
        outcomes = await self.db.write(lambda tx: self._record_together(tx, uploads))
        for outcome in outcomes:
            await self._follow_up(outcome)
        return outcomes[-1].completion

    async def find(self, upload: Upload) -> Completion:
        """Return what a completed upload became."""
        return await self.db.look(lambda tx: completion_of(tx, upload))

    async def _complete(self, upload: Upload, *, synced: bool) -> Completion:
        if synced and upload.kind is UploadKind.FINAL:
            # Copied and synced just now: what was said of the bytes before these is over.
            upload = replace(upload, verified_offset=None)
        self._check_whole(upload)
        if upload.length == 0 or not (synced or self.store.fsync is FsyncMode.OFF):
            # A file of no bytes has to be made; the others must be durable before a row says so.
            writer = await self.store.open(upload.id, upload.length or 0)
            try:
                if self.store.fsync is not FsyncMode.OFF:
                    await writer.sync()
            except (NoSpace, StorageFailed):
                # A disk says once that it may have lost bytes, and its next sync succeeds.
                offset = durable_offset(upload, upload.length or 0)
                with suppress(AppError):  # the failed sync is the news
                    await uninterrupted(take_back(self.db, upload.id, writer, offset))
                raise
            finally:
                await writer.close()
        outcome = await self.db.write(lambda tx: self._record(tx, upload.id, upload.sha256))
        if outcome.is_lost:
            await self._give_up(outcome)
        await self._follow_up(outcome)
        return outcome.completion

    async def _give_up(self, outcome: _Outcome) -> None:
        """Tell of a final that ended for want of its parts: raises UploadGone."""
        upload = outcome.upload
        self.metrics.count("upload_finished_total", outcome=Reason.SUPERSEDED.value)
        log.info("upload.parts_missing", upload_id=upload.id, parts=len(upload.parts))
        await self.disposal.settle(outcome.paths)
        await self.db.look(lambda tx: _find(tx, upload.id))

    def _check_whole(self, upload: Upload) -> None:
        size = self.store.size(upload.id)
        offset = trusted_offset(upload, size, self.store.boot_id, self.store.fsync)
        if upload.length is None or not offset == size == upload.length:
            raise UploadIncomplete(
                "Not all bytes of the upload are there.",
                extra={"offset": offset, "length": upload.length},
            )

    def _record(self, tx: Transaction, upload_id: str, sha256: str | None = None) -> _Outcome:
        now = self.clock.now()
        upload = _find(tx, upload_id)
        if upload.status is UploadStatus.COMPLETED:
            return _Outcome(completion_of(tx, upload), upload, None, is_new=False)
        parts = find_parts(tx, upload)
        if parts is None:
            nothing = Completion(upload_id, None, ())
            paths = bury_with_own_session(tx, upload, reason=Reason.SUPERSEDED, now=now)
            return _Outcome(nothing, upload, None, is_new=False, paths=tuple(paths), is_lost=True)
        done = self._mark(tx, upload, now, sha256)
        paths = [path for part in parts for path in bury_part(tx, part, done, now=now)]
        made = self._make_batch(tx, done)
        completion = Completion(
            upload_id,
            made.batch.id if made else None,
            tuple(job.id for job in made.jobs) if made else (),
        )
        return _Outcome(completion, done, made, is_new=True, paths=tuple(paths))

    def _record_together(self, tx: Transaction, uploads: Sequence[Upload]) -> list[_Outcome]:
        """Mark all but the last, which makes the batch: a session is looked through once, not often."""
        now = self.clock.now()
        outcomes = []
        for upload in uploads[:-1]:
            found = _find(tx, upload.id)
            is_new = found.status is not UploadStatus.COMPLETED
            done = self._mark(tx, found, now) if is_new else found
            outcomes.append(_Outcome(Completion(done.id, None, ()), done, None, is_new=is_new))
        return [*outcomes, self._record(tx, uploads[-1].id)]

    def _mark(
        self, tx: Transaction, upload: Upload, now: datetime, sha256: str | None = None
    ) -> Upload:
        done = replace(
            complete(upload, now),
            synced_offset=upload.length or 0,
            boot_id=self.store.boot_id,
            verified_offset=None,
            sha256=sha256,
        )
        tx.uploads.update(done, expected=UploadStatus.RECEIVING)
        return done

    def _make_batch(self, tx: Transaction, upload: Upload) -> BatchMade | None:
        session = tx.sessions.find(upload.session_id) if upload.session_id else None
        if session is None or session.expected_files is None:
            return None
        if not session.is_full(1) and not session.is_full(tx.uploads.count_completed(session.id)):
            return None
        return make_batch(
            tx,
            session,
            now=self.clock.now(),
            batch_ttl=self.sessions.batch_ttl,
            job_policy=self.jobs,
            operations=self.operations,
        )

    async def _follow_up(self, outcome: _Outcome) -> None:
        """Tell the log, the metrics and the engine; none of it can undo the completion."""
        if not outcome.is_new:
            return
        completion, made = outcome.completion, outcome.made
        self.metrics.count("upload_finished_total", outcome="completed")
        log.info(
            "upload.completed",
            upload_id=completion.upload_id,
            session_id=outcome.upload.session_id,
            batch_id=completion.batch_id,
            job_ids=list(completion.job_ids),
            length=outcome.upload.length,
        )
        if made is not None:
            await follow_up(
                made,
                queue=self.queue,
                locks=self.locks,
                disposal=self.disposal,
                metrics=self.metrics,
            )
        if outcome.paths:
            ended = Reason.CONCATENATED.value
            self.metrics.count("upload_finished_total", len(outcome.paths), outcome=ended)
            await self.disposal.settle(outcome.paths)


def find_parts(tx: Transaction, upload: Upload) -> list[Upload] | None:
    """Return the rows of a final's parts, each once, none for an upload by itself; None when not all
    of them are there any more.
    """
    found = [tx.uploads.find(part_id) for part_id in dict.fromkeys(upload.parts)]
    parts = [part for part in found if part is not None and part.kind is UploadKind.PARTIAL]
    return parts if len(parts) == len(found) else None


def completion_of(tx: Transaction, upload: Upload) -> Completion:
    """Return what a completed upload became, with the jobs its session's ``then`` made."""
    if upload.batch_id is None:
        return Completion(upload.id, None, ())
    return Completion(upload.id, upload.batch_id, then_jobs_of(tx, upload.batch_id))


def then_jobs_of(tx: Transaction, batch_id: str) -> tuple[str, ...]:
    """Return the ids of the jobs that ``then`` made of a batch, those that are gone included.

    In the order of the files: ``make_batch`` gives out the ids so.
    """
    living = [job.id for job in tx.jobs.list_by_batch(batch_id) if job.from_then]
    gone = [tombstone.id for tombstone in tx.tombstones.list_by_parent(ThingKind.JOB, batch_id)]
    return tuple(sorted((*living, *gone)))


def _find(tx: Transaction, upload_id: str) -> Upload:
    upload = tx.uploads.find(upload_id)
    if upload is not None:
        return upload
    tombstone = tx.tombstones.find(ThingKind.UPLOAD, upload_id)
    if tombstone is None:
        raise UploadNotFound("There is no such upload.")
    raise as_gone(tombstone, UploadGone)
