"""tus-js-client on Node, and what it told of its uploads."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """The events of one run of upload.mjs, in order."""

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
        assert self.exit_code == 0, self.events
        (found,) = self.of("success")
        return found


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
