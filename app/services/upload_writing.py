"""One request that writes an upload: the lock, the declared length, the body, the row's news."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta

import structlog

from app.domain.checksums import BodyCheck, Checksum
from app.domain.errors import (
    AppError,
    BodyTooLong,
    ChecksumMismatch,
    ConflictingUpdate,
    InvalidHeader,
    NoSpace,
    OffsetMismatch,
    StorageFailed,
    UploadLocked,
)
from app.domain.uploads import FsyncMode, Upload, UploadKind, UploadStatus, slide_expiry
from app.services.cancellation import uninterrupted
from app.services.completion import Completion
from app.services.early_digest import EarlyDigest
from app.services.ports import Transaction, UploadWriter, WriterHold
from app.services.upload_body import BodyInterrupted, Interruption, ReadBody
from app.services.upload_checks import add_to, require_right
from app.services.upload_distrust import take_back
from app.services.uploads import UploadService

__all__ = ["BodyInterrupted", "Interruption", "ReadBody", "Writing", "writing"]

log = structlog.get_logger(__name__)

TOUCH_EVERY = timedelta(minutes=1)
"""How often a row hears of an upload's activity; more often when uploads live for minutes only."""
TOUCHES_PER_LIFE = 20
SYNC_AFTER_BYTES = 256 * 1024 * 1024
"""An unfinished upload with more unsynced bytes is synced at the end of a PATCH with
FSYNC=complete too: write-back has begun long ago, and a crash of the machine costs less."""


@asynccontextmanager
async def writing(service: UploadService, upload: Upload) -> AsyncIterator["Writing"]:
    """Hold ``upload`` for one request that writes; a present writer is asked to stop.

    Raises UploadLocked when it does not in time, UploadNotFound or UploadGone when it ended.
    """
    wait = service.policy.lock_wait_seconds
    async with service.locks.hold_for_writing(upload.id, wait_seconds=wait) as hold:
        # Only now is it certain what the row says: the one before may have finished or ended it.
        current = await service.find_for_tus(upload.owner, upload.id)
        yield Writing(service, await service.recovery.bring_up(current), hold)


@asynccontextmanager
async def writing_checked(
    service: UploadService, owner: str, upload_id: str, check: Callable[[Upload], None]
) -> AsyncIterator["Writing"]:
    """Like ``writing``, for a request that may turn out to be nobody's, or wrong.

    ``check`` raises what speaks against it; nobody is asked to stop and no file is made before.
    """

    async def look() -> None:
        check(await service.find_for_tus(owner, upload_id))

    wait = service.policy.lock_wait_seconds
    holding = service.locks.hold_for_writing(upload_id, wait_seconds=wait, before_asking=look)
    async with holding as hold:
        current = await service.find_for_tus(owner, upload_id)
        check(current)
        yield Writing(service, await service.recovery.bring_up(current), hold)


class Writing:
    """An upload held for writing. ``upload`` and ``offset`` are what is true now."""

    def __init__(self, service: UploadService, upload: Upload, hold: WriterHold) -> None:
        self._service = service
        self._hold = hold
        self.upload = upload
        self.offset = service.offset_of(upload)
        self._synced = min(upload.synced_offset, self.offset)
        self._has_declared = False
        self._digest = EarlyDigest(self.offset, None)

    @property
    def is_whole(self) -> bool:
        return self.offset == self.upload.length

    def require_offset(self, offset: int) -> None:
        """Raise OffsetMismatch unless exactly ``offset`` bytes are there."""
        if offset != self.offset:
            msg = f"Upload-Offset is {offset}, but {self.offset} bytes are there."
            raise OffsetMismatch(
                msg,
                extra={"offset": self.offset},
            )

    async def prepare(self, declared: int | None, body_bytes: int | None) -> None:
        """Check a request's ``declared`` length and its body's size where they are told.

        The length of a deferred upload is stored, so that it stands before the first byte. Raises
        InvalidHeader (changed, or below the offset), UploadTooLarge, BodyTooLong, NoSpace; nothing
        is written then.
        """
        length = self.upload.length
        if declared is not None:
            self._check_declared(declared)
        limit = self._limit if declared is None else declared
        if body_bytes is not None and self.offset + body_bytes > limit:
            raise self._too_long(limit)
        if declared is not None and length is None:
            await self._declare(declared)

    def _check_declared(self, declared: int) -> None:
        length = self.upload.length
        if length is not None and length != declared:
            msg = f"Upload-Length was declared as {length} and cannot change."
            raise InvalidHeader(msg, extra={"length": length})
        if declared < self.offset:
            msg = f"Upload-Length is below the offset {self.offset}."
            raise InvalidHeader(msg, extra={"offset": self.offset})
        self._service.check_length(declared)

    async def _declare(self, length: int) -> None:
        self.upload = await self._service.declare(self.upload, length, self.offset)
        self._has_declared = True

    async def store(self, read: ReadBody, checksum: Checksum | None = None) -> None:
        """Put the body behind what is there. Memory is bounded, and what arrived is kept; of a body
        with a ``checksum`` only the whole, once that was found right.

        Raises BodyInterrupted; UploadLocked when a newer request took over; BodyTooLong and
        ChecksumMismatch after cutting back to where this began; NoSpace and StorageFailed with the
        true offset.
        """
        check = checksum.begin() if checksum else None
        if self.upload.status is UploadStatus.COMPLETED:
            await self._refuse_bytes(read)
            require_right(check, self.offset)
            return
        start = self.offset
        self._digest = EarlyDigest(start, self.upload.length)
        writer = await self._service.store.open(self.upload.id, start)
        try:
            await self._store(read, writer, start, check)
        except (BodyTooLong, ChecksumMismatch):
            await self._take_back(writer, start)
            await self._undo_declaration()
            raise
        except (NoSpace, StorageFailed) as error:
            error.extra["offset"] = self._kept(writer)
            log.warning("upload.write_failed", upload_id=self.upload.id, code=error.code)
            raise
        finally:
            await self._let_go(writer, start)

    async def complete(self) -> Completion:
        """Complete the upload, whose bytes are whole. A repeat returns what it became."""
        if self.upload.length == 0:
            self._hold.keep_file()
        synced = self._synced == self.upload.length
        held = replace(self.upload, sha256=self._digest.sha256)
        return await self._service.completion.complete(held.id, held=held, synced=synced)

    async def _let_go(self, writer: UploadWriter, start: int) -> None:
        try:
            if self.upload.verified_offset is not None:
                await uninterrupted(self._forget(writer, self.upload.verified_offset))
        finally:
            await writer.close()
            self.offset = self._kept(writer)
            self._service.metrics.count("upload_bytes_received_total", max(0, self.offset - start))

    # --- the body --------------------------------------------------------------------------------

    async def _store(
        self, read: ReadBody, writer: UploadWriter, start: int, check: BodyCheck | None
    ) -> None:
        try:
            await self._receive(read, writer, start, check)
        except (BodyInterrupted, UploadLocked):
            if self.upload.verified_offset is None:
                await writer.settle()
                with suppress(AppError):  # nobody waits for more than the interruption
                    await self._touch(writer.written)
            raise
        require_right(check, start)
        await writer.settle()
        await self._sync_at_end(writer, start)
        if self.upload.verified_offset is not None:
            await self._confirm(writer.written)
        elif writer.written != self.upload.length or self.upload.kind is UploadKind.PARTIAL:
            await self._tell(writer.written)

    async def _receive(
        self, read: ReadBody, writer: UploadWriter, start: int, check: BodyCheck | None
    ) -> None:
        limit, clock = self._limit, self._service.clock
        seconds = self._service.policy.read_timeout_seconds
        touch_at = clock.monotonic() + self._touch_every.total_seconds()
        while (chunk := await self._next(read, seconds)) is not None:
            if writer.position + len(chunk) > limit:
                raise self._too_long(self._limit)
            if not chunk:
                continue
            if check is not None:
                await self._note_unverified(start)
                await add_to(check, chunk)
            self._digest.add(chunk)
            await writer.write(chunk)
            if clock.monotonic() >= touch_at:
                await self._touch_while_running(writer, start)
                touch_at = clock.monotonic() + self._touch_every.total_seconds()

    @property
    def _touch_every(self) -> timedelta:
        return min(TOUCH_EVERY, self._service.policy.expires_after / TOUCHES_PER_LIFE)

    async def _next(self, read: ReadBody, seconds: float) -> bytes | memoryview | None:
        try:
            async with self._hold.interruptible(seconds):
                return await read()
        except TimeoutError:
            if self._hold.is_asked_to_stop:
                log.info("upload.preempted", upload_id=self.upload.id)
                raise UploadLocked("A newer request took over this upload.") from None
            log.info("upload.stalled", upload_id=self.upload.id, seconds=seconds)
            raise BodyInterrupted(Interruption.STALLED) from None

    async def _refuse_bytes(self, read: ReadBody) -> None:
        while (
            chunk := await self._next(read, self._service.policy.read_timeout_seconds)
        ) is not None:
            if chunk:
                raise self._too_long(self._limit)

    @property
    def _limit(self) -> int:
        length = self.upload.length
        return self._service.policy.max_upload_bytes if length is None else length

    def _too_long(self, limit: int) -> BodyTooLong:
        return BodyTooLong(
            f"The body goes past the upload's {limit} bytes; none of it was kept.",
            extra={"offset": self.offset, "length": self.upload.length},
        )

    # --- bodies with a checksum ------------------------------------------------------------------

    async def _note_unverified(self, start: int) -> None:
        """Say in the row, before the first byte is stored, that only ``start`` bytes count."""
        if self.upload.verified_offset is not None:
            return
        # First here: when this is cancelled, nobody knows what the row says.
        self.upload = replace(self.upload, verified_offset=start)
        service, upload = self._service, self.upload
        try:
            await service.db.write(lambda tx: tx.uploads.set_verified(upload.id, start))
        except ConflictingUpdate:
            await service.find_for_tus(upload.owner, upload.id)
            raise

    async def _confirm(self, offset: int) -> None:
        """Have all bytes count. Should the row not answer, nobody knows what it says: what is right
        stays where it is, and whoever comes next goes by the row.
        """
        self.upload = replace(self.upload, verified_offset=None)
        await self._touch(offset, promised=True, confirms=True)

    async def _forget(self, writer: UploadWriter, offset: int) -> None:
        """Cut off what must not count, a body that was not found right for instance."""
        try:
            await self._take_back(writer, offset)
        except AppError as error:
            # Nobody counts these bytes, and whoever takes the lock next cuts them off.
            log.warning("upload.unverified_left", upload_id=self.upload.id, code=error.code)

    def _kept(self, writer: UploadWriter) -> int:
        """How many bytes count of those that are in the file."""
        verified = self.upload.verified_offset
        return writer.written if verified is None else min(writer.written, verified)

    # --- durability and the row ------------------------------------------------------------------

    async def _sync_at_end(self, writer: UploadWriter, start: int) -> None:
        is_complete = writer.written == self.upload.length
        is_much = writer.written - self._synced >= SYNC_AFTER_BYTES
        if self._mode is FsyncMode.PATCH or is_complete or is_much:
            await self._sync(writer, start)

    async def _sync(self, writer: UploadWriter, start: int) -> None:
        if self._mode is FsyncMode.OFF:
            return
        await writer.settle()
        try:
            self._synced = await writer.sync()
        except (NoSpace, StorageFailed):
            # What a failed sync leaves in the file is anybody's guess, so it was not received. Nor were
            # earlier bodies that nobody has synced, although they were acknowledged: the disk says
            # that it may have lost them, and it says so once.
            await self._forget(writer, min(start, self._synced))
            raise

    async def _take_back(self, writer: UploadWriter, offset: int) -> None:
        """Have no more than ``offset`` bytes count, and cut the file there: see ``take_back``."""
        verified = self.upload.verified_offset
        is_noted = verified is not None and verified <= offset
        self._synced = min(self._synced, offset)
        # First here: when this is cancelled or fails, nobody knows what the row says.
        self.upload = replace(
            self.upload,
            recorded_offset=min(self.upload.recorded_offset, offset),
            synced_offset=min(self.upload.synced_offset, offset),
            verified_offset=offset,
        )
        db, upload_id = self._service.db, self.upload.id
        if await take_back(db, upload_id, writer, offset, is_noted=is_noted):
            self.upload = replace(self.upload, verified_offset=None)

    async def _undo_declaration(self) -> None:
        """A refused request has written nothing: not the length either that it brought along."""
        if not self._has_declared:
            return
        undone = replace(self.upload, length=None)
        with suppress(AppError):  # the refusal itself is the news; this length would do no harm
            await self._service.db.write(
                lambda tx: tx.uploads.update(undone, expected=UploadStatus.RECEIVING)
            )
            self.upload, self._has_declared = undone, False

    @property
    def _mode(self) -> FsyncMode:
        return self._service.store.fsync

    async def _tell(self, offset: int) -> None:
        """Tell the row what it has to know at the end of a body: of a sync, and of activity once a
        minute; between them a look whether the upload still lives costs no commit. To hold it does
        not prove that: a session that becomes a batch ends its unfinished uploads first, and asks
        their writers to stop then.
        """
        service, upload, now = self._service, self.upload, self._service.clock.now()
        slid = slide_expiry(upload, now, service.policy)
        is_old = max(now - upload.active_at, slid - upload.expires_at) >= self._touch_every
        # Only a part is told of here when it is whole: nothing completes it.
        is_whole = offset == upload.length
        if is_whole or is_old or self._synced != upload.synced_offset:
            await self._touch(offset, promised=is_whole or self._mode is FsyncMode.PATCH)
        else:
            await service.find_for_tus(upload.owner, upload.id)

    async def _touch_while_running(self, writer: UploadWriter, start: int) -> None:
        await self._sync(writer, start)
        await self._touch(writer.written)

    async def _touch(self, offset: int, *, promised: bool = False, confirms: bool = False) -> None:
        """Tell the row of activity. Not told is not lost, since the bytes are what counts; unless it
        was ``promised`` that they outlive the machine, which only the row knows. ``confirms``: all
        bytes were found right.

        Raises UploadGone when the upload has ended meanwhile (superseded).
        """
        service, upload_id = self._service, self.upload.id
        verified, synced, now = self.upload.verified_offset, self._synced, service.clock.now()
        if verified is not None:
            # Of what may still be cut off, the row says nothing.
            offset, synced = min(offset, verified), min(synced, verified)
        expires_at = slide_expiry(self.upload, now, service.policy)
        self.upload = replace(
            self.upload,
            active_at=now,
            expires_at=expires_at,
            recorded_offset=offset,
            synced_offset=synced,
        )

        def touch(tx: Transaction) -> None:
            if confirms:
                tx.uploads.set_verified(upload_id, None)
            tx.uploads.touch(
                upload_id,
                active_at=now,
                expires_at=expires_at,
                recorded_offset=offset,
                synced_offset=synced,
            )

        try:
            await service.db.write(touch)
        except ConflictingUpdate:
            await service.find_for_tus(self.upload.owner, self.upload.id)
        except AppError as error:
            log.warning("upload.touch_failed", upload_id=self.upload.id, code=error.code)
            if promised:
                raise
