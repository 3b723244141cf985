"""What ``/readyz`` looks at in this process, part by part."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from app.bootstrap.stores import Stores
from app.domain.errors import AppError
from app.infrastructure.clock import ClockDrift
from app.infrastructure.database.urls import is_sqlite, parse_url
from app.infrastructure.media.sandbox import SandboxLevel
from app.infrastructure.storage.instance import read_marker
from app.infrastructure.storage.paths import StartRefused
from app.services.disposal import ALARM_AFTER_ATTEMPTS
from app.services.ports import Transaction
from app.services.readiness import Part, PartState
from app.settings import Settings

CLOCK_TOLERANCE_SECONDS = 60.0
NOBODY = "readyz"


def add_checks(settings: Settings, stores: Stores) -> None:
    """Add a look at every part that there is once the stores are open; the scheduler adds its own."""
    looks = _Looks(settings, stores, ClockDrift(), _identity(stores.place.database_url))
    stores.checks.add("database", looks.database)
    stores.checks.add("store", looks.store)
    stores.checks.add("engine", looks.engine)
    stores.checks.add("ffmpeg", stores.tools.look)
    stores.checks.add("sandbox", looks.sandbox)
    stores.checks.add("cleanup", looks.cleanup)
    stores.checks.add("clock", looks.clock)


@dataclass(frozen=True, slots=True)
class _Looks:
    settings: Settings
    stores: Stores
    drift: ClockDrift
    database_identity: tuple[int, int] | None

    async def database(self) -> Part:
        url = self.stores.place.database_url
        if await asyncio.to_thread(_identity, url) != self.database_identity:
            # An open file goes on working after it was removed, and all that it takes is lost.
            detail = "its file is not the one of the start: put that back, or restart the service"
            return Part("database", PartState.FAILING, detail)
        await self.stores.db.check()
        # Nothing is written, but the turn to write is taken: somebody may hold it for good.
        await self.stores.db.write(lambda tx: tx.leases.release(NOBODY, NOBODY))
        return Part("database", PartState.OK)

    async def store(self) -> Part:
        place = self.stores.place
        try:
            marker = await asyncio.to_thread(read_marker, place.folder)
        except StartRefused as error:
            return Part("store", PartState.FAILING, str(error))
        if marker is None or marker.id != place.instance_id:
            return Part("store", PartState.FAILING, "the data folder is not the one of the start")
        await self.stores.files.check_writable()
        return Part("store", PartState.OK)

    async def engine(self) -> Part:
        if self.stores.engine.failed.done():
            return Part("engine", PartState.FAILING, "the loop that claims jobs has died")
        if self.settings.jobs.workers == 0:
            # As wanted: another process on the same folder runs them.
            return Part("engine", PartState.OK, "runs no jobs here (TIDEMILL_WORKERS=0)")
        return Part("engine", PartState.OK, f"jobs in hand: {self.stores.engine.running}")

    async def sandbox(self) -> Part:
        level = self.stores.tools.level
        if level is SandboxLevel.LIMITS and self.settings.media.sandbox != "off":
            detail = (
                "FFmpeg runs under resource limits alone: install bubblewrap or allow unprivileged "
                "user namespaces, or accept it with TIDEMILL_SANDBOX=off"
            )
            return Part("sandbox", PartState.DEGRADED, detail)
        return Part("sandbox", PartState.OK, level.value)

    async def cleanup(self) -> Part:
        try:
            count, path, error = await self.stores.db.read(_stuck)
        except AppError:  # the part that says so is the database
            return Part("cleanup", PartState.OK, "the database does not say")
        if count:
            detail = f"cannot be deleted: {count}, such as {path}: {error}"
            return Part("cleanup", PartState.DEGRADED, detail)
        return Part("cleanup", PartState.OK)

    async def clock(self) -> Part:
        moved = self.drift.seconds()
        if abs(moved) > CLOCK_TOLERANCE_SECONDS:
            detail = (
                f"the wall clock was moved by {moved:+.0f} s since the start, and what expires goes "
                "by it: set it right, or restart the service once it is"
            )
            return Part("clock", PartState.DEGRADED, detail)
        return Part("clock", PartState.OK)


def _stuck(tx: Transaction) -> tuple[int, str, str]:
    first = tx.cleanup.list_stuck(ALARM_AFTER_ATTEMPTS, 1)
    if not first:
        return 0, "", ""
    count = tx.cleanup.count(least_attempts=ALARM_AFTER_ATTEMPTS)
    return count, first[0].path, first[0].last_error or ""


def _identity(url: str) -> tuple[int, int] | None:
    """Return what tells a SQLite file from another at the same path; None for none."""
    parsed = parse_url(url)
    if not is_sqlite(parsed):
        return None
    try:
        found = os.stat(Path(parsed.database or ""))  # noqa: PTH116  a link to it may be meant
    except OSError:
        return None
    return found.st_dev, found.st_ino
