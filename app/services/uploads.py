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
    StorageFailed,
    TemporarilyUnavailable,
    UploadIncomplete,
    UploadLocked,
    UploadTooLarge,
)
from app.domain.ids import is_id, new_id
from app.domain.layout import upload_path
from app.domain.sessions import Session, SessionStatus
from app.domain.tombstones import Reason, ThingKind, Tombstone
from app.domain.uploads import (
    PARTIAL,
    Upload,
    UploadKind,
    UploadPolicy,
    UploadStatus,
)
from app.services.absence import absent
from app.services.burial import bury_with_own_session, withdraw_upload
from app.services.completion import Completion, CompletionService
from app.services.disposal import Disposal
from app.services.ports import (
    Clock,
    Database,
    Files,
    Metrics,
    PartCopier,
    Transaction,
    UploadBytes,
    WriterLocks,
)
from app.services.upload_recovery import UploadRecovery
from app.services.upload_space import Space, SpaceKeeper, room_for
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
    still_told,
    view_of,
)

__all__ = ["UploadService", "UploadView"]

log = structlog.get_logger(__name__)

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
    copier: PartCopier
    policy: UploadPolicy

    # --- creation --------------------------------------------------------------------------------

    async def create(self, upload_id: str, new: NewUpload) -> Upload:
        """Write the row of a new upload, and of a session of its own if it names none.

        Raises UploadTooLarge, NoSpace, SessionNotFound, SessionGone, SessionClosed.
        """
        self.check_length(new.length)
        upload = await self.space.write(lambda tx, space: self.insert(tx, upload_id, new, space))
        self.tell_created(upload)
        return upload

    def tell_created(self, upload: Upload) -> None:
        """Tell log and metrics of a new row."""
        self.metrics.count("upload_created_total")
        log.info(
            "upload.created",
            upload_id=upload.id,
            session_id=upload.session_id,
            kind=upload.kind.value,
            length=upload.length,
        )

    def check_length(self, length: int | None) -> None:
        """Raise UploadTooLarge for a declared length over the maximum."""
        maximum = self.policy.max_upload_bytes
        if length is not None and length > maximum:
            msg = f"The upload may have at most {maximum} bytes."
            raise UploadTooLarge(
                msg,
                extra={"length": length, "maximum": maximum},
            )

    async def declare(self, upload: Upload, length: int, offset: int) -> Upload:
        """Store the length of a deferred upload of which ``offset`` bytes are there. Raises NoSpace."""
        declared = replace(upload, length=length)

        def declare(tx: Transaction, space: Space) -> None:
            space.require(tx, room_for(upload.kind, length, offset))
            tx.uploads.update(declared, expected=UploadStatus.RECEIVING)

        await self.space.write(declare)
        return declared

    @property
    def space(self) -> SpaceKeeper:
        """Where lengths are promised."""
        return SpaceKeeper(self.db, self.files, self.policy.reserve_bytes)

    def insert(self, tx: Transaction, upload_id: str, new: NewUpload, space: Space) -> Upload:
        """Insert the row of a new upload; see ``create``. A part belongs to no session."""
        now = self.clock.now()
        is_part = new.kind is UploadKind.PARTIAL
        session = None if is_part else self._session_for(tx, new, now)
        if new.kind is not UploadKind.FINAL:
            space.require(tx, room_for(new.kind, new.length or 0))
        upload = Upload(
            id=upload_id,
            owner=new.owner,
            session_id=session.id if session else None,
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
            kind=new.kind,
            concat=new.concat,
            parts=new.parts,
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
        completed = tx.uploads.count_completed(found.id)
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
        found = await self.db.look(lambda tx: find_upload(tx, owner, upload_id))
        if found.upload is None:
            raise gone_for_tus(found.tombstone)
        return found.upload

    async def head(self, owner: str, upload_id: str) -> TusState:
        """Return what HEAD tells; waits for no writer, but for one that has all of its bytes.

        A completed upload stays so for a while after retention took its bytes, since a client that
        lost the last response asks here. Raises UploadNotFound, UploadGone.
        """
        before = self._size_before(upload_id)
        found = await self.db.look(lambda tx: find_upload(tx, owner, upload_id))
        upload = found.upload
        if upload is None:
            return self._head_of_gone(upload_id, found)
        metadata = upload.metadata.raw
        if upload.status is UploadStatus.COMPLETED:
            length = upload.length or 0
            completion = Completion(upload.id, upload.batch_id, found.job_ids)
            return TusState(length, length, metadata, None, completion, upload.concat)
        if isinstance(before, StorageFailed):
            raise before  # what is not known is not 0: a client would begin anew
        offset = min(self.offset_of(upload), before)
        if offset == upload.length and upload.kind is not UploadKind.PARTIAL:
            late = await self._complete_late(upload)
            return TusState(offset, upload.length, metadata, None, late, upload.concat)
        shown = None if upload.kind is UploadKind.FINAL else offset
        return TusState(shown, upload.length, metadata, upload.expires_at, None, upload.concat)

    def _size_before(self, upload_id: str) -> int | StorageFailed:
        """How long the file is before its row is read: of bytes that come after that, the row did not
        say whether they count. Trouble is told only once it is known whose upload it is.
        """
        try:
            return self.store.size(upload_id)
        except StorageFailed as error:
            return error

    def _head_of_gone(self, upload_id: str, found: FoundUpload) -> TusState:
        tombstone = found.tombstone
        if tombstone is None:
            raise gone_for_tus(None)
        size, final = tombstone.size_bytes, found.final
        if isinstance(final, Upload) or (final is not None and self._is_still_told(final)):
            # Its bytes are in the final. A client that lost the answer to that asks for its parts.
            return TusState(size, size, concat=PARTIAL)
        if not self._is_still_told(tombstone):
            raise gone_for_tus(tombstone)
        completion = Completion(upload_id, tombstone.parent_id, found.job_ids)
        return TusState(size, size, completion=completion)

    def _is_still_told(self, tombstone: Tombstone) -> bool:
        return still_told(tombstone, self.clock.now(), self.policy.expires_after)

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
        upload, batch = await self.db.look(lambda tx: find_with_batch(tx, owner, upload_id))
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

    async def withdraw_held(self, owner: str, upload_id: str) -> None:
        """Take back a creation whose first bytes were refused; the caller holds the upload. Nobody was
        told its address, so nothing is kept of it. Raises UploadNotFound, UploadGone.
        """
        paths = await self.db.write(lambda tx: self._withdraw(tx, owner, upload_id))
        await self.disposal.settle(paths)
        self.metrics.count("upload_finished_total", outcome="terminated")
        log.info("upload.withdrawn", upload_id=upload_id)

    def _withdraw(self, tx: Transaction, owner: str, upload_id: str) -> Sequence[str]:
        found = find_upload(tx, owner, upload_id)
        if found.upload is None:
            raise gone_for_tus(found.tombstone)
        return withdraw_upload(tx, found.upload, now=self.clock.now())

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
        now = self.clock.now()
        return bury_with_own_session(tx, found.upload, reason=Reason.TERMINATED, now=now)

    # --- what dead processes and machines left ---------------------------------------------------

    @property
    def recovery(self) -> UploadRecovery:
        """Makes unfinished uploads this process's own."""
        return UploadRecovery(self.db, self.store, self.locks)

    async def recover_after_boot(self) -> int:
        """See ``UploadRecovery.recover``; called at start, before requests."""
        return await self.recovery.recover()

    async def sync_unfinished(self) -> int:
        """See ``UploadRecovery.sync_unfinished``; called at a stop."""
        return await self.recovery.sync_unfinished()
