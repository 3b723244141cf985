"""The hostile files at a running server, traced with all its children: lures with baits, and bombs."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from app.api.error_guide import GUIDE
from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import await_job, upload
from tests.fakes.bombs import Bomb, Foundry
from tests.fakes.hostile import LURES, Bait, Lure
from tests.fakes.hostile_pictures import hostile_pictures
from tests.fakes.lure_runs import WATCHED, loopback

PAGE = Path(__file__).parents[2] / "docs" / "hostile-files.md"
MEMORY = 700 * 2**20
"""Of all children together."""
SECONDS = 20.0
"""For one file; what takes longer beside others has to do better by itself."""
TRIM = {"start": 0.1, "end": 0.8}
AT_ONCE = 3


@pytest.fixture(scope="module")
def foundry(tmp_path_factory: pytest.TempPathFactory) -> Foundry:
    return Foundry(tmp_path_factory.mktemp("foundry"), Path(get_ffmpeg_exe()))


@dataclass
class Watched:
    """A server whose every opened path is in ``trace``, and the most memory that its children had."""

    server: Server
    trace: Path
    most_memory: int = 0

    def watch(self, stop: threading.Event) -> None:
        """Add up the children's memory until told to stop."""
        while not stop.wait(0.1):
            self.most_memory = max(self.most_memory, self._memory())

    def _memory(self) -> int:
        total = 0
        try:
            children = psutil.Process(self.server.pid).children(recursive=True)
        except psutil.Error:
            return 0
        for child in children:
            with suppress(psutil.Error):
                # What is shared among them, such as the interpreter, counts once for each.
                total += child.memory_info().rss
        return total

    def opened(self) -> str:
        """Stop the server and return what all its processes opened."""
        pid = self.server.pid
        self.server.stop()
        # The tracer is not the server's parent and may lag behind.
        ended = re.compile(rf"^{pid} +\+\+\+ ", re.MULTILINE)
        wait_for(lambda: ended.search(self.trace.read_text(errors="replace")), "the trace's end")
        return self.trace.read_text(errors="replace")


@contextmanager
def watched(make_server: Callable[..., Server], folder: Path, sandbox: str) -> Iterator[Watched]:
    """Start a traced server and watch it for the length of the block."""
    trace = folder / "trace"
    tracing = ("strace", "-D", "-f", "-q", "-s", "300", "--seccomp-bpf", "-o", str(trace))
    settings = {"SANDBOX": sandbox, "WORKERS": 2}
    server = make_server(settings, wrapper=(*tracing, "-e", WATCHED)).start()
    seen, stop = Watched(server, trace), threading.Event()
    watcher = threading.Thread(target=seen.watch, args=(stop,))
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


def ask(api: httpx.Client, content: bytes, filename: str) -> str:
    """Upload a file and have it trimmed; return the code of its end, "" for a job that completes."""
    finished = upload(api, content, filename=filename, filetype="video/mp4")
    body: dict[str, Any] = {
        "operation": "trim",
        "inputs": [{"upload_id": finished.headers["tidemill-upload"], "role": "clip"}],
        "params": TRIM,
    }
    asked = api.post("/api/v1/jobs", json=body)
    assert asked.status_code in {202, 422}, asked.text
    if asked.status_code == 422:
        return str(asked.json()["code"])
    job = await_job(api, asked.json()["id"])
    assert job["status"] in {"completed", "failed"}, job
    return "" if job["status"] == "completed" else str(job["error"]["code"])


def ask_all(server: Server, files: Sequence[tuple[bytes, str]]) -> list[tuple[str, float]]:
    """Ask for each, some at once; return what became of each and how long it took."""

    def timed(file: tuple[bytes, str]) -> tuple[str, float]:
        began = time.monotonic()
        return ask(api, *file), time.monotonic() - began

    with server.client() as api, ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(timed, files))


def lay_baits(server: Server, clip: bytes, port: int, lures: Sequence[Lure]) -> list[Bait]:
    """Put each bait where another tenant's upload lies, beside the files themselves."""
    baits = [lure.bait(server.data / "uploads", port) for lure in lures]
    for bait in baits:
        bait.path.write_bytes(clip)
    return baits


def has_work(server: Server) -> list[str]:
    return [name for name in server.leftovers() if name.startswith("work/")]


def test_no_file_has_the_service_open_its_bait(
    make_server: Callable[..., Server], tmp_path: Path, foundry: Foundry
) -> None:
    lure_all(make_server, tmp_path, foundry.clip, "off")


@pytest.mark.long
def test_no_file_has_the_service_in_its_sandbox_open_its_bait(
    make_server: Callable[..., Server], tmp_path: Path, foundry: Foundry
) -> None:
    lure_all(make_server, tmp_path, foundry.clip, "auto")


def lure_all(make_server: Callable[..., Server], folder: Path, clip: bytes, sandbox: str) -> None:
    """Have each trimmed, and find that no bait was taken."""
    with loopback(clip) as page, watched(make_server, folder, sandbox) as seen:
        server = seen.server
        baits = lay_baits(server, clip, page.server_port, LURES)
        files = [
            (lure.write(bait, clip), lure.filename(bait) if lure.filename else "clip.mp4")
            for lure, bait in zip(LURES, baits, strict=True)
        ]
        answers = ask_all(server, files)
        for lure, (code, took) in zip(LURES, answers, strict=True):
            assert code in (lure.codes), (lure.title, code)
            assert took < SECONDS, lure.title
        with server.client() as api:
            assert api.get("/readyz").is_success
        wait_for(lambda: not has_work(server), "an empty work folder")
        trace = seen.opened()
        assert trace.count("/uploads/") > len(LURES), "the trace has what was opened"
        assert [b.name for b in baits if b.taken(trace, page.asked)] == []
        assert page.connections == 0
        assert f"htons({page.server_port})" not in trace
        assert '"/etc/hostname"' not in trace
        assert seen.most_memory < MEMORY


def test_no_bomb_takes_more_than_its_share_and_each_is_named(
    make_server: Callable[..., Server], tmp_path: Path, foundry: Foundry
) -> None:
    blow_up(make_server, tmp_path, foundry.some())


def test_every_hostile_file_has_its_row_on_the_page(foundry: Foundry) -> None:
    pictures = hostile_pictures(Bait(Path("/"), "x", 1, "x"))
    titles = [lure.title for lure in LURES] + [picture.title for picture in pictures]
    titles += [bomb.title for bomb in (*foundry.promises(), *foundry.headers())]
    assert len(titles) == len(set(titles))
    rows = [
        line.split("|")[1].strip() for line in PAGE.read_text().splitlines() if line[:2] == "| "
    ]
    heads = {"File", "Picture"}
    assert sorted(set(rows) - heads) == sorted(titles)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_no_ruin_of_a_film_takes_more_than_its_share(
    make_server: Callable[..., Server], tmp_path: Path, foundry: Foundry
) -> None:
    blow_up(make_server, tmp_path, foundry.all())


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_five_hundred_spoilt_files_are_films_or_have_a_code(
    make_server: Callable[..., Server], tmp_path: Path, foundry: Foundry
) -> None:
    seeds = range(1000, 1500)
    print(f"seeds {seeds.start} to {seeds.stop - 1}")  # noqa: T201 - to try one again
    blow_up(make_server, tmp_path, list(foundry.spoilt(seeds)))


def blow_up(make_server: Callable[..., Server], folder: Path, bombs: Sequence[Bomb]) -> None:
    """Have each trimmed, and check what became of them and of the server."""
    with watched(make_server, folder, "off") as seen:
        server = seen.server
        answers = ask_all(server, [(bomb.content, "clip.mp4") for bomb in bombs])
        slow = [bomb for bomb, (_, took) in zip(bombs, answers, strict=True) if took > SECONDS]
        for bomb in slow:
            ((_, took),) = ask_all(server, [(bomb.content, "clip.mp4")])
            assert took < SECONDS, bomb.title
        codes = [code for code, _ in answers]
        wrong = [
            (bomb.title, code)
            for bomb, code in zip(bombs, codes, strict=True)
            if code not in bomb.codes or (code and code not in GUIDE)
        ]
        assert wrong == []
        assert "internal_error" not in codes
        with server.client() as api:
            assert api.get("/readyz").is_success
        wait_for(lambda: not has_work(server), "an empty work folder")
        assert seen.most_memory < MEMORY, f"{seen.most_memory / 2**20:.0f} MiB"
        trace = seen.opened()
        assert trace.count("/uploads/") > len(bombs)
        assert "/etc/hostname" not in trace
