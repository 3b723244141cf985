"""Sweeps over uploads: ``gc_files`` ends expired ones, ``unclaimed_uploads`` completes whole ones."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar, Protocol

from app.domain.errors import UploadGone
from app.domain.layout import upload_path
from app.domain.sweeps import SweepName, Victim
from app.domain.tombstones import Reason
from app.domain.uploads import (
    Upload,
    UploadKind,
    UploadPolicy,
    UploadStatus,
    slide_expiry,
    trusted_offset,
)
from app.services.burial import bury_upload
from app.services.disposal import Disposal
from app.services.ports import Database, Files, Metrics, Transaction, UploadBytes, UploadLocks
from app.services.sweeps.base import SweepRun

PAGE = 500


@dataclass(frozen=True, slots=True)
class Seen:
    """An upload's file at one moment: its length, the bytes that count (fewer after an unclean boot
    of the machine), and the last time any arrived.
    """

    size: int
    trusted: int
    written_at: datetime | None

    def active_at(self, upload: Upload) -> datetime:
        """The later of the row's last touch and the file's last bytes."""
        return max(upload.active_at, self.written_at) if self.written_at else upload.active_at

    def is_whole(self, upload: Upload) -> bool:
        """Whether all bytes of the upload are there, whatever its row says."""
        return upload.length == self.size == self.trusted


class UploadWatch:
    """Looks at the files of uploads. Promises nothing, unless the upload's lock is held."""

    def __init__(self, files: Files, upload_bytes: UploadBytes) -> None:
        self._files = files
        self._bytes = upload_bytes

    def look(self, upload: Upload) -> Seen:
        # Something else in the place of a file, a link for instance, is no byte of the upload's: it
        # must not keep the upload from ending.
        size = self._files.size(upload_path(upload.id)) or 0
        trusted = trusted_offset(upload, size, self._bytes.boot_id, self._bytes.fsync)
        # A lock may have made the file just now: an empty one tells nothing of arriving bytes.
        written_at = self._files.modified_at(upload_path(upload.id)) if size else None
        return Seen(size, trusted, written_at)


class ExpiredUploads:
    """``gc_files``: ends unfinished uploads that nothing has touched until past their expiry.

    Never one with a writer, never a completed one, nor one whose bytes are whole: that one lost its
    completion and is the work of ``unclaimed_uploads``. But a part that nobody made a final of, however
    whole; and a final that ``unclaimed_uploads`` had long enough to complete and could not, for want
    of its parts. tuspyserver's own function of this name is
    not called: it fails on the dates its router writes, takes no lock and takes completed uploads.
    """

    name: ClassVar[SweepName] = SweepName.GC_FILES

    def __init__(
        self,
        db: Database,
        watch: UploadWatch,
        locks: UploadLocks,
        disposal: Disposal,
        metrics: Metrics,
        policy: UploadPolicy,
    ) -> None:
        self._db = db
        self._watch = watch
        self._locks = locks
        self._disposal = disposal
        self._metrics = metrics
        self._policy = policy

    async def run(self, run: SweepRun) -> None:
        run.cutoff = run.now
        found = await self._db.read(lambda tx: tx.uploads.list_expired(run.now, run.limit))
        for upload in found:
            with run.entry("upload", upload.id):
                await self._sweep(run, upload)

    async def _sweep(self, run: SweepRun, upload: Upload) -> None:
        if self._locks.is_held(upload.id):
            run.skip("being_written")
            return
        seen = self._watch.look(upload)
        alive = self._why_alive(upload, seen, run.now)
        if alive is not None:
            run.skip(alive)
            if alive == "active" and not run.dry_run:
                await self._note_activity(upload, seen)
            return
        why = f"unfinished and expired at {upload.expires_at.isoformat(timespec='seconds')}"
        if not run.claim(Victim("upload", upload.id, why, seen.size)):
            return
        async with self._locks.hold(upload.id, wait_seconds=0):
            # Nobody writes now; what arrived between the first look and the lock counts.
            seen = self._watch.look(upload)
            paths = await self._db.write(lambda tx: self._bury(tx, upload.id, seen, run))
            if paths is None:
                run.skip("changed")
                return
            run.count_removed(await self._disposal.settle_each(paths))
        self._metrics.count("upload_finished_total", outcome=Reason.EXPIRED.value)

    def _why_alive(self, upload: Upload, seen: Seen, now: datetime) -> str | None:
        if seen.is_whole(upload) and upload.kind is UploadKind.FILE:
            return "whole"
        expires_at = slide_expiry(upload, seen.active_at(upload), self._policy)
        return "active" if expires_at >= now else None

    async def _note_activity(self, upload: Upload, seen: Seen) -> None:
        """Write what the file says into the row, so that it stops turning up among the expired."""

        def note(tx: Transaction) -> None:
            # As it is now: a PATCH may have come and told more since the look.
            fresh = tx.uploads.find(upload.id)
            if fresh is None or fresh.status is not UploadStatus.RECEIVING:
                return
            active_at = seen.active_at(fresh)
            trusted, verified = seen.trusted, fresh.verified_offset
            if verified is not None:
                trusted = min(trusted, verified)
            tx.uploads.touch(
                upload.id,
                active_at=active_at,
                expires_at=slide_expiry(fresh, active_at, self._policy),
                recorded_offset=max(trusted, fresh.recorded_offset),
                synced_offset=fresh.synced_offset,
            )

        await self._db.write(note)

    def _bury(self, tx: Transaction, upload_id: str, seen: Seen, run: SweepRun) -> list[str] | None:
        upload = tx.uploads.find(upload_id)
        if upload is None or upload.status is not UploadStatus.RECEIVING:
            return None
        if upload.expires_at >= run.now or self._why_alive(upload, seen, run.now) is not None:
            return None
        # The tombstone tells what was really there, not what was promised.
        written = replace(upload, length=seen.size)
        return bury_upload(tx, written, reason=Reason.EXPIRED, sweep=run.name, now=run.now)


class Completes(Protocol):
    """The completion handler, as ``app.services.completion.CompletionService`` has it."""

    async def complete(self, upload_id: str) -> object: ...


class UnclaimedUploads:
    """``unclaimed_uploads``: completes uploads whose bytes are whole but whose row says receiving.

    Their completion was lost with a process or failed; completing is idempotent.
    """

    name: ClassVar[SweepName] = SweepName.UNCLAIMED_UPLOADS

    def __init__(
        self, db: Database, watch: UploadWatch, locks: UploadLocks, completion: Completes
    ) -> None:
        self._db = db
        self._watch = watch
        self._locks = locks
        self._completion = completion

    async def run(self, run: SweepRun) -> None:
        after = ""
        while page := await self._page(after):
            for upload in page:
                if upload.kind is not UploadKind.PARTIAL:  # its final completes, or nothing does
                    await self._sweep(run, upload)
                if len(run.tally.victims) >= run.limit:
                    return
            after = page[-1].id

    async def _page(self, after: str) -> list[Upload]:
        return await self._db.read(lambda tx: tx.uploads.list_receiving(after_id=after, limit=PAGE))

    async def _sweep(self, run: SweepRun, upload: Upload) -> None:
        with run.entry("upload", upload.id):
            if not self._watch.look(upload).is_whole(upload):
                return
            if self._locks.is_held(upload.id):
                run.skip("being_written")  # its own request is about to complete it
                return
            victim = Victim("upload", upload.id, "whole, but not completed", upload.length or 0)
            if run.claim(victim):
                try:
                    await self._completion.complete(upload.id)
                except UploadGone:
                    run.skip("gone")
                else:
                    run.count_repaired()
