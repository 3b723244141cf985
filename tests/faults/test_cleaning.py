"""However a synchronous render ends, everything that it brought and made is gone at once.

Every endpoint, every ending: the long form is the whole matrix, and with ``CLEANING_TABLE`` set to a
path it writes there what it saw (docs/cleaning.md).
"""

import base64
import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import av
import pytest

from tests.e2e.harness import wait_for
from tests.fakes.false_ffmpeg import Ending
from tests.fakes.render_bench import CLIP_BYTES, Before, RenderBench
from tests.fakes.render_calls import Answered, Caller
from tests.fakes.render_endings import (
    ALL_MOMENTS,
    BAD_INPUT,
    FAILED,
    FEW,
    LIMITS,
    TIMED_OUT,
    TOO_LONG,
    WAYS,
    Way,
    spoilt,
)
from tests.fakes.render_rows import ENDPOINTS, EndpointRow

TABLE = "CLEANING_TABLE"
ASPECTS = ("16:9", "9:16", "1:1")
TOLD = (FAILED, TIMED_OUT)
EVERY_WAY = "trim"
"""The endpoint that is put through every ending each time; the others are with the long form."""
FEWEST_PICTURES = 8
REFUSALS = {400, 404, 413, 415, 422}


@dataclass
class Table:
    """What was seen: for each endpoint and way, how long the cleaning took at most, in seconds."""

    seen: dict[tuple[str, str], float] = field(default_factory=dict)

    def note(self, endpoint: str, way: str, seconds: float) -> None:
        self.seen[endpoint, way] = max(seconds, self.seen.get((endpoint, way), 0.0))
        if os.environ.get(TABLE):  # each time: a long run may be broken off
            Path(os.environ[TABLE]).write_text(self.text())

    def text(self) -> str:
        names = [name for name in ENDPOINTS if any(name == seen for seen, _ in self.seen)]
        lines = ["| ending | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for way in WAYS:
            cells = [self.seen.get((name, way)) for name in names]
            told = ["-" if cell is None else f"{cell:.2f}" for cell in cells]
            lines.append(f"| {way} | " + " | ".join(told) + " |")
        return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def table() -> Table:
    return Table()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RenderBench]:
    """One data folder for all: each test begins and ends with nothing of a request in it."""
    with closing(RenderBench(tmp_path_factory.mktemp("cleaning"))) as bench:
        yield bench


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RenderBench]:
    """The same with little patience, for what takes too long."""
    with closing(RenderBench(tmp_path_factory.mktemp("hurried"), LIMITS)) as bench:
        yield bench


@pytest.fixture
def bench_of(request: pytest.FixtureRequest) -> Callable[[Way], RenderBench]:
    """Which of them a way to end needs; the other is not started for it."""
    return lambda way: request.getfixturevalue("hurried" if way.is_late else "bench")


def short() -> list[tuple[str, str]]:
    """A few endings of each endpoint and all of one: its service ends only twice, and one that takes
    too long is among the four at once.
    """
    few = [(name, way) for name in ENDPOINTS if name != EVERY_WAY for way in FEW]
    ways = {name for name, way in WAYS.items() if not way.restarts} | set(ALL_MOMENTS)
    ways -= {TOO_LONG}
    return few + [(EVERY_WAY, way) for way in sorted(ways)]


def all_of_it() -> list[tuple[str, str, str]]:
    return [
        (row.name, way, aspect)
        for row in ENDPOINTS.values()
        for way in WAYS
        for aspect in (ASPECTS if row.has_aspect else ("",))
    ]


@pytest.mark.parametrize(("name", "way"), short())
def test_nothing_of_a_render_stays(
    name: str, way: str, bench_of: Callable[[Way], RenderBench], table: Table
) -> None:
    found = {**WAYS, **ALL_MOMENTS}[way]
    play(ENDPOINTS[name], found, bench_of(found), table)


@pytest.mark.long
@pytest.mark.parametrize(("name", "way", "aspect"), all_of_it())
def test_nothing_of_any_render_stays(
    name: str,
    way: str,
    aspect: str,
    bench_of: Callable[[Way], RenderBench],
    table: Table,
) -> None:
    fields = {"aspect": aspect} if aspect else {}
    play(ENDPOINTS[name], WAYS[way], bench_of(WAYS[way]), table, **fields)


def test_every_endpoint_that_renders_has_a_row(bench: RenderBench) -> None:
    bench.run()
    with bench.client() as api:
        paths = api.get("/openapi.json").json()["paths"]
    renders = {
        path
        for path, calls in paths.items()
        if "video/mp4"
        in calls.get("post", {}).get("responses", {}).get("200", {}).get("content", {})
    }
    assert renders == {row.path for row in ENDPOINTS.values()}


def test_four_renders_at_once_each_end_in_their_own_way_and_clean_up_after_themselves_alone(
    hurried: RenderBench,
) -> None:
    row, bench = ENDPOINTS[EVERY_WAY], hurried
    bench.run()
    wishes = [
        bench.request(row, ending)
        for ending in (Ending.BIG, Ending.SLEEPS, Ending.FAILS, Ending.SLEEPS)
    ]
    before = bench.look()
    with ExitStack() as stack:
        callers = [stack.enter_context(Caller(bench.server.port, each)) for each in wishes]
        delivered, gone, failing, late = callers
        threads = ThreadPoolExecutor(4)
        stack.callback(threads.shutdown)
        for sent in [threads.submit(each.send) for each in (late, gone, failing, delivered)]:
            sent.result()
        answers = [threads.submit(each.answer) for each in (delivered, failing, late)]
        wait_for(lambda: len(bench.endless_parts()) == 2, "two that run for ever", 30)
        gone.hang_up()
        whole, failed = answers[0].result(), answers[1].result()
        wait_for(lambda: len(bench.parts()) == 1, "the end of all but one", 5)
        assert not answers[2].done(), "the late one ended with others"
        timed_out = answers[2].result()
        bench.assert_clean(before)
    assert whole is not None
    assert_is_whole(whole, row)
    assert_problem(failed, 500, "render_failed")
    assert_problem(timed_out, 504, "timeout")
    told = Counter(event["event"] for event in bench.events_since(before, *TOLD))
    assert told == {FAILED: 1, TIMED_OUT: 1}
    claimed = {event["job_id"] for event in bench.events_since(before, "job.claimed")}
    assert len(claimed) == 4
    assert claimed <= bench.cleaned_since(before)


def play(row: EndpointRow, way: Way, bench: RenderBench, table: Table, **fields: str) -> None:
    """Put one endpoint through one ending and look at everything."""
    bench.run()
    is_bad = way.name == BAD_INPUT
    request = spoilt(bench, row) if is_bad else bench.request(row, way.ending, **fields)
    before = bench.look()
    played = way.play(way, bench, request, before)
    seconds = bench.assert_clean(before, since=played.over_at)
    assert_answered(way, played.answer, row)
    assert_told(bench, row, way, before)
    table.note(row.name, way.name, seconds if played.seconds is None else played.seconds)


def assert_answered(way: Way, answer: Answered | None, row: EndpointRow) -> None:
    """Check what the client was told, where it was still there."""
    if way.status == 200:
        assert answer is not None
        assert_is_whole(answer, row)
    elif way.status is not None:
        assert_problem(answer, way.status, way.code)
    elif way.name == BAD_INPUT:
        assert answer is not None
        assert answer.status in REFUSALS, answer
        assert answer.problem()["detail"]
    elif answer is not None and answer.status != 200:
        assert answer.status == 503, answer


def assert_problem(answer: Answered | None, status: int, code: str) -> None:
    assert answer is not None
    assert answer.status == status, answer
    assert answer.problem()["code"] == code


def assert_is_whole(answer: Answered, row: EndpointRow) -> None:
    """Check that every byte came and that they are the film."""
    assert answer.status == 200, answer.body[:2000]
    assert answer.headers["content-type"] == "video/mp4"
    assert len(answer.body) == int(answer.headers["content-length"])
    if "repr-digest" in answer.headers:
        digest = base64.b64encode(hashlib.sha256(answer.body).digest()).decode()
        assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    with av.open(io.BytesIO(answer.body), "r") as film:
        times = [frame.time for frame in film.decode(video=0)]
    assert len(times) >= FEWEST_PICTURES
    if row.seconds is not None:
        assert times[-1] - times[0] == pytest.approx(row.seconds, abs=0.15)


def assert_told(bench: RenderBench, row: EndpointRow, way: Way, before: Before) -> None:
    """Check the log and the counters: who failed, whose scratch went."""
    told = [event["event"] for event in bench.events_since(before, *TOLD)]
    assert told == ([way.event] if way.event else [])
    for event in bench.events_since(before, *TOLD):
        assert event["job_id"]
        assert event["operation"]
        brought = 0 if row.is_by_id else len(row.files) * CLIP_BYTES
        assert event["removed"] >= len(row.files)
        assert event["bytes_freed"] >= brought
    claimed = {event["job_id"] for event in bench.events_since(before, "job.claimed")}
    assert bool(claimed) == way.renders
    wait_for(lambda: claimed <= bench.cleaned_since(before), "the log of what went")
    removed = bench.events_since(before, "scratch.removed")
    assert bench.events_since(before, "scratch.remove_failed") == []
    assert all(isinstance(event["bytes_freed"], int) for event in removed)
    counts = bench.counts()
    earlier = {} if way.restarts else before.counts
    grown = {name: value - earlier.get(name, 0) for name, value in counts.items()}
    if not way.restarts:
        assert grown["scratch_removed_total"] == len(removed)
    assert grown["scratch_remove_failed_total"] == 0
    assert counts["scratch_oldest_age_seconds"] == 0
    assert counts["cleanup_pending"] == 0
    assert counts["jobs_active"] == 0
