"""The real application on a real socket inside the test's process, with its rows and bytes in reach."""

import asyncio
import base64
import contextlib
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import uvicorn
from fastapi import FastAPI

from app.main import create_app
from app.services.container import Container
from app.services.ports import Transaction
from app.services.sweeps import SWEEPS_AT_START
from app.settings import Settings
from app.settings.groups import IntervalSettings

T = TypeVar("T")

START_SECONDS = 30.0
SETTLE_SECONDS = 1.0
TUS = {"Tus-Resumable": "1.0.0"}
OCTETS = {"Content-Type": "application/offset+octet-stream"}
DIGEST = ("uploads", "sha256")
VOLATILE = {"leases", "sweep_reports", "instance", "alembic_version"}
NEVER = 7 * 86400.0


class Served:
    """One running application. ``http`` talks to it; ``write`` and ``read`` are its own transactions."""

    http_protocol: type[asyncio.Protocol] | str = "auto"

    def __init__(self, settings: Settings, **headers: str) -> None:
        self.app: FastAPI = create_app(settings)
        self.data = settings.data.data_dir
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            self.app,
            http=self.http_protocol,
            loop="asyncio",
            log_config=None,
            access_log=False,
            lifespan="on",
            root_path=settings.service.root_path,
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="served", daemon=True)
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[self._socket])

        asyncio.run(main())

    def __enter__(self) -> Self:
        self._thread.start()
        until = time.monotonic() + START_SECONDS
        while not self._server.started:
            assert time.monotonic() < until, "the application did not start"
            assert self._thread.is_alive(), "the application ended at its start"
            time.sleep(0.01)
        # Else whatever test comes first would meet them: a sweep by hand is refused meanwhile.
        wait_for(self._has_swept)
        return self

    def _has_swept(self) -> bool:
        """Whether the sweeps of the start are over; one lets go of its lease after its report."""
        with contextlib.closing(sqlite3.connect(self.data / "tidemill.db")) as db:
            query = "SELECT count(DISTINCT sweep) FROM sweep_reports WHERE trigger = 'start'"
            ((reports,),) = db.execute(query)
            ((held,),) = db.execute("SELECT count(*) FROM leases WHERE name LIKE 'sweep:%'")
        return bool(reports >= len(SWEEPS_AT_START) and not held)

    def __exit__(self, *exc: object) -> None:
        self.http.close()
        self._server.should_exit = True
        self._thread.join(START_SECONDS)
        self._socket.close()
        assert not self._thread.is_alive(), "the application did not stop"

    @property
    def container(self) -> Container:
        found = self.app.state.container
        assert isinstance(found, Container)
        return found

    @contextlib.contextmanager
    def exchanged(self, container: Container | None) -> Iterator[None]:
        """Serve from another container (None: as while starting) for the length of the block."""
        before, self.app.state.container = self.app.state.container, container
        try:
            yield
        finally:
            self.app.state.container = before

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the application's loop and wait for it."""
        assert self._loop is not None
        running: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return running.result(START_SECONDS)

    def write(self, work: Callable[[Transaction], T]) -> T:
        return self.call(self.container.db.write(work))

    def read(self, work: Callable[[Transaction], T]) -> T:
        return self.call(self.container.db.read(work))

    @contextlib.contextmanager
    def held(self, upload_id: str) -> Iterator[None]:
        """Hold an upload as a deletion would, for the length of the block."""
        let_go = threading.Event()
        is_held = threading.Event()

        async def hold() -> None:
            async with self.container.locks.hold(upload_id, wait_seconds=1):
                is_held.set()
                await asyncio.to_thread(let_go.wait, START_SECONDS)

        assert self._loop is not None
        holding = asyncio.run_coroutine_threadsafe(hold(), self._loop)
        assert is_held.wait(START_SECONDS)
        try:
            yield
        finally:
            let_go.set()
            holding.result(START_SECONDS)

    def state(self) -> tuple[dict[str, list[tuple[Any, ...]]], dict[str, int]]:
        """Every row there is, and every file with its size (but for system files)."""
        self._settle()
        rows: dict[str, list[tuple[Any, ...]]] = {}
        with contextlib.closing(sqlite3.connect(self.data / "tidemill.db")) as db:
            tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (name,) in tables:
                if name not in VOLATILE and not name.startswith("sqlite_"):
                    columns = [row[1] for row in db.execute(f'PRAGMA table_info("{name}")')]
                    # The digest of an upload comes by itself, whenever nothing else is to do.
                    shown = ", ".join(f'"{c}"' for c in columns if (name, c) != DIGEST)
                    found = db.execute(f'SELECT {shown} FROM "{name}"').fetchall()  # noqa: S608
                    rows[name] = sorted(found, key=repr)
        return rows, dict(self._files())

    def _settle(self) -> None:
        """Wait for what requests do after their end, of the test before too, unless one is held."""
        until = time.monotonic() + SETTLE_SECONDS
        while self._server.server_state.tasks and time.monotonic() < until:
            time.sleep(0.01)

    def _files(self) -> Iterator[tuple[str, int]]:
        for kind in ("uploads", "work", "outputs", "cache"):
            # Not by rglob, which fails when a folder goes while it looks.
            for folder, _, names in os.walk(self.data / kind):
                for path in (Path(folder) / name for name in names):
                    with contextlib.suppress(FileNotFoundError):
                        yield str(path.relative_to(self.data)), path.stat().st_size

    # --- the way of a file, a step each ----------------------------------------------------------

    def open_session(self, **body: Any) -> str:
        response = self.http.post("/api/v1/upload", json=body)
        assert response.status_code == 201, response.text
        return str(response.json()["session_id"])

    def create_upload(self, length: int, **metadata: str) -> str:
        """Create an upload by tus and return its id."""
        pairs = [f"{k} {base64.b64encode(v.encode()).decode()}" for k, v in metadata.items()]
        headers = {**TUS, "Upload-Length": str(length), "Upload-Metadata": ",".join(pairs)}
        response = self.http.post("/files/", headers=headers)
        assert response.status_code == 201, response.text
        return response.headers["location"].rpartition("/")[2]

    def patch(self, upload_id: str, offset: int, body: bytes) -> httpx.Response:
        headers = {**TUS, **OCTETS, "Upload-Offset": str(offset)}
        return self.http.patch(f"/files/{upload_id}", headers=headers, content=body)

    def upload(self, body: bytes, **metadata: str) -> str:
        """Upload a whole file by tus and return its id."""
        upload_id = self.create_upload(len(body), **metadata)
        if body:
            response = self.patch(upload_id, 0, body)
            assert response.status_code == 204, response.text
        return upload_id

    def make_batch(self, *bodies: bytes, name: str = "clip.mp4") -> dict[str, Any]:
        """Upload files into one session and make it a batch."""
        session_id = self.open_session()
        for body in bodies:
            self.upload(body, session=session_id, filename=name, filetype="video/mp4")
        response = self.http.post("/api/v1/batches", json={"session_id": session_id})
        assert response.status_code == 201, response.text
        found: dict[str, Any] = response.json()
        return found


def wait_for(look: Callable[[], T | None], seconds: float = 20.0) -> T:
    """Return the first true thing that ``look`` returns."""
    until = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def settings_for(data_dir: Path, /, **groups: dict[str, Any]) -> Settings:
    """Settings of a service on ``data``; every group may be changed in part."""
    chosen: dict[str, dict[str, Any]] = {
        "data": {"data_dir": data_dir},
        "disk": {"disk_reserve_bytes": 0},
        "service": {"log_format": "json"},
        # Sweeps run at the start and when a test asks for one.
        "intervals": dict.fromkeys(IntervalSettings.model_fields, NEVER),
    }
    for group, values in groups.items():
        chosen[group] = {**chosen.get(group, {}), **values}
    return Settings.model_validate(chosen)
