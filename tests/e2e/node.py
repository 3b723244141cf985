"""tus-js-client on Node, and what it told of its uploads."""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FOLDER = Path(__file__).parent / "js"
CLIENTS = ("tus-js-client", "tus-js-client-5")
"""4.3.1, which Uppy ships, and the newest pre-release of 5, by their names in package.json."""


def require_node() -> None:
    """Fail, never skip, when the clients are not there."""
    assert shutil.which("node"), "Node 20 or newer is needed for the tests with real tus clients"
    for client in CLIENTS:
        installed = (FOLDER / "node_modules" / client / "package.json").is_file()
        assert installed, f"{client} is not installed: run `npm ci` in {FOLDER}, or `make test`"


@dataclass(frozen=True, slots=True)
class Told:
    """The events of one upload, in order."""

    exit_code: int
    events: list[dict[str, Any]]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    @property
    def patch_offsets(self) -> list[int]:
        """Upload-Offset of every PATCH that was begun."""
        return [int(e["offset"]) for e in self.of("request") if e["method"] == "PATCH"]

    @property
    def success(self) -> dict[str, Any]:
        assert self.exit_code == 0, self.without_progress
        (found,) = self.of("success")
        return found

    @property
    def error(self) -> dict[str, Any]:
        (found,) = self.of("error")
        return found

    @property
    def without_progress(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] not in {"progress", "chunk"}]


@contextmanager
def start_upload(wish: Mapping[str, Any]) -> Iterator["subprocess.Popen[str]"]:
    """Upload beside the block; a run that has not ended by then is killed."""
    require_node()
    with subprocess.Popen(
        ["node", "upload.mjs", json.dumps(wish)],
        cwd=FOLDER,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def finish(process: "subprocess.Popen[str]", seconds: float = 60.0) -> Told:
    """Wait for a run to end and return what it told."""
    out, errors = process.communicate(timeout=seconds)
    assert not errors, errors
    return Told(process.returncode, [json.loads(line) for line in out.splitlines()])


def run_upload(wish: Mapping[str, Any], seconds: float = 60.0) -> Told:
    with start_upload(wish) as process:
        return finish(process, seconds)


@dataclass(slots=True)
class Run:
    """A wish that a Scenarios process works on."""

    events: list[dict[str, Any]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def of(self, name: str) -> list[dict[str, Any]]:
        return [event for event in list(self.events) if event["event"] == name]

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    def add(self, event: dict[str, Any]) -> None:
        if event["event"] == "end":
            self._ended.set()
        else:
            self.events.append(event)

    def finish(self, seconds: float = 90.0) -> Told:
        """Wait for its end and return what it told."""
        told = Told(0, self.events)
        assert self._ended.wait(seconds), f"no end within {seconds} s: {told.without_progress}"
        return Told(1 if told.of("error") else 0, self.events)

    def wait_for(self, name: str, seconds: float = 30.0) -> dict[str, Any]:
        """Return the first event of this name once there is one."""
        deadline = time.monotonic() + seconds
        while not (found := self.of(name)):
            assert time.monotonic() < deadline, f"no {name} within {seconds} s: {self.events}"
            time.sleep(0.01)
        return found[0]


class Scenarios:
    """One Node that works on any number of wishes, also at once: its start costs more than most."""

    def __init__(self, folder: Path) -> None:
        require_node()
        self._errors = folder / "scenarios.err"
        self._runs: list[Run] = []

    def __enter__(self) -> Self:
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                ["node", "scenarios.mjs"],
                cwd=FOLDER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, name="scenarios", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        if kind is not None or not all(run.has_ended for run in self._runs):
            process.kill()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
            raise
        finally:
            self._reader.join(20)
            process.stdout.close()
        told = self._errors.read_text()
        assert not told, told

    def start(self, wish: Mapping[str, Any]) -> Run:
        run = Run()
        self._runs.append(run)
        line = json.dumps({**wish, "run": len(self._runs) - 1})
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return run

    def run(self, wish: Mapping[str, Any], seconds: float = 90.0) -> Told:
        return self.start(wish).finish(seconds)

    def until(self, look: Callable[[], bool], what: str, run: Run, seconds: float = 30.0) -> None:
        """Wait until ``look`` is true, while the run has not ended."""
        deadline = time.monotonic() + seconds
        while not look():
            told = Told(0, run.events).without_progress
            assert not run.has_ended, f"it ended before {what}: {told}"
            assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}: {told}"
            time.sleep(0.01)

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            event = json.loads(line)
            self._runs[event.pop("run")].add(event)
