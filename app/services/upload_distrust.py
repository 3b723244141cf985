"""Taking back bytes that do not count: in the row first, then in the file."""

from dataclasses import replace

import structlog

from app.domain.errors import AppError
from app.domain.uploads import Upload, UploadKind, UploadStatus
from app.services.ports import Database, Transaction, UploadWriter

log = structlog.get_logger(__name__)


def durable_offset(upload: Upload, size: int) -> int:
    """Return how many of a file's ``size`` bytes a failed sync cannot have lost.

    A disk tells of a failed write-back once, and not of which bytes: all that nobody has synced may be
    gone, and the next sync would say nothing of them. A final has none that matter: its parts are
    there, and it is copied anew.
    """
    if upload.kind is UploadKind.FINAL:
        return 0
    counting = size if upload.verified_offset is None else min(size, upload.verified_offset)
    return min(counting, upload.synced_offset)


async def take_back(
    db: Database, upload_id: str, writer: UploadWriter, offset: int, *, is_noted: bool = False
) -> bool:
    """Have no more than ``offset`` bytes of an upload count; the caller holds its lock.

    The row says so before the file is cut (``is_noted``: it does already) and until it is: whenever
    this ends, with the process too, nobody counts the bytes behind, and none that come to their place
    later are called synced because they were. Whoever takes the lock next cuts what is left then.
    Returns whether the row is as it should be; raises NoSpace and StorageFailed of the cut only.
    """
    if not is_noted:
        # When this fails, the cut alone says it.
        await _note(db, upload_id, offset, verified=offset)
    await writer.cut_back(offset)
    return await _note(db, upload_id, offset, verified=None)


async def _note(db: Database, upload_id: str, offset: int, *, verified: int | None) -> bool:
    def note(tx: Transaction) -> None:
        row = tx.uploads.find(upload_id)
        if row is None or row.status is not UploadStatus.RECEIVING:
            return  # it has ended meanwhile
        noted = replace(
            row,
            recorded_offset=min(row.recorded_offset, offset),
            synced_offset=min(row.synced_offset, offset),
            verified_offset=verified,
        )
        tx.uploads.update(noted, expected=UploadStatus.RECEIVING)

    try:
        await db.write(note)
    except AppError as error:
        log.warning("upload.unverified_left", upload_id=upload_id, code=error.code)
        return False
    return True
