"""The servers that are measured, each in a process of its own on a free port of 127.0.0.1."""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

OURS, NODE, STOCK, SINK = "Tidemill", "@tus/server", "tuspyserver", "raw sink"
_HERE = Path(__file__).resolve().parent
_NODE_SCRIPT = _HERE.parent / "js" / "tus_server.mjs"
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. ``store``: where it keeps files by the last part of their address."""

    name: str
    port: int
    pid: int
    store: Path

    @property
    def speaks_tus(self) -> bool:
        return self.name != SINK

    def stored(self, location: str) -> Path:
        """Return the file behind an upload's address."""
        return self.store / location.rsplit("/", 1)[-1]

    def forget(self, location: str, batch: str | None) -> None:
        """Remove an upload that was measured; Tidemill is asked to, since its rows know of it."""
        if self.name == OURS and batch:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            connection.request("DELETE", f"/api/v1/batches/{batch}")
            connection.getresponse().read()
            connection.close()
        self.stored(location).unlink(missing_ok=True)


@contextmanager
def running(names: list[str], folder: Path, *, fsync: bool) -> Iterator[list[Server]]:
    """Start the servers ``names``, with what they store below ``folder``; stop them at the end."""
    with ExitStack() as stack:
        yield [stack.enter_context(_server(name, folder, fsync=fsync)) for name in names]


@contextmanager
def _server(name: str, folder: Path, *, fsync: bool) -> Iterator[Server]:
    place = folder / name.strip("@").replace("/", "-").replace(" ", "-").lower()
    place.mkdir()
    port = _free_port()
    policy = ["fsync"] if fsync else []
    peers = _HERE / "peers"
    commands: dict[str, list[str | Path]] = {
        OURS: [Path(sys.executable).with_name("tidemill"), "serve"],
        NODE: ["node", _NODE_SCRIPT, place, str(port), *policy],
        STOCK: [sys.executable, peers / "stock.py", place, str(port)],
        SINK: [sys.executable, peers / "sink.py", place, str(port), *policy],
    }
    environment = os.environ | {
        "TIDEMILL_PORT": str(port),
        "TIDEMILL_DATA_DIR": str(place),
        "TIDEMILL_FSYNC": "complete" if fsync else "off",
        "TIDEMILL_LOG_LEVEL": "warning",
        "NODE_ENV": "production",
    }
    with (folder / f"{place.name}.log").open("wb") as log:
        process = subprocess.Popen(commands[name], env=environment, stdout=log, stderr=log)
    try:
        _wait_until_ready(name, process, port)
        yield Server(name, port, process.pid, place / "uploads" if name == OURS else place)
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(place)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_until_ready(name: str, process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if name == OURS:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
                connection.request("GET", "/readyz")
                is_ready = connection.getresponse().status == http.HTTPStatus.OK
                connection.close()
            else:
                socket.create_connection(("127.0.0.1", port), timeout=2).close()
                is_ready = True
        except OSError:
            is_ready = False
        if is_ready:
            return
        time.sleep(0.1)
    process.kill()
    sys.exit(f"{name} did not start; is everything installed (make bench does it)?")
