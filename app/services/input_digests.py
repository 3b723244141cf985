"""The SHA-256 of a job's clips, where its operation wants it before the background pass was there."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from app.domain.errors import StorageFailed
from app.domain.jobs import InputRole, JobInput
from app.domain.outputs import Output
from app.domain.uploads import Upload
from app.operations.base import Operation
from app.services.ports import Database, Digests

log = structlog.get_logger(__name__)


class InputDigests:
    """Counts digests and stores them with the uploads, as the background pass does."""

    def __init__(self, db: Database, digests: Digests) -> None:
        self._db = db
        self._digests = digests

    async def complete(
        self,
        operation: Operation,
        inputs: Sequence[JobInput],
        sources: Sequence[Upload | Output],
        folder: Path,
    ) -> list[Upload | Output]:
        """Return ``sources`` with the digests that the operation wants, one file after the other.

        The files are those linked into ``folder`` under the sources' ids. Cancelling stops the
        reading. Raises ``StorageFailed``, also for a file that is not of its upload's length.
        """
        wanting = {rule.role for rule in operation.inputs if rule.wants_digest}
        return [
            await self._complete(item.role, source, folder) if item.role in wanting else source
            for item, source in zip(inputs, sources, strict=True)
        ]

    async def _complete(
        self, role: InputRole, source: Upload | Output, folder: Path
    ) -> Upload | Output:
        if role is not InputRole.CLIP or not isinstance(source, Upload) or source.sha256:
            return source
        digest = await self._digests.of(folder / source.id)
        if digest.size_bytes != source.length:
            msg = f"An input has {digest.size_bytes} bytes on the disk instead of {source.length}."
            raise StorageFailed(msg, extra={"upload_id": source.id})
        await self._db.write(lambda tx: tx.uploads.set_sha256(source.id, digest.sha256))
        log.info("upload.digested", upload_id=source.id, size_bytes=digest.size_bytes)
        return replace(source, sha256=digest.sha256)
