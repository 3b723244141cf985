"""What one request on /files knows, handed to the router's hooks and storage."""

from contextvars import ContextVar
from dataclasses import dataclass

import structlog

from app.domain.errors import AppError, InternalError, UploadGone, UploadLocked, UploadNotFound
from app.domain.uploads import Upload, UploadKind
from app.services.completion import Completion
from app.services.upload_states import NewUpload
from app.services.upload_writing import Writing
from app.services.uploads import UploadService

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Exchange:
    """One request inside the router. ``new`` is set while creating, ``held`` while writing."""

    uploads: UploadService
    owner: str
    upload_id: str
    new: NewUpload | None = None
    upload: Upload | None = None
    held: Writing | None = None
    completion: Completion | None = None

    @property
    def row(self) -> Upload | None:
        return self.held.upload if self.held else self.upload

    @property
    def offset(self) -> int:
        """How much is there; 0 for one that is not written to: its file may be none, and still go."""
        return self.held.offset if self.held else 0

    async def complete(self) -> None:
        """Complete the upload whose bytes are whole; a part is left to its final. Failures are not
        told: a client that holds a whole upload could do nothing about them, and the sweep
        unclaimed_uploads does it again.

        Raises UploadGone and UploadNotFound when there is nothing to complete any more.
        """
        row = self.row
        if row is not None and row.kind is UploadKind.PARTIAL:
            log.info("upload.part_whole", upload_id=row.id, length=row.length)
            return
        try:
            if self.held is not None:
                self.completion = await self.held.complete()
            else:
                self.completion = await self.uploads.completion.complete(self.upload_id)
        except (UploadGone, UploadNotFound):
            raise
        except UploadLocked:
            log.info("upload.completion_deferred", upload_id=self.upload_id)
        except AppError as error:
            log.warning("upload.completion_failed", upload_id=self.upload_id, code=error.code)
        except Exception:
            log.exception("upload.completion_failed", upload_id=self.upload_id)
        if self.completion is None:
            self.completion = Completion(self.upload_id, None, ())


current: ContextVar[Exchange] = ContextVar("tus_exchange")
"""Set around the router only. Its storage is told an id and nothing else."""


def exchange_of(upload_id: str | None) -> Exchange:
    """Return the exchange under way. Raises InternalError around one, which is to say when something
    but our app asks the router, and for another upload than its own (None: whichever it is).
    """
    exchange = current.get(None)
    if exchange is None:
        raise InternalError("The tus router was reached around its checks.")
    if upload_id is not None and exchange.upload_id != upload_id:
        raise InternalError("The router asked for another upload than its request's.")
    return exchange
