"""A service whose FFmpeg ends as a clip asks, and whose every created path is traced: what stays?"""

import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from imageio_ffmpeg import get_ffmpeg_exe

from tests.e2e import wire
from tests.e2e.creations import Creations
from tests.e2e.frames import make_clip
from tests.e2e.harness import SYSTEM_FILES, Server, wait_for
from tests.fakes.false_ffmpeg import BEGUN, Ending, put_false_ffmpeg, with_ending
from tests.fakes.render_calls import Part, Request, form, json_request
from tests.fakes.render_rows import CLIP_SECONDS, EndpointRow

AT_ONCE_SECONDS = 5.0
"""The limit is generous for a machine that does other things too; what it took is in the table."""
CLIP_BYTES = 1536 * 1024
"""Clips are grown to this, so that half of one is well on the disk."""
TABLES = (
    *("sessions", "batches", "uploads", "jobs", "job_inputs", "outputs", "delivered_spans"),
    *("idempotency_keys", "cleanup_pending", "requests"),
)
"""Tables in which a request leaves nothing; what is kept on purpose is in the others."""
FOLDERS = {"uploads", "work", "outputs", "cache", "quarantine", "run"}
KEPT = "cache/"
"""Normalised clips that later renders take; they have rows of their own."""
_SAMPLE = re.compile(r"^tidemill_(\w+?)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Before:
    """What there was before a request."""

    paths: frozenset[str]
    rows: Mapping[str, int]
    counts: Mapping[str, float]
    events: int
    pid: int


class RenderBench:
    """One server on a data folder, started anew where a test stops or kills it.

    ``sandboxed``: the script runs in the sandbox, from which it cannot reach the real FFmpeg.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, object] | None = None,
        *,
        sandboxed: bool = False,
    ) -> None:
        self.script = put_false_ffmpeg(folder / "false-ffmpeg", get_ffmpeg_exe())
        self.creations = Creations(folder / "trace")
        usual = {
            "FFMPEG_PATH": self.script,
            "SANDBOX": "auto" if sandboxed else "off",
            "WORKERS": 4,
            "DRAIN_SECONDS": 1,
            "SYNC_TIMEOUT_SECONDS": 120,
            "JOB_TIMEOUT_SECONDS": 120,
            "STALL_SECONDS": 60,
            **(settings or {}),
        }
        self._folder = folder
        self._clip: bytes | None = None
        self.server = Server(folder / "data", usual, wrapper=self.creations.wrapper)

    @property
    def clip(self) -> bytes:
        if self._clip is None:
            path = make_clip(self._folder, seconds=CLIP_SECONDS, width=320, height=180)
            self._clip = path.read_bytes()
        return self._clip

    def run(self) -> None:
        """Have the server run; where it does already, nothing happens."""
        if not self.server.is_running:
            self.server.start()

    def close(self) -> None:
        self.server.close()
        assert "Traceback" not in self.server.log_text(), self.server.log_text()[-8000:]

    def client(self) -> httpx.Client:
        return self.server.client()

    # --- what is asked for ---

    def marked(self, ending: Ending, number: int = 0) -> bytes:
        """A clip that has FFmpeg end so; each number gives another one."""
        return with_ending(self.clip, ending, at_least=CLIP_BYTES + number)

    def request(self, row: EndpointRow, ending: Ending, **fields: str) -> Request:
        """Return a call of the endpoint; clips named by id are there before."""
        count = len(row.files) or 2
        clips = [self.marked(ending, number) for number in range(count)]
        if row.is_by_id:
            return json_request(row.path, {"segments": self._segments(clips), **fields})
        parts = [
            Part(name, f"{name}.mp4", clip) for name, clip in zip(row.files, clips, strict=True)
        ]
        return form(row.path, {**row.fields, **fields}, parts)

    def _segments(self, clips: list[bytes]) -> list[dict[str, Any]]:
        with self.client() as api:
            paths = [wire.upload(api, clip, filename="part.mp4").request.url.path for clip in clips]
        return [{"upload_id": path.rpartition("/")[2], "order": n} for n, path in enumerate(paths)]

    # --- what there is ---

    def look(self) -> Before:
        """Remember what there is, the trace so far left aside."""
        self.creations.take()
        return Before(
            self.paths(),
            self._rows(),
            self.counts() if self.server.is_running else {},
            len(self.server.events()),
            self.server.pid,
        )

    def paths(self) -> frozenset[str]:
        """Everything below the data folder that is not the system's own, folders too."""
        # Not by rglob, which fails when a folder goes while it looks.
        names = {
            (Path(folder) / each).relative_to(self.server.data).as_posix()
            for folder, folders, files in os.walk(self.server.data)
            for each in (*folders, *files)
        }
        return frozenset(
            name for name in names - SYSTEM_FILES - FOLDERS if not name.startswith(("run/", KEPT))
        )

    def _rows(self) -> dict[str, int]:
        return {table: self.server.rows(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}  # noqa: S608

    def counts(self) -> dict[str, float]:
        """The metrics, those with labels added up."""
        found: Counter[str] = Counter()
        with self.client() as api:
            for name, value in _SAMPLE.findall(api.get("/metrics").text):
                found[name] += float(value)  # type: ignore[assignment]
        return dict(found)

    def events_since(self, before: Before, *names: str) -> list[dict[str, Any]]:
        events = self.server.events()[before.events :]
        return [each for each in events if not names or each["event"] in names]

    def cleaned_since(self, before: Before) -> set[str]:
        """The jobs whose scratch was removed, as the log tells."""
        events = self.events_since(before, "scratch.removed")
        return {event["job_id"] for event in events if "job_id" in event}

    def encoders(self) -> list[psutil.Process]:
        """The script's processes and all that works in the data folder, wherever they have gone."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = str(self.script) in process.cmdline() or process.cwd().startswith(
                    f"{self.server.data}/"
                )
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def children(self) -> list[psutil.Process]:
        """Every process below the server."""
        if not self.server.is_running:
            return []
        return psutil.Process(self.server.pid).children(recursive=True)

    def wait_for_bytes(self, known: frozenset[str]) -> None:
        """Wait until much of a request's body is on the disk, in a file that is not ``known``."""
        wait_for(
            lambda: any(
                _size(self.server.data / name) > CLIP_BYTES // 8 for name in self.paths() - known
            ),
            "half a body on the disk",
        )

    def wait_for_render(self) -> None:
        """Wait until a script that never ends has begun to write."""
        wait_for(self.endless_parts, "a render", 40)

    def parts(self) -> list[Path]:
        """The unfinished results of renders that run."""
        return list((self.server.data / "work").glob("*/*/*.part"))

    def endless_parts(self) -> list[Path]:
        """Those of them that the script will never finish."""
        return [part for part in self.parts() if _size(part) == len(BEGUN)]

    # --- what stays ---

    def assert_clean(self, before: Before, *, since: float | None = None) -> float:
        """Check that all of a request is gone at once; returns how long it took, in seconds.

        ``since``: when it ended, by the monotonic clock, if not just now.
        """
        taken = self.wait_until_clean(before, since=since)
        self._assert_nothing_elsewhere(before)
        return taken

    def wait_until_clean(self, before: Before, *, since: float | None = None) -> float:
        """Like ``assert_clean``, without a look at the trace."""
        began = time.monotonic() if since is None else since
        while (left := self._left(before)) and time.monotonic() - began < AT_ONCE_SECONDS:
            time.sleep(0.02)
        taken = time.monotonic() - began
        assert left == [], f"after {taken:.1f} s there is still: {left}\n{self._told(before)}"
        return taken

    def _left(self, before: Before) -> list[str]:
        left = [f"file {name}" for name in sorted(self.paths() - before.paths)]
        left += [f"lost {name}" for name in sorted(before.paths - self.paths())]
        rows = self._rows()
        left += [
            f"rows of {table}: {rows[table] - count:+}"
            for table, count in before.rows.items()
            if rows[table] != count
        ]
        left += [f"process {each.pid}" for each in (*self.children(), *self.encoders())]
        return left

    def _assert_nothing_elsewhere(self, before: Before) -> None:
        """Every path that the process tree created is below the data folder, and gone again."""
        created = self.creations.take()
        root = f"{self.server.data}/"
        assert {path for path in created if not path.startswith(root)} == set()
        below = {path.removeprefix(root) for path in created}
        stayed = {
            name
            for name in below - before.paths - SYSTEM_FILES - FOLDERS
            if not name.startswith(("run/", KEPT)) and (self.server.data / name).exists()
        }
        assert stayed == set()

    def _told(self, before: Before) -> str:
        return "\n".join(str(each) for each in self.events_since(before)[-30:])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
