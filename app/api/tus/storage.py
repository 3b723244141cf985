"""tuspyserver's storage over our rows: it creates, describes and deletes, and moves no byte."""

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from fastapi import HTTPException
from tuspyserver.storage import TusStorage

from app.api.tus.exchange import exchange_of
from app.domain.errors import InternalError
from app.services.upload_states import NewUpload

_NEVER = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
"""Expiry is ours: the router knows whole days only and would answer 410 by itself."""


class RowStorage(TusStorage):
    """What the router may know of the upload of the current exchange.

    The bytes are stored and the lock is held by the app around the router, so ``append`` is never
    called and ``lock`` has nothing to do.
    """

    async def create(self, uid: str) -> None:
        exchange = exchange_of(uid)
        new = exchange.new
        if not isinstance(new, NewUpload):
            raise InternalError("The router created an upload that nobody asked for.")
        exchange.upload = await exchange.uploads.create(uid, new)

    async def exists(self, uid: str) -> bool:
        return exchange_of(uid).row is not None

    async def size(self, uid: str) -> int:
        return exchange_of(uid).offset

    async def append(self, uid: str, chunk: bytes) -> None:
        # The one kind of error that the router (4.4.3) does not turn into a success.
        detail = f"{len(chunk)} bytes for {uid} reached the router"
        raise HTTPException(status_code=500, detail=detail)

    async def flush(self, uid: str) -> None:
        """Nothing is pending: the body was stored before the router came."""

    async def finalize(self, uid: str) -> None:
        """A whole file is sealed by its completion."""

    async def read(self, uid: str) -> bytes | None:
        msg = f"The router never reads {uid}."
        raise InternalError(msg)

    async def delete(self, uid: str) -> None:
        exchange = exchange_of(uid)
        await exchange.uploads.remove_held(exchange.owner, uid)
        exchange.upload = None

    async def read_info(self, uid: str) -> dict[str, Any] | None:
        exchange = exchange_of(uid)
        row = exchange.row
        if row is None:
            return None
        return {
            "metadata": {},
            "size": row.length,
            "offset": exchange.offset,
            "created_at": row.created_at.isoformat(),
            "defer_length": row.length is None,
            "expires": _NEVER,
        }

    async def write_info(self, uid: str, data: dict[str, Any]) -> None:
        """The row was written where it was decided; what the router counts adds nothing."""

    async def list_uids(self) -> list[str]:
        return []

    def location(self, uid: str) -> str:
        return uid

    def lock(self, uid: str) -> Any:
        """Nothing to take: the app holds the upload across all of it."""
        return nullcontext(uid)
