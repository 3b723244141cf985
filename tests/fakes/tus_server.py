"""A server for tus tests: our mount, the real middleware, a real database and real files, uvicorn.

In a thread of the test (``TusServer``), or as a process of its own:
``python -m tests.fakes.tus_server DATA_FOLDER [PORT]`` prints its port and serves.
"""

import asyncio
import contextlib
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import uvicorn
import uvloop
from fastapi import FastAPI

from app.api.access import AccessPolicy
from app.api.connection import OfferConnection
from app.api.errors import install_error_handlers
from app.api.middleware import install_middleware
from app.api.tus import TusOptions, mount_tus
from app.domain.jobs import JobPolicy
from app.domain.layout import MARKER
from app.domain.sessions import SessionPolicy
from app.domain.uploads import FsyncMode, UploadPolicy
from app.infrastructure.clock import SystemClock
from app.infrastructure.database.engine import SqlDatabase
from app.infrastructure.database.migrate import upgrade
from app.infrastructure.drawing.fonts import FontAlphabet
from app.infrastructure.metrics import PrometheusMetrics
from app.infrastructure.storage.local import LocalFiles
from app.infrastructure.storage.part_copy import FilePartCopier
from app.infrastructure.storage.paths import DataFolder
from app.infrastructure.storage.upload_bytes import FileUploadBytes
from app.infrastructure.storage.upload_locks import FlockUploadLocks
from app.operations.registry import default_registry
from app.server.malloc import tune_malloc
from app.services.completion import CompletionService
from app.services.disposal import Disposal
from app.services.draining import Drain
from app.services.ports import Clock
from app.services.uploads import UploadService

DAY = timedelta(days=1)
JOB_POLICY = JobPolicy(
    queue_limit=100,
    timeout_seconds=600,
    timeout_max_seconds=7200,
    stall_seconds=60,
    heartbeat_seconds=2,
    lease_seconds=15,
    max_attempts=3,
    queued_ttl=DAY,
    completed_ttl=DAY,
    failed_ttl=DAY,
)


@dataclass(frozen=True)
class TusConfig:
    """What a test may want to be otherwise."""

    max_upload_bytes: int = 1 << 40
    metadata_max_bytes: int = 8192
    read_timeout_seconds: float = 10.0
    lock_wait_seconds: float = 2.0
    reserve_bytes: int = 0
    expires_after: timedelta = DAY
    fsync: FsyncMode = FsyncMode.COMPLETE
    access: AccessPolicy = field(default_factory=AccessPolicy)
    public_url: str | None = None
    root_path: str = ""
    boot_id: str | None = None
    migrate: bool = True
    clock: Clock | None = None


class RecordingQueue:
    """Remembers which jobs it was told of."""

    def __init__(self) -> None:
        self.enqueued: list[tuple[str, int]] = []

    async def enqueue(self, job_id: str, attempt: int) -> None:
        self.enqueued.append((job_id, attempt))

    def cancel(self, job_id: str) -> None:
        del job_id


@dataclass
class Parts:
    """What stands behind /files."""

    db: SqlDatabase
    folder: DataFolder
    files: LocalFiles
    store: FileUploadBytes
    locks: FlockUploadLocks
    uploads: UploadService
    completion: CompletionService
    metrics: PrometheusMetrics
    queue: RecordingQueue


@asynccontextmanager
async def open_parts(
    root: Path, config: TusConfig, clock: Clock | None = None
) -> AsyncIterator[Parts]:
    """Open a data folder with its database, and close it again."""
    folder = DataFolder.open(root)
    (folder.root / MARKER).touch()
    url = f"sqlite:///{folder.root}/tidemill.db"
    if config.migrate:
        await asyncio.to_thread(upgrade, url)
    clock = clock or SystemClock()
    db = SqlDatabase.open(url, clock=clock)
    store = FileUploadBytes(folder, fsync=config.fsync)
    if config.boot_id is not None:
        store._boot_id = config.boot_id
    locks = FlockUploadLocks(folder)
    await locks.start()
    try:
        yield _wire(folder, config, clock, db, store, locks)
    finally:
        await locks.close()
        store.close()
        await db.close()


def _wire(
    folder: DataFolder,
    config: TusConfig,
    clock: Clock,
    db: SqlDatabase,
    store: FileUploadBytes,
    locks: FlockUploadLocks,
) -> Parts:
    files, metrics, queue = LocalFiles(folder), PrometheusMetrics(), RecordingQueue()
    disposal = Disposal(db, files, clock, metrics)
    completion = CompletionService(
        db=db,
        clock=clock,
        locks=locks,
        store=store,
        disposal=disposal,
        queue=queue,
        metrics=metrics,
        operations=default_registry(FontAlphabet()),
        sessions=SessionPolicy(max_age=DAY, batch_ttl=DAY),
        jobs=JOB_POLICY,
    )
    uploads = UploadService(
        db=db,
        files=files,
        store=store,
        locks=locks,
        clock=clock,
        metrics=metrics,
        disposal=disposal,
        completion=completion,
        copier=FilePartCopier(folder, fsync=config.fsync),
        policy=UploadPolicy(
            max_upload_bytes=config.max_upload_bytes,
            metadata_max_bytes=config.metadata_max_bytes,
            expires_after=config.expires_after,
            expires_cap=7 * config.expires_after,
            read_timeout_seconds=config.read_timeout_seconds,
            lock_wait_seconds=config.lock_wait_seconds,
            reserve_bytes=config.reserve_bytes,
        ),
    )
    return Parts(db, folder, files, store, locks, uploads, completion, metrics, queue)


def make_app(root: Path, config: TusConfig) -> FastAPI:
    """Return an application that serves /files only, and /livez beside it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_parts(root, config, config.clock) as parts:
            app.state.parts = parts
            app.state.container = SimpleNamespace(
                uploads=parts.uploads, metrics=_Uncounted(), drain=Drain()
            )
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.get("/livez")(_livez)
    options = TusOptions(
        max_upload_bytes=config.max_upload_bytes,
        metadata_max_bytes=config.metadata_max_bytes,
        access=config.access,
        public_url=config.public_url,
    )
    mount_tus(app, options)
    install_error_handlers(app)
    install_middleware(app, config.access)
    return app


class _Uncounted:
    """Requests of these tests are counted nowhere; what uploads count is in ``Parts.metrics``."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...


async def _livez() -> dict[str, str]:
    return {"status": "ok"}


def make_server(
    app: FastAPI, *, root_path: str = "", protocol: type[asyncio.Protocol] = OfferConnection
) -> Any:
    """Return a uvicorn server as ours is configured, without its signal handlers."""
    uvicorn_config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        root_path=root_path,
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(uvicorn_config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
    return server


class TusServer:
    """A server in a thread with its own event loop; ``do`` runs a coroutine function there."""

    def __init__(self, root: Path, config: TusConfig | None = None, **options: Any) -> None:
        self.root = root
        config = config or TusConfig()
        self.app = make_app(root, config)
        self._server = make_server(self.app, root_path=config.root_path, **options)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="tus-server")
        self._ready: Future[None] = Future()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def parts(self) -> Parts:
        parts: Parts = self.app.state.parts
        return parts

    def do(self, work: Any) -> Any:
        """Run a coroutine on the server's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def read(self, work: Any) -> Any:
        """Run ``work(tx)`` on the database."""
        return self.do(self.parts.db.read(work))

    def file(self, upload_id: str) -> Path:
        return self.root / "uploads" / upload_id

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(20)
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._socket.close()
        assert not self._thread.is_alive()

    def _run(self) -> None:
        async def run() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._announce())
                await self._server.serve(sockets=[self._socket])

        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(run())
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            raise

    async def _announce(self) -> None:
        while not self._server.started:  # noqa: ASYNC110  uvicorn has a flag, no event
            await asyncio.sleep(0.01)
        self._ready.set_result(None)


@contextlib.contextmanager
def tus_server(root: Path, config: TusConfig | None = None, **options: Any) -> Iterator[TusServer]:
    with TusServer(root, config, **options) as server:
        yield server


def _main() -> None:
    root = Path(sys.argv[1])
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    tune_malloc()
    fsync = FsyncMode(sys.argv[3]) if len(sys.argv) > 3 else FsyncMode.COMPLETE
    config = TusConfig(fsync=fsync, migrate=not (root / "tidemill.db").exists())
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    server = make_server(make_app(root, config))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve(sockets=[listener]))


if __name__ == "__main__":
    _main()
