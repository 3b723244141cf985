"""The SHA-256 of completed uploads, by a pass in the background that is in nobody's way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from app.domain import layout
from app.domain.errors import AppError, NotReady
from app.domain.uploads import Upload
from app.services.cancellation import uninterrupted
from app.services.ports import Clock, Database, Digests, Files

log = structlog.get_logger(__name__)

LEASE = "checksums"
LEASE_TTL = timedelta(seconds=30)
RENEW_SECONDS = 8.0
LOOK_SECONDS = 2.0
"""How often the table is looked at when nothing was left to do."""
LOOK_AT = 50
TRY_AGAIN_AFTER = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class ChecksumPace:
    """``look_seconds``: between looks for work. ``renew_seconds``: between renewals of the lease."""

    look_seconds: float = LOOK_SECONDS
    renew_seconds: float = RENEW_SECONDS


class Checksums:
    """Measures one completed upload after the other, oldest first, in one process of all.

    A crash at any point loses nothing: what has no digest is found again. ``holder`` names this
    process in the lease; losing the lease harms nothing, since a digest is the same for everyone.
    """

    def __init__(
        self,
        db: Database,
        files: Files,
        clock: Clock,
        digests: Digests,
        *,
        holder: str,
        pace: ChecksumPace | None = None,
    ) -> None:
        self._db = db
        self._files = files
        self._clock = clock
        self._digests = digests
        self._holder = holder
        self._pace = pace or ChecksumPace()
        self._try_again_at: dict[str, datetime] = {}

    async def run(self) -> None:
        """Measure until cancelled, or until the service starts no more children."""
        while True:
            try:
                did_something = await self.measure_next()
            except NotReady:
                return  # stopping, or nothing here can measure
            except AppError as error:
                log.warning("checksums.failed", code=error.code)
                did_something = False
            if not did_something:
                await asyncio.sleep(self._pace.look_seconds)

    async def measure_next(self) -> bool:
        """Measure one upload, if there is one and no other process does it; whether it was tried."""
        upload = await self._find()
        if upload is None or not await self._lead():
            return False
        async with self._leading():
            await self._measure(upload)
        return True

    async def _find(self) -> Upload | None:
        now = self._clock.now()
        self._try_again_at = {k: at for k, at in self._try_again_at.items() if at > now}
        limit = LOOK_AT + len(self._try_again_at)
        found = await self._db.read(lambda tx: tx.uploads.list_without_digest(limit))
        return next((each for each in found if each.id not in self._try_again_at), None)

    async def _measure(self, upload: Upload) -> None:
        try:
            digest = await self._digests.of(self._files.absolute(layout.upload_path(upload.id)))
        except NotReady:
            raise
        except AppError as error:
            # Deleted meanwhile, most likely; else the disk has trouble that others report.
            self._postpone(upload, error.code)
            return
        if digest.size_bytes != upload.length:
            self._postpone(upload, "wrong_size")
            return
        await self._db.write(lambda tx: tx.uploads.set_sha256(upload.id, digest.sha256))
        log.info("upload.digested", upload_id=upload.id, size_bytes=digest.size_bytes)

    def _postpone(self, upload: Upload, code: str) -> None:
        self._try_again_at[upload.id] = self._clock.now() + TRY_AGAIN_AFTER
        log.info("upload.digest_postponed", upload_id=upload.id, code=code)

    async def _lead(self) -> bool:
        now, holder = self._clock.now(), self._holder
        return await self._db.write(
            lambda tx: tx.leases.acquire(LEASE, holder, now=now, ttl=LEASE_TTL)
        )

    @asynccontextmanager
    async def _leading(self) -> AsyncIterator[None]:
        renewal = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.wait([renewal])
            await uninterrupted(self._let_go())

    async def _let_go(self) -> None:
        try:
            await self._db.write(lambda tx: tx.leases.release(LEASE, self._holder))
        except AppError as error:  # it runs out by itself
            log.warning("checksums.lease_not_released", code=error.code)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._pace.renew_seconds)
            try:
                await self._lead()
            except AppError as error:
                log.warning("checksums.lease_not_renewed", code=error.code)
