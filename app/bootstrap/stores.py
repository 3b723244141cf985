"""Opens what lies under the services: folder, database, files, locks, engine, media."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import Enum

from app.bootstrap.media import MediaTools, no_tools, open_tools
from app.bootstrap.place import Place, find_place, prepare_place
from app.domain.ids import new_id
from app.domain.layout import RUN
from app.domain.uploads import FsyncMode
from app.infrastructure.clock import SystemClock
from app.infrastructure.database.engine import SqlDatabase
from app.infrastructure.metrics import PrometheusMetrics
from app.infrastructure.readiness import PartChecks
from app.infrastructure.storage.instance import read_marker
from app.infrastructure.storage.local import LocalFiles
from app.infrastructure.storage.paths import StartRefused
from app.infrastructure.storage.upload_bytes import FileUploadBytes
from app.infrastructure.storage.upload_locks import FlockUploadLocks
from app.infrastructure.worker.embedded import EmbeddedEngine
from app.infrastructure.worker.worker_lock import WorkerLock
from app.services.readiness import Part, PartState
from app.settings import Settings


class Role(Enum):
    """What the process is: the service, or a command beside it that runs no jobs."""

    SERVE = "serve"
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class Stores:
    """The opened adapters of one process. ``worker`` is its name in rows and locks."""

    place: Place
    worker: str
    clock: SystemClock
    metrics: PrometheusMetrics
    db: SqlDatabase
    files: LocalFiles
    store: FileUploadBytes
    locks: FlockUploadLocks
    engine: EmbeddedEngine
    tools: MediaTools
    checks: PartChecks


async def open_stores(settings: Settings, role: Role, stack: AsyncExitStack) -> Stores:
    """Open everything in order; ``stack`` closes it in reverse. Raises ``StartRefused``."""
    serves = role is Role.SERVE
    place = await asyncio.to_thread(prepare_place if serves else find_place, settings)
    clock, worker = SystemClock(), new_id()
    db = SqlDatabase.open(place.database_url, clock=clock)
    stack.push_async_callback(db.close)
    store = FileUploadBytes(place.folder, fsync=FsyncMode(settings.data.fsync))
    stack.callback(store.close)
    locks, tools = FlockUploadLocks(place.folder), no_tools()
    if serves:
        await locks.start()
        stack.push_async_callback(locks.close)
        lock = WorkerLock.acquire(place.folder.root / RUN, worker)
        stack.callback(lock.release)
        tools = await open_tools(settings, stack)
    # Without FFmpeg jobs wait in the queue for a start that has it: better than failing them all.
    can_run = serves and tools.ffmpeg is not None
    engine = EmbeddedEngine(db, clock, workers=settings.jobs.workers if can_run else 0)
    stack.push_async_callback(engine.stop)
    checks = PartChecks()
    stack.push_async_callback(checks.close)
    stores = Stores(
        place=place,
        worker=worker,
        clock=clock,
        metrics=PrometheusMetrics(),
        db=db,
        files=LocalFiles(place.folder),
        store=store,
        locks=locks,
        engine=engine,
        tools=tools,
        checks=checks,
    )
    _add_checks(stores)
    return stores


def _add_checks(stores: Stores) -> None:
    async def look_at_database() -> Part:
        await stores.db.check()
        return Part("database", PartState.OK)

    async def look_at_store() -> Part:
        place = stores.place
        try:
            marker = await asyncio.to_thread(read_marker, place.folder)
        except StartRefused as error:
            return Part("store", PartState.FAILING, str(error))
        if marker is None or marker.id != place.instance_id:
            return Part("store", PartState.FAILING, "the data folder is not the one of the start")
        await stores.files.check_writable()
        return Part("store", PartState.OK)

    async def look_at_engine() -> Part:
        if stores.engine.failed.done():
            return Part("engine", PartState.FAILING, "the loop that claims jobs has died")
        return Part("engine", PartState.OK, f"jobs in hand: {stores.engine.running}")

    stores.checks.add("database", look_at_database)
    stores.checks.add("store", look_at_store)
    stores.checks.add("engine", look_at_engine)
    stores.checks.add("ffmpeg", stores.tools.look)
