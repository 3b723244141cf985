"""What processes that serve side by side share: jobs, connections and the sums of their metrics."""

import mmap
import random
from collections.abc import Iterator

import pytest

from app.bootstrap import ALONE, Seat
from app.infrastructure.metrics import PrometheusMetrics
from app.infrastructure.metrics_board import MetricsBoard
from app.infrastructure.metrics_sum import SharedCounts
from app.server.accepting import Loads


@pytest.mark.parametrize("total", [0, 1, 2, 3, 8, 9])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_shares_make_up_the_total_whatever_the_number(total: int, count: int) -> None:
    shares = [Seat(index, count).share_of(total) for index in range(count)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
    assert ALONE.share_of(total) == total


def samples(metrics: PrometheusMetrics) -> dict[str, float]:
    lines = metrics.render().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_any_of_them_tells_the_sums_and_none_falls_when_one_is_replaced() -> None:
    board = MetricsBoard(2)
    one, two = (PrometheusMetrics(SharedCounts(board, seat)) for seat in range(2))
    one.count("upload_created_total", 3)
    one.observe("sweep_duration_seconds", 0.01, sweep="gc_files")
    one.set("sweep_last_success_timestamp_seconds", 100, sweep="gc_files")
    one.set("uploads_open", 7)
    two.count("upload_created_total", 4)
    two.count("http_requests_total", method="GET", status="418")
    two.set("sweep_last_success_timestamp_seconds", 200, sweep="gc_files")
    two.set("uploads_open", 7)
    one.share()
    two.share()
    for each in (one, two, PrometheusMetrics(SharedCounts(board, 0))):
        told = samples(each)
        assert told["tidemill_upload_created_total"] == 7
        assert told['tidemill_sweep_duration_seconds_count{sweep="gc_files"}'] == 1
        assert told['tidemill_sweep_duration_seconds_bucket{le="+Inf",sweep="gc_files"}'] == 1
        assert told['tidemill_http_requests_total{method="GET",status="418"}'] == 1
        last = 'tidemill_sweep_last_success_timestamp_seconds{sweep="gc_files"}'
        assert told[last] == 200
    replaced = PrometheusMetrics(SharedCounts(board, 0))
    replaced.count("upload_created_total")
    replaced.share()
    assert samples(replaced)["tidemill_upload_created_total"] == 8
    assert samples(two)["tidemill_upload_created_total"] == 8
    assert samples(two)["tidemill_uploads_open"] == 7  # of rows: the same everywhere, not summed
    assert samples(two).keys() >= samples(PrometheusMetrics()).keys()


def test_half_a_note_never_counts() -> None:
    board = MetricsBoard(2, seat_bytes=4096)
    assert board.read(0) == b""
    assert board.show(0, b"first")
    assert board.show(0, b"second")
    assert not board.show(0, b"x" * 4096)
    assert board.read(0) == b"second"
    assert board.read(1) == b""
    memory: mmap.mmap = board._memory
    whole = bytes(memory)
    for _ in range(200):  # torn anywhere within the newer of the two halves
        at = (
            random.randrange(0, 2048) if b"second" in whole[:2048] else random.randrange(2048, 4096)
        )
        memory[:] = whole
        memory[at] ^= 0xFF
        assert board.read(0) in {b"first", b"second"}


def test_who_has_more_to_do_gives_way_to_the_living_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[float] = iter([10.0, 10.0, 10.1, 10.2, 10.3, 12.0, 12.0, 12.1])
    monkeypatch.setattr("app.server.accepting.time.monotonic", lambda: next(clock))
    loads = Loads(2)
    loads.say(0, 3)
    loads.say(1, 2)
    assert loads.is_busiest_by(0, 3)
    assert not loads.is_busiest_by(0, 2)
    assert not loads.is_busiest_by(1, 2)
    assert not loads.is_busiest_by(0, 3)  # the other has said nothing for more than a second
    loads.say(1, 0)
    loads.withdraw(1)
    assert not loads.is_busiest_by(0, 3)
