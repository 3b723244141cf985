"""What becomes of unfinished uploads when a process or the machine stops or dies."""

from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from app.domain.errors import AppError, NoSpace, StorageFailed
from app.domain.uploads import FsyncMode, Upload, UploadStatus
from app.services.cancellation import uninterrupted
from app.services.ports import Database, Transaction, UploadBytes, UploadLocks
from app.services.upload_distrust import durable_offset, take_back
from app.services.upload_states import offset_of

log = structlog.get_logger(__name__)

_PAGE = 200


@dataclass(frozen=True, slots=True)
class UploadRecovery:
    """Brings rows and files together before the first request, and makes bytes safe at a stop."""

    db: Database
    store: UploadBytes
    locks: UploadLocks

    async def recover(self) -> int:
        """Cut unfinished uploads to what was synced before the machine went down, or to what was found
        right before a process did; return how many.

        Called at start, before requests; a PATCH does the same for an upload it finds first.
        """
        recovered, after = 0, ""
        while page := await self._receiving_after(after):
            after = page[-1].id
            for upload in page:
                if self.is_left_behind(upload) and await self._recover(upload.id):
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
                upload = await self.db.look(lambda tx: tx.uploads.find(upload_id))
                if upload is None or not self.is_left_behind(upload):
                    return False
                await self.adopt(upload)
        except AppError as error:
            # Somebody writes it already, and adopted it then; else the PATCH that comes will.
            log.info("upload.recovery_skipped", upload_id=upload_id, code=error.code)
            return False
        return True

    def is_left_behind(self, upload: Upload) -> bool:
        """Whether an unfinished upload has to be adopted before anybody writes it: it is of an earlier
        boot, or its writer died before it had compared a checksum. The caller holds its lock.
        """
        is_earlier = upload.boot_id != self.store.boot_id
        is_unverified = upload.verified_offset is not None
        return upload.status is UploadStatus.RECEIVING and (is_earlier or is_unverified)

    async def bring_up(self, upload: Upload) -> Upload:
        """Return the row for who holds the upload to write it, adopted if need be."""
        # Else bytes were cut off and the row was not told: those that come now are not synced yet.
        is_true = upload.synced_offset == 0 or upload.synced_offset <= offset_of(upload, self.store)
        if is_true and not self.is_left_behind(upload):
            return upload
        return await self.adopt(upload)

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
                # Before the sync: should it fail, it has to be known what the ones before it reached.
                current = await self.db.look(lambda tx: tx.uploads.find(upload.id))
                if current is None or current.status is not UploadStatus.RECEIVING:
                    return False
                writer = await self.store.open(upload.id, self.store.size(upload.id))
                try:
                    offset = await writer.sync()
                except (NoSpace, StorageFailed):
                    base = durable_offset(current, writer.written)
                    with suppress(AppError):  # the failed sync is the news
                        await uninterrupted(take_back(self.db, upload.id, writer, base))
                    raise
                finally:
                    await writer.close()
                await self.db.write(lambda tx: _note_synced(tx, upload.id, offset))
        except AppError as error:
            log.info("upload.sync_skipped", upload_id=upload.id, code=error.code)
            return False
        return True

    async def adopt(self, upload: Upload) -> Upload:
        """Make an unfinished upload that was left behind this boot's, with the bytes that count; the
        caller holds its lock.
        """
        offset = offset_of(upload, self.store)
        if self.store.size(upload.id) > offset:
            is_unverified = upload.verified_offset == offset
            log.warning(
                "upload.cut", upload_id=upload.id, offset=offset, is_unverified=is_unverified
            )
            writer = await self.store.open(upload.id, offset)
            await writer.close()
        adopted = replace(
            upload,
            boot_id=self.store.boot_id,
            recorded_offset=offset,
            # With FSYNC=off nothing was ever synced and nothing is promised: what is there counts.
            synced_offset=min(upload.synced_offset, offset),
            verified_offset=None,
        )
        await self.db.write(lambda tx: tx.uploads.update(adopted, expected=UploadStatus.RECEIVING))
        return adopted


def _note_synced(tx: Transaction, upload_id: str, offset: int) -> None:
    upload = tx.uploads.find(upload_id)
    if upload is not None:
        if upload.verified_offset is not None:
            offset = min(offset, upload.verified_offset)
        tx.uploads.touch(
            upload_id,
            active_at=upload.active_at,
            expires_at=upload.expires_at,
            recorded_offset=offset,
            synced_offset=offset,
        )
