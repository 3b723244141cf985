"""Starts the command in a process of its own, for tests of starting, serving and stopping."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.recorder import recording_environment

COMMAND = Path(sys.executable).with_name("tidemill")
START_SECONDS = 40.0
STOP_SECONDS = 30.0
COMMAND_SECONDS = 60.0
INHERITED = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without any setting of ours, so that tests say all that matters.

    The temporary folder is nowhere: nothing of ours is ever put there.
    """
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return kept | {"TMPDIR": "/nonexistent"} | recording_environment() | variables


def run_command(
    *arguments: str, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run ``tidemill`` to its end in ``folder`` and return what it printed."""
    return subprocess.run(
        [str(COMMAND), *arguments],
        cwd=folder,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def eventually(look: Callable[[], Any], *, seconds: float = 15.0, what: str = "it") -> Any:
    """Return the first true answer of ``look``; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    msg = f"{what} did not happen within {seconds} s"
    raise AssertionError(msg)


class Service:
    """One running ``tidemill serve`` on a free port of 127.0.0.1; its log is JSON lines."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.folder = folder
        self.process = process
        self._log = log
        self.port = 0

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The log lines so far, those of one event if it is named."""
        lines = self._log.read_text(errors="replace").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [line for line in found if name is None or line["event"] == name]

    def log_text(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_started(self) -> "Service":
        def look() -> list[dict[str, Any]]:
            assert self.process.poll() is None, self.log_text()
            return self.events("service.started")

        started = eventually(look, seconds=START_SECONDS, what="the start")
        self.port = started[0]["port"]
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10, **kwargs)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(timeout=STOP_SECONDS)

    def stop(self) -> int:
        self.signal()
        return self.wait()


@contextmanager
def service(
    folder: Path, *arguments: str, wait: bool = True, variables: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Run ``tidemill serve`` in ``folder`` (its data is in ``data``) for the length of the block."""
    number = len(list(folder.glob("serve-*.log")))
    log = folder / f"serve-{number}.log"
    defaults = {"TIDEMILL_PORT": "0", "TIDEMILL_LOG_FORMAT": "json", "TIDEMILL_DATA_DIR": "data"}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [str(COMMAND), "serve", *arguments],
            cwd=folder,
            env=clean_environment(**(defaults | dict(variables or {}))),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    running = Service(folder, process, log)
    try:
        yield running.wait_until_started() if wait else running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
