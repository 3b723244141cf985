"""Synchronous renders with the installed command: killed, restarted, stopped while a client waits."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import upload
from tests.fakes.false_ffmpeg import Ending, put_false_ffmpeg, with_ending
from tests.fakes.render_calls import Answered, Caller, Part, Request, form

TRIM = {"start": "0.2", "end": "1.0"}
PAGE = Path(__file__).parents[2] / "docs" / "renders.md"
TABLES = ("sessions", "batches", "uploads", "jobs", "outputs", "cleanup_pending", "requests")
SETTINGS = {
    "SANDBOX": "off",
    "WORKERS": 2,
    "DRAIN_SECONDS": 6,
    "HEARTBEAT_SECONDS": 0.5,
    "JOB_CHECK_INTERVAL_SECONDS": 0.5,
}


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """Two servers for one data folder, not started yet."""
    script = put_false_ffmpeg(tmp_path / "false-ffmpeg", get_ffmpeg_exe())
    settings = {**SETTINGS, "FFMPEG_PATH": script}
    first, second = (Server(tmp_path / "data", settings) for _ in range(2))
    yield first, second
    first.close()
    second.close()


def begin(stack: ExitStack, server: Server, clip: Path, ending: Ending) -> Caller:
    """Ask for a render, and wait until it has begun."""
    before = len(server.events("job.claimed"))
    body = with_ending(clip.read_bytes(), ending)
    request: Request = form("/api/trim", TRIM, [Part("video", "clip.mp4", body)])
    caller = stack.enter_context(Caller(server.port, request))
    caller.send()
    wait_for(lambda: len(server.events("job.claimed")) > before, "a render to begin")
    return caller


def left(server: Server) -> dict[str, Any]:
    """What rows and files there are of requests."""
    found = {table: server.rows(f"SELECT * FROM {table}") for table in TABLES}  # noqa: S608
    found["files"] = [(path,) for path in server.leftovers()]
    return {name: rows for name, rows in found.items() if rows}


def test_what_a_killed_process_rendered_goes_at_the_next_start_and_by_another_s_sweep(
    servers: tuple[Server, Server], short_clip: Path
) -> None:
    first, second = servers
    with ExitStack() as stack:
        begin(stack, first.start(), short_clip, Ending.SLEEPS)
        assert set(left(first)) >= {"requests", "uploads", "batches", "jobs", "files"}
        first.kill()
        wait_for(lambda: not first.survivors(), "the end of its children")
        first.start()
        wait_for(lambda: not left(first), "a tidy folder after the start")
        assert first.events("render.taken_back")

        begin(stack, second.start(), short_clip, Ending.SLEEPS)
        second.kill()
        taken = len(first.events("render.taken_back"))
        # Killed in a sweep, the process took its lease along: that has to run out first.
        wait_for(lambda: not left(first), "a tidy folder without a start", 45)
        assert len(first.events("render.taken_back")) == taken + 1


def test_a_service_that_stops_delivers_what_ends_in_time_and_refuses_the_rest(
    servers: tuple[Server, Server], short_clip: Path
) -> None:
    server = servers[0].start()
    with ExitStack() as stack:
        endless = begin(stack, server, short_clip, Ending.SLEEPS)
        short = begin(stack, server, short_clip, Ending.REAL)
        assert server.stop() == 0
        answer = endless.answer()
        assert isinstance(answer, Answered)
        assert (answer.status, answer.problem()["code"]) == (503, "draining")
        assert answer.headers["retry-after"] == "5"
        answer = short.answer()
        assert isinstance(answer, Answered)
        assert answer.status == 200
        assert len(answer.body) == int(answer.headers["content-length"])
    assert left(server) == {}
    assert not server.survivors()
    assert not server.events("service.requests_cut")
    assert [each["stage"] for each in server.events("render.stopped")] == ["render"]
    assert len(server.events("render.delivered")) == 1


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_page_s_own_lines_do_what_it_says(
    servers: tuple[Server, Server], short_clip: Path, tmp_path: Path
) -> None:
    server = servers[0].start()
    shutil.copy(short_clip, tmp_path / "clip.mp4")
    Image.new("RGB", (640, 480), "#1F6FEB").save(tmp_path / "still.png")
    with server.client() as api:
        upload_id = upload(api, short_clip.read_bytes()).headers["tidemill-upload"]
    lines = re.findall(r"^\$ (curl .*)$", PAGE.read_text(), re.MULTILINE)
    assert len(lines) == 12
    for line in lines:
        told = line.replace("localhost:8000", f"127.0.0.1:{server.port}")
        words = shlex.split(told.replace("UPLOAD_ID", upload_id))
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, (line, done)
    films = {path.stem for path in tmp_path.glob("*.mp4")}
    templates = {"intro", "announcement", "steps", "persona", "demo", "closing"}
    assert films == {"clip", "clip-trim", "part", "preview", "both", "twice"} | templates
    assert all(path.read_bytes()[4:8] == b"ftyp" for path in tmp_path.glob("*.mp4"))
