"""The SHA-256 of completed uploads, by a pass in the background that is in nobody's way."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile

import structlog

from app.domain import layout
from app.domain.errors import AppError, NotReady
from app.domain.uploads import Upload
from app.services.cancellation import uninterrupted
from app.services.ports import Clock, Database, Digest, Digests, Files, Transaction

log = structlog.get_logger(__name__)

LEASE = "checksums"
LEASE_TTL = timedelta(seconds=30)
RENEW_SECONDS = 8.0
LOOK_SECONDS = 2.0
"""How often the table is looked at when nothing was left to do."""
LOOK_AT = 50
SMALL_BYTES = 64 * 1024
"""Files up to this size are measured several at a time: their rows would cost more than they do."""
TRY_AGAIN_AFTER = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class ChecksumPace:
    """``look_seconds``: between looks for work. ``renew_seconds``: between renewals of the lease.
    ``together``: how many small files at most are measured in one step.
    """

    look_seconds: float = LOOK_SECONDS
    renew_seconds: float = RENEW_SECONDS
    together: int = LOOK_AT


class Checksums:
    """Measures one completed upload after the other, oldest first, in one process of all; small ones
    in a row are one step.

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
        """Do one step, if there is one and no other process does it; whether it was tried."""
        uploads = await self._find()
        if not uploads or not await self._lead():
            return False
        async with self._leading():
            measured = [(each.id, await self._measure(each)) for each in uploads]
            await self._keep([(each, digest) for each, digest in measured if digest])
        return True

    async def _find(self) -> list[Upload]:
        """Return the oldest, and small ones that follow a small one."""
        now = self._clock.now()
        self._try_again_at = {k: at for k, at in self._try_again_at.items() if at > now}
        limit = LOOK_AT + len(self._try_again_at)
        found = await self._db.read(lambda tx: tx.uploads.list_without_digest(limit))
        due = [each for each in found if each.id not in self._try_again_at]
        small = list(takewhile(_is_small, due[: self._pace.together]))
        return small or due[:1]

    async def _measure(self, upload: Upload) -> Digest | None:
        try:
            digest = await self._digests.of(self._files.absolute(layout.upload_path(upload.id)))
        except NotReady:
            raise
        except AppError as error:
            # Deleted meanwhile, most likely; else the disk has trouble that others report.
            self._postpone(upload, error.code)
            return None
        if digest.size_bytes != upload.length:
            self._postpone(upload, "wrong_size")
            return None
        return digest

    async def _keep(self, measured: Sequence[tuple[str, Digest]]) -> None:
        def keep(tx: Transaction) -> None:
            for upload_id, digest in measured:
                tx.uploads.set_sha256(upload_id, digest.sha256)

        if measured:
            await self._db.write(keep)
        for upload_id, digest in measured:
            log.info("upload.digested", upload_id=upload_id, size_bytes=digest.size_bytes)

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


def _is_small(upload: Upload) -> bool:
    return (upload.length or 0) <= SMALL_BYTES
