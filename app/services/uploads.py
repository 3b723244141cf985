"""Uploads: creating, looking at, downloading and ending them; writing is in ``upload_writing``."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from app.domain.errors import (
    AppError,
    SessionClosed,
    SessionGone,
    SessionNotFound,
    TemporarilyUnavailable,
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
from app.services.upload_space import Space, SpaceKeeper
from app.services.upload_states import (
    Download,
    FoundUpload,
    NewUpload,
    TusState,
    UploadView,
    find_upload,
    find_with_batch,
    gone_for_tus,
    offset_of,
    refuse_in_batch,
    view_of,
)

__all__ = ["UploadService", "UploadView"]

log = structlog.get_logger(__name__)

_PAGE = 200
_LATE_SECONDS = 1.0
"""How long HEAD waits for the writer of an upload that has all of its bytes."""


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
        upload = await self.space.write(lambda tx, space: self._insert(tx, upload_id, new, space))
        self.metrics.count("upload_created_total")
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

    @property
    def space(self) -> SpaceKeeper:
        """Where lengths are promised."""
        return SpaceKeeper(self.db, self.files, self.policy.reserve_bytes)

    def _insert(self, tx: Transaction, upload_id: str, new: NewUpload, space: Space) -> Upload:
        now = self.clock.now()
        session = self._session_for(tx, new, now)
        space.require(tx, new.length or 0)
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
        return upload

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
                keep_inputs_hours=None,
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
        """Return what HEAD tells; waits for no writer, but for one that has all of its bytes.

        A completed upload stays so for a while after retention took its bytes, since a client that
        lost the last response asks here. Raises UploadNotFound, UploadGone.
        """
        found = await self.db.read(lambda tx: find_upload(tx, owner, upload_id))
        upload = found.upload
        if upload is None:
            return self._head_of_gone(upload_id, found)
        metadata = upload.metadata.raw
        if upload.status is UploadStatus.COMPLETED:
            length = upload.length or 0
            completion = Completion(upload.id, upload.batch_id, found.job_ids)
            return TusState(length, length, metadata, None, completion)
        offset = self.offset_of(upload)
        if offset == upload.length:
            late = await self._complete_late(upload)
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

    async def _complete_late(self, upload: Upload) -> Completion:
        """Complete an upload whose bytes are whole: its completion was lost or is just under way.

        A PATCH that still waits for the end of its body is asked to stop. Raises
        ``TemporarilyUnavailable`` when it cannot be done now: told that every byte is there, a
        client would go away without knowing its batch.
        """
        try:
            return await self.completion.complete(upload.id, wait_seconds=_LATE_SECONDS)
        except AppError as error:
            if not isinstance(error, UploadLocked):
                log.warning("upload.completion_failed", upload_id=upload.id, code=error.code)
            raise TemporarilyUnavailable(
                "Every byte is there and the upload is being completed; ask again in a moment.",
                retry_after_seconds=1,
            ) from error

    def offset_of(self, upload: Upload) -> int:
        """How many bytes are there: the length of the file, as far as it can be trusted."""
        return offset_of(upload, self.store)

    async def get(self, owner: str, upload_id: str) -> UploadView:
        """Raises UploadNotFound, UploadGone."""
        upload, batch = await self.db.read(lambda tx: find_with_batch(tx, owner, upload_id))
        return view_of(upload, batch, self.store)

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
        paths = await self.db.write(lambda tx: self._bury(tx, owner, upload_id))
        # A crash before this leaves cleanup rows, which the sweep spent_inputs settles.
        freed = await self.disposal.settle(paths)
        self.metrics.count("upload_finished_total", outcome="terminated")
        log.info("upload.terminated", upload_id=upload_id, bytes_freed=freed)

    def _bury(self, tx: Transaction, owner: str, upload_id: str) -> Sequence[str]:
        found = find_upload(tx, owner, upload_id)
        if found.upload is None:
            raise gone_for_tus(found.tombstone)
        refuse_in_batch(found.upload)
        now, reason = self.clock.now(), Reason.TERMINATED
        session_id = found.upload.session_id
        session = tx.sessions.find(session_id) if session_id else None
        if session is not None and session.implicit:
            # Nobody knows of a session that was made for this one upload.
            return bury_session(tx, session, reason=reason, sweep=None, now=now)
        return bury_upload(tx, found.upload, reason=reason, sweep=None, now=now)

    # --- after a boot of the machine -------------------------------------------------------------

    async def recover_after_boot(self) -> int:
        """Cut unfinished uploads to what was synced before the machine went down; return how many.

        Called at start, before requests; a PATCH does the same for an upload it finds first.
        """
        boot_id, recovered, after = self.store.boot_id, 0, ""
        while page := await self._receiving_after(after):
            after = page[-1].id
            for upload in page:
                if upload.boot_id != boot_id and await self._recover(upload.id):
                    recovered += 1
        if recovered:
            log.info("upload.boot_recovered", count=recovered)
        return recovered

    async def _receiving_after(self, after: str) -> list[Upload]:
        return await self.db.read(lambda tx: tx.uploads.list_receiving(after_id=after, limit=_PAGE))

    async def _recover(self, upload_id: str) -> bool:
        try:
            async with self.locks.hold(upload_id, wait_seconds=0):
                # Another process may have adopted it since, and taken bytes that may not be cut.
                upload = await self.db.read(lambda tx: tx.uploads.find(upload_id))
                if upload is None or not self._is_left_over(upload):
                    return False
                await self.adopt(upload)
        except AppError as error:
            # Somebody writes it already, and adopted it then; else the PATCH that comes will.
            log.info("upload.recovery_skipped", upload_id=upload_id, code=error.code)
            return False
        return True

    def _is_left_over(self, upload: Upload) -> bool:
        return upload.status is UploadStatus.RECEIVING and upload.boot_id != self.store.boot_id

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
                if upload.boot_id == self.store.boot_id:
                    synced += await self._sync(upload)
        return synced

    async def _sync(self, upload: Upload) -> bool:
        try:
            if self.store.size(upload.id) <= upload.synced_offset:
                return False
            async with self.locks.hold(upload.id, wait_seconds=0):
                writer = await self.store.open(upload.id, self.store.size(upload.id))
                try:
                    offset = await writer.sync()
                finally:
                    await writer.close()
                await self.db.write(lambda tx: _note_synced(tx, upload.id, offset))
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


def _note_synced(tx: Transaction, upload_id: str, offset: int) -> None:
    upload = tx.uploads.find(upload_id)
    if upload is not None:
        tx.uploads.touch(
            upload_id,
            active_at=upload.active_at,
            expires_at=upload.expires_at,
            recorded_offset=offset,
            synced_offset=offset,
        )
