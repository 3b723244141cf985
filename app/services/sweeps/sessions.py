"""Sweeps over sessions and batches: ``stale_sessions`` and ``expired_batches``."""

from contextlib import AsyncExitStack
from datetime import datetime
from typing import ClassVar

import structlog

from app.domain.batches import Batch
from app.domain.layout import upload_path
from app.domain.sessions import Session, SessionPolicy, SessionStatus
from app.domain.sweeps import SweepName, Victim
from app.domain.tombstones import Reason
from app.domain.uploads import Upload, UploadStatus
from app.services.burial import bury_batch, bury_session
from app.services.disposal import Disposal
from app.services.ports import Database, Files, Metrics, Transaction, UploadLocks
from app.services.sessions import promised_to_uploads
from app.services.sweeps.base import SweepRun
from app.services.sweeps.uploads import Seen, UploadWatch

log = structlog.get_logger(__name__)


class StaleSessions:
    """``stale_sessions``: removes open sessions, with their files, that are idle past their age.

    Idle means that no request touched them and no byte arrived: a file's own time counts, and so
    does a writer. One whose client was promised more time for an unfinished upload stays as long.
    """

    name: ClassVar[SweepName] = SweepName.STALE_SESSIONS

    def __init__(
        self,
        db: Database,
        watch: UploadWatch,
        locks: UploadLocks,
        disposal: Disposal,
        metrics: Metrics,
        policy: SessionPolicy,
    ) -> None:
        self._db = db
        self._watch = watch
        self._locks = locks
        self._disposal = disposal
        self._metrics = metrics
        self._policy = policy

    async def run(self, run: SweepRun) -> None:
        cutoff = run.cutoff = run.now - self._policy.max_age
        found = await self._db.read(lambda tx: tx.sessions.list_idle(cutoff, run.limit))
        for session in found:
            with run.entry("session", session.id):
                await self._sweep(run, session, cutoff)
        if run.tally.removed:
            log.info("sessions.expired", count=run.tally.removed, cutoff=cutoff.isoformat())

    async def _sweep(self, run: SweepRun, session: Session, cutoff: datetime) -> None:
        uploads = await self._db.read(lambda tx: tx.uploads.list_by_session(session.id))
        if any(self._locks.is_held(upload.id) for upload in uploads):
            run.skip("being_written")
            return
        seen = self._look(uploads)
        alive = _why_alive(session, uploads, seen, cutoff, run.now)
        if alive is not None:
            run.skip(alive)
            if not run.dry_run:
                await self._note(session, uploads, seen, alive)
            return
        size = sum(look.size for look in seen.values())
        why = f"idle since before {cutoff.isoformat(timespec='seconds')}; uploads: {len(uploads)}"
        if run.claim(Victim("session", session.id, why, size)):
            await self._remove(run, session, uploads, cutoff)

    async def _remove(
        self, run: SweepRun, session: Session, uploads: list[Upload], cutoff: datetime
    ) -> None:
        receiving = sorted(up.id for up in uploads if up.status is UploadStatus.RECEIVING)
        async with AsyncExitStack() as stack:
            for upload_id in receiving:
                await stack.enter_async_context(self._locks.hold(upload_id, wait_seconds=0))
            seen = self._look(uploads)

            def bury(tx: Transaction) -> list[str] | None:
                """Look again now that nobody writes; None leaves the session alone."""
                fresh, present = (
                    tx.sessions.find(session.id),
                    tx.uploads.list_by_session(session.id),
                )
                if fresh is None or fresh.status is not SessionStatus.OPEN:
                    return None
                if any(upload.id not in seen for upload in present):
                    return None
                if _why_alive(fresh, present, seen, cutoff, run.now) is not None:
                    return None
                return bury_session(
                    tx, fresh, reason=Reason.SESSION_EXPIRED, sweep=run.name, now=run.now
                )

            paths = await self._db.write(bury)
            if paths is None:
                run.skip("changed")
                return
            run.count_removed(await self._disposal.settle_each(paths))
        for _ in receiving:
            self._metrics.count("upload_finished_total", outcome=Reason.SESSION_EXPIRED.value)

    def _look(self, uploads: list[Upload]) -> dict[str, Seen]:
        return {upload.id: self._watch.look(upload) for upload in uploads}

    async def _note(
        self, session: Session, uploads: list[Upload], seen: dict[str, Seen], alive: str
    ) -> None:
        """Write into the row what keeps it alive, so that it stops turning up among the idle."""
        if alive == "receiving":
            active_at = _active_at(session, uploads, seen)
        elif alive == "promised" and (until := promised_to_uploads(uploads)):
            # Idle again at the very moment when the promise is kept.
            active_at = until - self._policy.max_age
        else:
            return
        await self._db.write(lambda tx: tx.sessions.touch(session.id, active_at))


def _active_at(session: Session, uploads: list[Upload], seen: dict[str, Seen]) -> datetime:
    return max([session.active_at, *(seen[upload.id].active_at(upload) for upload in uploads)])


def _why_alive(
    session: Session,
    uploads: list[Upload],
    seen: dict[str, Seen],
    cutoff: datetime,
    now: datetime,
) -> str | None:
    receiving = [upload for upload in uploads if upload.status is UploadStatus.RECEIVING]
    if any(seen[upload.id].is_whole(upload) for upload in receiving):
        return "whole"  # unclaimed_uploads completes it, and then it may be a batch
    if _active_at(session, uploads, seen) >= cutoff:
        return "receiving"
    promised = promised_to_uploads(uploads)
    return "promised" if promised is not None and promised >= now else None


class ExpiredBatches:
    """``expired_batches``: batches past their own expiry that no job needs; takes inputs only."""

    name: ClassVar[SweepName] = SweepName.EXPIRED_BATCHES

    def __init__(self, db: Database, files: Files, disposal: Disposal) -> None:
        self._db = db
        self._files = files
        self._disposal = disposal

    async def run(self, run: SweepRun) -> None:
        run.cutoff = run.now
        found = await self._db.read(lambda tx: tx.batches.list_expired(run.now, run.limit))
        for batch in found:
            with run.entry("batch", batch.id):
                await self._sweep(run, batch)

    async def _sweep(self, run: SweepRun, batch: Batch) -> None:
        uploads = await self._db.read(lambda tx: tx.uploads.list_by_batch(batch.id))
        size = sum(self._files.size(upload_path(upload.id)) or 0 for upload in uploads)
        why = f"expired at {batch.expires_at.isoformat(timespec='seconds')}, {len(uploads)} files"
        if not run.claim(Victim("batch", batch.id, why, size)):
            return
        paths = await self._db.write(lambda tx: _bury_batch(tx, batch.id, run))
        if paths is None:
            run.skip("in_use")
            return
        run.count_removed(await self._disposal.settle_each(paths))


def _bury_batch(tx: Transaction, batch_id: str, run: SweepRun) -> list[str] | None:
    batch = tx.batches.find(batch_id)
    if batch is None or batch.expires_at >= run.now:
        return None
    upload_ids = [upload.id for upload in tx.uploads.list_by_batch(batch_id)]
    if any(job.status.is_active for job in tx.jobs.list_by_batch(batch_id)):
        return None
    if upload_ids and tx.jobs.list_active_reading(upload_ids=upload_ids):
        return None
    return bury_batch(tx, batch, reason=Reason.BATCH_EXPIRED, sweep=run.name, now=run.now)
