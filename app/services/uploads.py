"""Uploads: creating, looking at, downloading and ending them; writing is in ``upload_writing``."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from app.domain.errors import (
    AppError,
    ConflictingUpdate,
    NoSpace,
    SessionClosed,
    SessionGone,
    SessionNotFound,
    UploadIncomplete,
    UploadLocked,
    UploadTooLarge,
)
from app.domain.ids import is_id, new_id
from app.domain.layout import upload_path
from app.domain.sessions import Session, SessionStatus
from app.domain.tombstones import BY_RETENTION, Reason, ThingKind
from app.domain.uploads import (
    FsyncMode,
    Upload,
    UploadPolicy,
    UploadStatus,
    trusted_offset,
)
from app.services.absence import absent
from app.services.burial import bury_session, bury_upload
from app.services.completion import Completion, CompletionService
from app.services.disposal import Disposal
from app.services.ports import (
    Clock,
    Database,
    Files,
    Metrics,
    Transaction,
    UploadBytes,
    WriterLocks,
)
from app.services.upload_states import (
    Download,
    FoundUpload,
    NewUpload,
    TusState,
    UploadView,
    find_upload,
    find_view,
    gone_for_tus,
    refuse_in_batch,
)

__all__ = ["UploadService", "UploadView"]

log = structlog.get_logger(__name__)

_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadService:
    """Use cases of uploads. What is another owner's is as if it never was."""

    db: Database
    files: Files
    store: UploadBytes
    locks: WriterLocks
    clock: Clock
    metrics: Metrics
    disposal: Disposal
    completion: CompletionService
    policy: UploadPolicy

    # --- creation --------------------------------------------------------------------------------

    async def create(self, upload_id: str, new: NewUpload) -> Upload:
        """Write the row of a new upload, and of a session of its own if it names none.

        Raises UploadTooLarge, NoSpace, SessionNotFound, SessionGone, SessionClosed.
        """
        self.check_length(new.length)
        free = self.files.free_bytes()
        upload, receiving = await self.db.write(
            lambda tx: self._insert(tx, upload_id, new, free_bytes=free)
        )
        self.metrics.count("upload_created_total")
        self.metrics.set("uploads_open", receiving)
        log.info(
            "upload.created",
            upload_id=upload_id,
            session_id=upload.session_id,
            length=upload.length,
        )
        return upload

    def check_length(self, length: int | None) -> None:
        """Raise UploadTooLarge for a declared length over the maximum."""
        maximum = self.policy.max_upload_bytes
        if length is not None and length > maximum:
            msg = f"The upload may have at most {maximum} bytes."
            raise UploadTooLarge(
                msg,
                extra={"length": length, "maximum": maximum},
            )

    def require_space(self, tx: Transaction, length: int, free_bytes: int) -> None:
        """Raise NoSpace, with the figures, unless ``length`` more bytes fit beside the promised."""
        promised = tx.uploads.unwritten_bytes()
        available = free_bytes - promised - self.policy.reserve_bytes
        if available < length:
            msg = f"{length} bytes do not fit: {max(available, 0)} are available."
            raise NoSpace(
                msg,
                extra={
                    "required_bytes": length,
                    "available_bytes": max(available, 0),
                    "free_bytes": free_bytes,
                    "promised_bytes": promised,
                    "reserve_bytes": self.policy.reserve_bytes,
                },
            )

    def _insert(
        self, tx: Transaction, upload_id: str, new: NewUpload, *, free_bytes: int
    ) -> tuple[Upload, int]:
        now = self.clock.now()
        session = self._session_for(tx, new, now)
        self.require_space(tx, new.length or 0, free_bytes)
        upload = Upload(
            id=upload_id,
            owner=new.owner,
            session_id=session.id,
            batch_id=None,
            status=UploadStatus.RECEIVING,
            length=new.length,
            recorded_offset=0,
            synced_offset=0,
            boot_id=self.store.boot_id,
            metadata=new.metadata,
            media=None,
            sha256=None,
            created_at=now,
            active_at=now,
            completed_at=None,
            expires_at=now + self.policy.expires_after,
            spent_at=None,
        )
        tx.uploads.insert(upload)
        return upload, tx.uploads.totals().get(UploadStatus.RECEIVING, (0, 0))[0]

    def _session_for(self, tx: Transaction, new: NewUpload, now: datetime) -> Session:
        session_id = new.metadata.session_id
        if session_id is None:
            session = Session(
                id=new_id(),
                owner=new.owner,
                status=SessionStatus.OPEN,
                expected_files=1,
                then=None,
                batch_id=None,
                implicit=True,
                created_at=now,
                active_at=now,
            )
            tx.sessions.insert(session)
            return session
        found = tx.sessions.find(session_id) if is_id(session_id) else None
        if found is None or found.owner != new.owner:
            errors = (SessionNotFound, SessionGone)
            raise absent(tx, ThingKind.SESSION, session_id[:32], new.owner, errors)
        uploads = tx.uploads.list_by_session(found.id)
        completed = sum(upload.status is UploadStatus.COMPLETED for upload in uploads)
        if found.status is not SessionStatus.OPEN or found.is_full(completed):
            raise SessionClosed(
                "The session takes no more uploads: it is a batch.",
                extra={"session_id": found.id, "batch_id": found.batch_id},
            )
        tx.sessions.touch(found.id, now)
        return found

    # --- looking ---------------------------------------------------------------------------------

    async def find_for_tus(self, owner: str, upload_id: str) -> Upload:
        """Return the row. Raises UploadNotFound (also after a termination) and UploadGone."""
        found = await self.db.read(lambda tx: find_upload(tx, owner, upload_id))
        if found.upload is None:
            raise gone_for_tus(found.tombstone)
        return found.upload

    async def head(self, owner: str, upload_id: str) -> TusState:
        """Return what HEAD tells; never waits for a writer.

        A completed upload stays so for a while after retention took its bytes, since a client that
        lost the last response asks here. Raises UploadNotFound, UploadGone.
        """
        found = await self.db.read(lambda tx: find_upload(tx, owner, upload_id))
        upload = found.upload
        if upload is None:
            return self._head_of_gone(upload_id, found)
        metadata = upload.metadata.raw
        if upload.status is UploadStatus.COMPLETED:
            length, completion = (
                upload.length or 0,
                Completion(upload.id, upload.batch_id, found.job_ids),
            )
            return TusState(length, length, metadata, None, completion)
        offset = self.offset_of(upload)
        if offset == upload.length and (late := await self._complete_late(upload)):
            return TusState(offset, upload.length, metadata, None, late)
        return TusState(offset, upload.length, metadata, upload.expires_at, None)

    def _head_of_gone(self, upload_id: str, found: FoundUpload) -> TusState:
        tombstone = found.tombstone
        if tombstone is None or tombstone.reason is Reason.TERMINATED:
            raise gone_for_tus(tombstone)
        completed_at = tombstone.completed_at
        if completed_at is None or tombstone.reason not in BY_RETENTION:
            raise gone_for_tus(tombstone)
        if self.clock.now() >= completed_at + self.policy.expires_after:
            raise gone_for_tus(tombstone)
        size = tombstone.size_bytes
        completion = Completion(upload_id, tombstone.parent_id, found.job_ids)
        return TusState(size, size, None, None, completion)

    async def _complete_late(self, upload: Upload) -> Completion | None:
        """Complete an upload whose completion was lost; None when that has to wait for its sweep."""
        try:
            return await self.completion.complete(upload.id)
        except UploadLocked:
            return None  # its writer is about to
        except AppError as error:
            log.warning("upload.completion_failed", upload_id=upload.id, code=error.code)
            return None

    def offset_of(self, upload: Upload) -> int:
        """How many bytes are there: the length of the file, as far as it can be trusted."""
        if upload.status is UploadStatus.COMPLETED:
            return upload.length or 0
        size = self.store.size(upload.id)
        return trusted_offset(upload, size, self.store.boot_id, self.store.fsync)

    async def get(self, owner: str, upload_id: str) -> UploadView:
        """Raises UploadNotFound, UploadGone."""
        upload, batch_expiry = await self.db.read(lambda tx: find_view(tx, owner, upload_id))
        is_receiving = upload.status is UploadStatus.RECEIVING
        return UploadView(
            id=upload.id,
            session_id=upload.session_id,
            batch_id=upload.batch_id,
            status=upload.status,
            offset=self.offset_of(upload),
            length=upload.length,
            filename=upload.filename,
            media_type=upload.media_type,
            metadata=dict(upload.metadata.fields),
            sha256=upload.sha256,
            created_at=upload.created_at,
            completed_at=upload.completed_at,
            expires_at=upload.expires_at if is_receiving else batch_expiry,
        )

    async def open_download(self, owner: str, upload_id: str) -> Download:
        """Return a complete upload's file. Raises UploadNotFound, UploadGone, UploadIncomplete."""
        upload = await self.find_for_tus(owner, upload_id)
        if upload.status is not UploadStatus.COMPLETED:
            raise UploadIncomplete(
                "The upload is not complete yet.",
                extra={"offset": self.offset_of(upload), "length": upload.length},
            )
        path = self.files.absolute(upload_path(upload.id))
        return Download(upload, path, upload.completed_at or upload.created_at)

    # --- ending ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def terminating(self, owner: str, upload_id: str) -> AsyncIterator[Upload]:
        """Stop the writer of an upload that may be terminated, and hold it; see ``remove_held``.

        Raises UploadNotFound, UploadGone, UploadInBatch, UploadLocked.
        """
        upload = await self.find_for_tus(owner, upload_id)
        refuse_in_batch(upload)
        wait = self.policy.lock_wait_seconds
        async with self.locks.hold(upload_id, wait_seconds=wait):
            yield upload

    async def remove_held(self, owner: str, upload_id: str) -> None:
        """Remove an upload that the caller holds; in an open session its place is free again.

        Raises UploadNotFound, UploadGone, UploadInBatch.
        """
        paths, receiving = await self.db.write(lambda tx: self._bury(tx, owner, upload_id))
        # A crash before this leaves cleanup rows, which the sweep spent_inputs settles.
        freed = await self.disposal.settle(paths)
        self.metrics.count("upload_finished_total", outcome="terminated")
        self.metrics.set("uploads_open", receiving)
        log.info("upload.terminated", upload_id=upload_id, bytes_freed=freed)

    def _bury(self, tx: Transaction, owner: str, upload_id: str) -> tuple[Sequence[str], int]:
        found = find_upload(tx, owner, upload_id)
        if found.upload is None:
            raise gone_for_tus(found.tombstone)
        refuse_in_batch(found.upload)
        now, reason = self.clock.now(), Reason.TERMINATED
        session = tx.sessions.find(found.upload.session_id)
        if session is not None and session.implicit:
            # Nobody knows of a session that was made for this one upload.
            paths = bury_session(tx, session, reason=reason, sweep=None, now=now)
        else:
            paths = bury_upload(tx, found.upload, reason=reason, sweep=None, now=now)
        return paths, tx.uploads.totals().get(UploadStatus.RECEIVING, (0, 0))[0]

    # --- after a boot of the machine -------------------------------------------------------------

    async def recover_after_boot(self) -> int:
        """Cut unfinished uploads to what was synced before the machine went down; return how many.

        Called at start, before requests; a PATCH does the same for an upload it finds first.
        """
        boot_id, recovered, after = self.store.boot_id, 0, ""
        while page := await self._receiving_after(after):
            after = page[-1].id
            for upload in page:
                if upload.boot_id != boot_id and await self._recover(upload):
                    recovered += 1
        if recovered:
            log.info("upload.boot_recovered", count=recovered)
        return recovered

    async def _receiving_after(self, after: str) -> list[Upload]:
        return await self.db.read(lambda tx: tx.uploads.list_receiving(after_id=after, limit=_PAGE))

    async def _recover(self, upload: Upload) -> bool:
        try:
            async with self.locks.hold(upload.id, wait_seconds=0):
                await self.adopt(upload)
        except (UploadLocked, ConflictingUpdate):
            return False  # somebody writes it already, and adopted it then; or it has ended
        return True

    async def sync_unfinished(self) -> int:
        """Make durable what unfinished uploads have, and return how many needed it.

        Called at a stop, so that a boot of the machine after it costs no client its progress.
        """
        synced, after = 0, ""
        while self.store.fsync is not FsyncMode.OFF and (
            page := await self._receiving_after(after)
        ):
            after = page[-1].id
            for upload in page:
                is_ours = upload.boot_id == self.store.boot_id
                if is_ours and self.store.size(upload.id) > upload.synced_offset:
                    synced += await self._sync(upload)
        return synced

    async def _sync(self, upload: Upload) -> bool:
        try:
            async with self.locks.hold(upload.id, wait_seconds=0):
                writer = await self.store.open(upload.id, self.store.size(upload.id))
                try:
                    offset = await writer.sync()
                finally:
                    await writer.close()
                await self.db.write(
                    lambda tx: tx.uploads.touch(
                        upload.id,
                        active_at=upload.active_at,
                        expires_at=upload.expires_at,
                        recorded_offset=offset,
                        synced_offset=offset,
                    )
                )
        except AppError as error:
            log.info("upload.sync_skipped", upload_id=upload.id, code=error.code)
            return False
        return True

    async def adopt(self, upload: Upload) -> Upload:
        """Make an unfinished upload of an earlier boot this boot's; the caller holds its lock."""
        offset = self.offset_of(upload)
        if self.store.size(upload.id) > offset:
            log.warning("upload.cut_after_boot", upload_id=upload.id, offset=offset)
            writer = await self.store.open(upload.id, offset)
            await writer.close()
        # With FSYNC=off nothing was ever synced and nothing is promised: what is there counts.
        synced = upload.synced_offset if self.store.fsync is FsyncMode.OFF else offset
        adopted = replace(
            upload, boot_id=self.store.boot_id, recorded_offset=offset, synced_offset=synced
        )
        await self.db.write(lambda tx: tx.uploads.update(adopted, expected=UploadStatus.RECEIVING))
        return adopted
