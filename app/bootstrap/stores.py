"""Opens what lies under the services: folder, database, files, locks, engine, media."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import Enum
from functools import partial

from app.bootstrap.media import MediaTools, no_tools, open_tools
from app.bootstrap.place import Place, find_place, prepare_place
from app.bootstrap.seat import Seat
from app.domain.ids import new_id
from app.domain.layout import RUN
from app.domain.uploads import FsyncMode
from app.infrastructure.clock import SystemClock
from app.infrastructure.database.engine import SqlDatabase
from app.infrastructure.metrics import PrometheusMetrics
from app.infrastructure.readiness import PartChecks
from app.infrastructure.storage.local import LocalFiles
from app.infrastructure.storage.part_copy import FilePartCopier
from app.infrastructure.storage.upload_bytes import FileUploadBytes
from app.infrastructure.storage.upload_locks import FlockUploadLocks
from app.infrastructure.storage.work_files import LocalWorkFiles
from app.infrastructure.worker.embedded import EmbeddedEngine
from app.infrastructure.worker.worker_lock import WorkerLock
from app.services.job_watch import JobWatch
from app.services.stop_phases import stop_phase
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
    work: LocalWorkFiles
    copier: FilePartCopier
    locks: FlockUploadLocks
    engine: EmbeddedEngine
    tools: MediaTools
    checks: PartChecks
    watch: JobWatch


async def open_stores(settings: Settings, role: Role, seat: Seat, stack: AsyncExitStack) -> Stores:
    """Open everything in order; ``stack`` closes it in reverse. Raises ``StartRefused``."""
    serves = role is Role.SERVE
    place = await asyncio.to_thread(prepare_place if serves else find_place, settings)
    clock, worker = SystemClock(), new_id()
    # Rows follow the bytes: with FSYNC=off a crash of the machine may cost the newest of both.
    fsync = FsyncMode(settings.data.fsync)
    db = SqlDatabase.open(place.database_url, clock=clock, durable=fsync is not FsyncMode.OFF)
    at_stop = partial(_at_stop, stack, serves)
    at_stop("database", 3.0, db.close)
    store = FileUploadBytes(place.folder, fsync=fsync)
    # In a thread: what a writer thread still does on a disk that hangs must not hold the loop.
    at_stop("upload_files", 2.0, partial(asyncio.to_thread, store.close))
    work = LocalWorkFiles(place.folder, fsync=fsync)
    at_stop("form_files", 2.0, partial(asyncio.to_thread, work.close))
    copier = FilePartCopier(place.folder, fsync=fsync)
    at_stop("part_copies", 2.0, partial(asyncio.to_thread, copier.close))
    locks, tools = FlockUploadLocks(place.folder), no_tools()
    if serves:
        await locks.start()
        at_stop("upload_locks", 1.0, locks.close)
        lock = WorkerLock.acquire(place.folder.root / RUN, worker)
        stack.callback(lock.release)
        tools = await open_tools(settings, stack)
    # Without FFmpeg jobs wait in the queue for a start that has it: better than failing them all.
    can_run = serves and tools.ffmpeg is not None
    workers = seat.share_of(settings.jobs.workers) if can_run else 0
    engine = EmbeddedEngine(db, clock, workers=workers)
    stack.push_async_callback(engine.stop)
    checks = PartChecks()
    at_stop("checks", 1.0, checks.close)
    watch = JobWatch(db)
    at_stop("watch", 1.0, watch.close)
    return Stores(
        place=place,
        worker=worker,
        clock=clock,
        metrics=PrometheusMetrics(seat.counts()),
        db=db,
        files=LocalFiles(place.folder),
        store=store,
        work=work,
        copier=copier,
        locks=locks,
        engine=engine,
        tools=tools,
        checks=checks,
        watch=watch,
    )


def _at_stop(
    stack: AsyncExitStack,
    serves: bool,
    name: str,
    limit_seconds: float,
    close: Callable[[], Awaitable[object]],
) -> None:
    """Have ``close`` run when the stack closes; a service may not wait for it without limit."""
    if serves:
        stack.push_async_callback(stop_phase, name, limit_seconds, close)
    else:
        stack.push_async_callback(close)
