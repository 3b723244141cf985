"""Uploads made and looked at through the services alone, without HTTP."""

from collections.abc import Callable
from pathlib import Path

from app.domain.ids import new_id
from app.domain.uploads import Upload, UploadKind, UploadMetadata
from app.services.upload_states import NewUpload
from app.services.upload_writing import ReadBody
from tests.fakes.tus_server import Parts


async def upload_of(parts: Parts, length: int | None, kind: UploadKind = UploadKind.FILE) -> Upload:
    return await parts.uploads.create(new_id(), NewUpload("me", length, UploadMetadata(), kind))


async def row_of(parts: Parts, upload: Upload) -> Upload:
    row = await parts.db.read(lambda tx: tx.uploads.find(upload.id))
    assert row is not None
    return row


def file_of(parts: Parts, upload: Upload) -> Path:
    return parts.folder.root / "uploads" / upload.id


def body(*pieces: bytes, before_each: Callable[[], object] = lambda: None) -> ReadBody:
    left = iter(pieces)

    async def read() -> bytes | None:
        before_each()
        return next(left, None)

    return read
