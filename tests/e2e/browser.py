"""A real Chromium with a page of ours, driven through Node."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from tests.e2e.node import FOLDER, require_node

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 90.0
CALL_SECONDS = 60.0


def find_chromium() -> str:
    """Return the browser's path; fail, never skip, when there is none."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert found, "Chromium is needed for the tests in a browser: see scripts/system_packages.sh"
    return found


class Browser:
    """One Chromium with one page at a time; its profile lies in ``folder``."""

    def __init__(self, folder: Path) -> None:
        require_node()
        self._program = find_chromium()
        self._folder = folder
        self._answers: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._calls = 0

    def __enter__(self) -> Self:
        with (self._folder / "browser.err").open("wb") as errors:
            self._process = subprocess.Popen(
                ["node", "browser.mjs", self._program, str(self._folder / "profile")],
                cwd=FOLDER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # Whatever the browser leaves lying about is left in the test's own folder.
                env=os.environ | {"TMPDIR": str(self._folder), "HOME": str(self._folder)},
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name="browser", daemon=True)
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
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            # The browser is in Node's process group, which is ours to end.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)
        self._reader.join(20)
        process.stdout.close()

    def fresh(self) -> str:
        """Open the page anew, with nothing stored, and return its origin."""
        return str(self._call("fresh", seconds=START_SECONDS)).rstrip("/")

    def reload(self) -> None:
        self._call("reload")

    def choose(self, *paths: Path, into: str = "#files") -> None:
        """Put files into a file input of the page, as a user does."""
        self._call("choose", paths=[str(path) for path in paths], input=into)

    def click(self, what: str) -> None:
        """Click the first of what the selector finds, once it is there."""
        self._call("click", what=what)

    def evaluate(self, script: str) -> Any:
        return self._call("evaluate", script=script)

    def start(self, function: str, *arguments: Any) -> None:
        """Call a function of the page without waiting for its end."""
        given = ", ".join(json.dumps(argument) for argument in arguments)
        self.evaluate(f"void {function}({given})")

    def told(self, event: str | None = None) -> list[dict[str, Any]]:
        """What the page heard so far, all or one kind of event."""
        found: list[dict[str, Any]] = self.evaluate("told")
        crashes = self._call("crashes")
        assert not crashes, crashes
        return [one for one in found if event in (None, one["event"])]

    def wait_for(self, event: str, count: int = 1, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Return the events of a kind once there are so many; an error ends the wait."""

        def look() -> bool:
            assert event == "error" or not self.told("error"), self.told()
            return len(self.told(event)) >= count

        self.until(look, f"{count} x {event}", seconds)
        return self.told(event)

    def until(self, look: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not look():
            assert time.monotonic() < deadline, f"waited in vain for {what}: {self.told()}"
            time.sleep(0.05)

    def _call(self, deed: str, *, seconds: float = CALL_SECONDS, **facts: Any) -> Any:
        self._calls += 1
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"call": self._calls, "do": deed, **facts}) + "\n")
        self._process.stdin.flush()
        try:
            answer = self._answers.get(timeout=seconds)
        except Empty:
            msg = f"the browser did not {deed} within {seconds} s: {self._errors()}"
            raise AssertionError(msg) from None
        assert answer["call"] == self._calls
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def _errors(self) -> str:
        return (self._folder / "browser.err").read_text(errors="replace")[-4000:]

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put({"call": self._calls, "error": f"the browser ended: {self._errors()}"})
