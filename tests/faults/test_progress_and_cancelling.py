"""Every operation tells how far it is, and stops within seconds of a wish, whatever its children do."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from app.operations.registry import default_registry
from tests.e2e import wire
from tests.e2e.harness import wait_for
from tests.fakes import moodle_logs
from tests.fakes.false_ffmpeg import Ending
from tests.fakes.render_bench import RenderBench
from tests.fakes.render_rows import OPERATIONS, OperationRow

CANCEL_SECONDS = 3.0
LATEST_SECONDS = 15.0
FIRST_WORD_SECONDS = 1.0
LOG_ROWS = 40_000
NO_WORDS: Any = None
NAMES = [operation.name for operation in default_registry(NO_WORDS).all()]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RenderBench]:
    """A server whose FFmpeg can be told to run for ever."""
    with closing(RenderBench(tmp_path_factory.mktemp("cancelling"))) as bench:
        bench.run()
        yield bench


@pytest.fixture(scope="module")
def log() -> bytes:
    """A log that takes a few seconds."""
    return moodle_logs.as_csv(moodle_logs.many_rows(LOG_ROWS))


def test_every_operation_has_a_row() -> None:
    assert set(NAMES) <= set(OPERATIONS), "an operation without a row in tests/fakes/render_rows.py"


def begin(api: httpx.Client, bench: RenderBench, row: OperationRow, ending: Ending) -> str:
    """Upload what the operation takes and make its job; returns its id."""
    count = max(row.clips, 1)
    then = {"operation": row.name, "params": dict(row.params)}
    session = wire.open_session(api, expected_files=count, then=then)
    done = None
    for number in range(count):
        done = wire.upload(
            api, bench.marked(ending, number), filename=f"{number}.mp4", session=session
        )
    assert done is not None
    return str(done.headers["tidemill-job"])


def begin_log(api: httpx.Client, row: OperationRow, log: bytes) -> str:
    made = api.post(
        "/api/upload", data=dict(row.params), files={"file": ("log.csv", log, "text/csv")}
    )
    assert made.status_code == 202, made.text
    return str(made.json()["job_id"])


@dataclass
class Word:
    """What a client was told of a job, and when by the monotonic clock."""

    at: float
    job: dict[str, Any]


def follow(api: httpx.Client, job_id: str) -> list[Word]:
    """Read a job's events to their end."""
    with api.stream("GET", f"/api/v1/jobs/{job_id}/events", timeout=90) as stream:
        return [
            Word(time.monotonic(), json.loads(line[5:]))
            for line in stream.iter_lines()
            if line.startswith("data:")
        ]


@pytest.mark.parametrize("name", NAMES)
def test_its_percent_only_grows_and_names_its_stage_from_the_first_second_on(
    name: str, bench: RenderBench, log: bytes
) -> None:
    row = OPERATIONS[name]

    def first_word() -> float:
        with bench.client() as api:
            job_id = begin(api, bench, row, Ending.REAL) if row.clips else begin_log(api, row, log)
            return check(follow(api, job_id))

    assert_soon(first_word, FIRST_WORD_SECONDS)


def assert_soon(try_it: Callable[[], float], limit_seconds: float) -> None:
    """Check what ``try_it`` took, in seconds. A busy machine may be late once, and not three times."""
    taken = []
    for _ in range(3):
        taken.append(try_it())
        if taken[-1] <= limit_seconds:
            return
    msg = f"it took {taken} s, and may take {limit_seconds} s"
    raise AssertionError(msg)


def check(words: list[Word]) -> float:
    """Check what a job's client was told; returns seconds from its start to the first stage."""
    assert words[-1].job["status"] == "completed", words[-1]
    percents = [word.job["progress"] for word in words]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    running = [word for word in words if word.job["status"] == "processing"]
    assert all(word.job["progress"] < 100 for word in running)
    assert all(word.job["outputs"] for word in words if word.job["progress"] == 100)
    named = [word for word in words if word.job["stage"]]
    began = running[0].at if running else words[0].at
    return (named[0].at if named else words[-1].at) - began


@pytest.mark.parametrize("name", NAMES)
def test_a_cancel_in_its_longest_step_stops_every_process_and_leaves_nothing(
    name: str, bench: RenderBench, log: bytes
) -> None:
    row = OPERATIONS[name]

    def cancelling() -> float:
        before = bench.look()
        with bench.client() as api:
            if row.clips:
                job_id = begin(api, bench, row, Ending.SLEEPS)
                bench.wait_for_render()
            else:
                job_id = begin_log(api, row, log)
                wait_for(lambda: job(api, job_id)["progress"] > 0, "the log's work")
            taken = cancel(api, bench, job_id)
            # What a client brought by itself is its own to delete: then nothing at all is left.
            batch_id = job(api, job_id)["batch_id"]
            assert api.delete(f"/api/v1/batches/{batch_id}").status_code == 204
        bench.assert_clean(before)
        (cancelled,) = bench.events_since(before, "job.cancelled")
        assert cancelled["job_id"] == job_id
        assert job_id in bench.cleaned_since(before)
        return taken

    assert_soon(cancelling, CANCEL_SECONDS)


def test_what_ignores_the_wish_to_stop_is_killed_with_all_it_left_behind(
    bench: RenderBench,
) -> None:
    cancel_what_does_not_listen(bench)


def test_it_is_so_in_the_sandbox_too(tmp_path: Path) -> None:
    with closing(RenderBench(tmp_path, sandboxed=True)) as shut_in:
        shut_in.run()
        cancel_what_does_not_listen(shut_in)


def cancel_what_does_not_listen(bench: RenderBench) -> None:
    """Cancel a render that ignores SIGTERM, and one that also left a child in another session."""

    def cancelling(ending: Ending) -> float:
        with bench.client() as api:
            job_id = begin(api, bench, OPERATIONS["trim"], ending)
            bench.wait_for_render()
            return cancel(api, bench, job_id)

    for ending in (Ending.DEAF, Ending.LEAVES_A_CHILD):
        assert_soon(partial(cancelling, ending), CANCEL_SECONDS)


def job(api: httpx.Client, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/api/v1/jobs/{job_id}").json()
    return found


def cancel(api: httpx.Client, bench: RenderBench, job_id: str) -> float:
    """Cancel a running job and see it gone; returns how many seconds its processes lived on."""
    running = bench.children()
    assert running, "no process runs"
    began = time.monotonic()
    assert api.post(f"/api/v1/jobs/{job_id}/cancel").is_success
    _, alive = psutil.wait_procs(running, timeout=LATEST_SECONDS)
    taken = time.monotonic() - began
    assert alive == []
    assert bench.encoders() == []
    ended = wire.await_job(api, job_id, LATEST_SECONDS)
    assert ended["status"] == "cancelled"
    assert ended["outputs"] == []
    work = bench.server.data / "work"
    wait_for(lambda: not any(work.glob("*/*")), "the end of its folder")
    return taken
