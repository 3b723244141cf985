"""Locks whose holder comes too late, for what happens between a look at an upload and its lock."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.infrastructure.storage.upload_locks import FlockUploadLocks
from app.services.ports import WriterHold, WriterLocks


@dataclass(frozen=True)
class LateLocks(WriterLocks):
    """Locks of a process that comes to each upload only after ``meanwhile`` has happened to it."""

    real: FlockUploadLocks
    meanwhile: Callable[[], Awaitable[None]]

    def hold(self, upload_id: str, *, wait_seconds: float) -> WriterHold:
        return self._late(upload_id, wait_seconds)  # type: ignore[return-value]

    def hold_for_writing(
        self,
        upload_id: str,
        *,
        wait_seconds: float,
        before_asking: Callable[[], Awaitable[None]] | None = None,
    ) -> WriterHold:
        assert before_asking is None
        return self.hold(upload_id, wait_seconds=wait_seconds)

    def is_held(self, upload_id: str) -> bool:
        return self.real.is_held(upload_id)

    @asynccontextmanager
    async def _late(self, upload_id: str, wait_seconds: float) -> AsyncIterator[None]:
        await self.meanwhile()
        async with self.real.hold(upload_id, wait_seconds=wait_seconds):
            yield
