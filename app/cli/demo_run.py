"""What ``tidemill demo`` shows: a server of its own, a real clip through it, and the bytes on disk."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
from rich.table import Table

from app.cli.client import make_server
from app.cli.errand import Outcome, carry_out
from app.cli.terminal import messages, output, show_bytes
from app.cli.wish import Place, Wish
from app.infrastructure.media.ffmpeg_locator import locate_ffmpeg

FOLDER = Path("demo-data")
MARK = "made-by-tidemill-demo"
CLIP_SECONDS = 20
START_SECONDS = 30.0
STOP_SECONDS = 20.0
SAMPLE_SECONDS = 0.1
KINDS = ("uploads", "work", "outputs", "database")

Sizes = dict[str, int]
"""Bytes on disk by kind."""


class DemoError(Exception):
    """The demo cannot be given; the message says why."""


def give(*, keep: bool) -> None:
    """Give the demo in ``FOLDER`` below the working directory, and remove the folder unless ``keep``.

    Raises DemoError, OSError, subprocess.SubprocessError and httpx.HTTPError.
    """
    folder = _take_folder()
    try:
        _show_main_job(folder)
    finally:
        if not keep:
            shutil.rmtree(folder)
    _say(f"Kept ./{folder}." if keep else f"Stopped the server and removed ./{folder}.")


def _show_main_job(folder: Path) -> None:
    clip, cut = folder / "clip.mp4", folder / "cut.mp4"
    _say(f"1. Making a clip: {CLIP_SECONDS} s of 1280x720 with a running clock and beeps.")
    _make_clip(clip)
    with _running_server(folder) as url, make_server(url, None).connect() as http:
        _say(f"2. Started a server of its own on {url}, its data in ./{folder}/data.")
        before = _measure(http, url)
        _say(f"3. Uploading {show_bytes(clip.stat().st_size)} by tus, cutting out 2 s to 7 s.")
        with _watching(url) as most:
            outcome = _carry_out(clip, cut, url)
        _say(f"4. The cut has arrived: {show_bytes(cut.stat().st_size)} in ./{cut}.")
        done = _measure(http, url)
        _say("5. Deleting the job and the batch.")
        _delete(http, url, outcome)
        after = _measure(http, url)
        _show(before, most, done, after)


def _carry_out(clip: Path, cut: Path, url: str) -> Outcome:
    wish = Wish(
        file=clip,
        operation="trim",
        params={"start": 2, "end": 7},
        output=cut,
        resume=None,
        delete=False,
    )
    return carry_out(wish, Place(url, None, timeout_seconds=60.0))


def _say(text: str) -> None:
    messages().print(text, markup=False)


def _take_folder() -> Path:
    """Make the demo's folder; one that an interrupted demo left is removed, any other one is not."""
    if FOLDER.exists():
        if not (FOLDER / MARK).is_file():
            msg = f"./{FOLDER} is there and was not made by the demo: move it away"
            raise DemoError(msg)
        shutil.rmtree(FOLDER)
    FOLDER.mkdir()
    (FOLDER / MARK).touch()
    return FOLDER


def _make_clip(target: Path) -> None:
    picture = f"testsrc=size=1280x720:rate=30:duration={CLIP_SECONDS}:decimals=2"
    sound = f"sine=frequency=220:beep_factor=4:duration={CLIP_SECONDS}:sample_rate=48000"
    command = [str(locate_ffmpeg(None).path), "-v", "error", "-nostdin", "-y"]
    command += ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound]
    command += ["-vf", "noise=alls=6:allf=t", "-pix_fmt", "yuv420p"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "22", "-c:a", "aac", str(target)]
    subprocess.run(command, check=True, timeout=120)  # noqa: S603 - a fixed command


@contextmanager
def _running_server(folder: Path) -> Iterator[str]:
    """Run ``tidemill serve`` on a free port of loopback; yields its address once it is ready."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    serve = [sys.executable, "-c", "from app.cli import main; main()", "serve"]
    with log.open("wb") as out:
        # A session of its own: Ctrl+C ends the demo, and the demo ends the server.
        server = subprocess.Popen(  # noqa: S603 - this very program
            serve,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=_environment(folder / "data", port),
            start_new_session=True,
        )
    try:
        _await_ready(server, url, log)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _environment(data: Path, port: int) -> Mapping[str, str]:
    """The environment without anybody's settings: the demo is the same everywhere."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "TIDEMILL_DATA_DIR": str(data),
        "TIDEMILL_PORT": str(port),
        "TIDEMILL_SPENT_INPUTS_INTERVAL_SECONDS": "1",
    }


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_ready(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(SAMPLE_SECONDS)
    last = log.read_text(errors="replace").strip().splitlines()[-5:]
    msg = "the server did not start: " + " / ".join(last)
    raise DemoError(msg)


def _measure(http: httpx.Client, url: str) -> Sizes:
    report = http.get(f"{url}/api/v1/storage").raise_for_status().json()
    sizes = {str(kind["kind"]): int(kind["size_bytes"]) for kind in report["kinds"]}
    return {kind: sizes.get(kind, 0) for kind in KINDS}


@contextmanager
def _watching(url: str) -> Iterator[Sizes]:
    """Yield the most bytes of each kind that are seen while the block runs."""
    most: Sizes = dict.fromkeys(KINDS, 0)
    done = threading.Event()

    def watch() -> None:
        with make_server(url, None).connect() as http:
            while not done.wait(SAMPLE_SECONDS):
                try:
                    for kind, size in _measure(http, url).items():
                        most[kind] = max(most[kind], size)
                except httpx.HTTPError:
                    continue  # One look less; the errand itself will say what is wrong.

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        done.set()
        watcher.join()


def _delete(http: httpx.Client, url: str, outcome: Outcome) -> None:
    for job_id in outcome.job_ids:
        http.delete(f"{url}/api/v1/jobs/{job_id}").raise_for_status()
    http.delete(f"{url}/api/v1/batches/{outcome.batch_id}").raise_for_status()


def _show(before: Sizes, most: Sizes, done: Sizes, after: Sizes) -> None:
    table = Table(title="Bytes on disk", title_justify="left", box=None, header_style="bold")
    table.add_column("kind")
    columns = {"before": before, "at most": most, "job done": done, "deleted": after}
    for name in columns:
        table.add_column(name, justify="right")
    for kind in KINDS:
        table.add_row(kind, *(f"{sizes[kind]:,}" for sizes in columns.values()))
    console = output()
    console.print()
    console.print(table)
    console.print()
    left = sum(after[kind] for kind in KINDS if kind != "database")
    grown = after["database"] - before["database"]
    console.print(
        f"Left of the videos: {left} bytes. The database has {show_bytes(max(grown, 0))} more: it "
        "keeps when and why things were deleted, and its write-ahead log."
    )
    if left:
        msg = "something was left behind"
        raise DemoError(msg)
