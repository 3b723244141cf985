"""Adds up what the processes of one service have counted, for whichever of them is asked."""

import json
from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from app.infrastructure.metrics_board import MetricsBoard

Key = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a sample, and its labels in order."""
Counted = dict[str, dict[Key, float]]
"""Values by family and sample."""
_SUMMED = frozenset({"counter", "histogram"})
NEWEST_COUNTS = frozenset({"tidemill_sweep_last_success_timestamp_seconds"})
"""Gauges that each process sets at moments of its own; all others say the same in each of them."""


class SharedCounts:
    """What this process counted, shown on a board, and what all of them did. Thread-safe enough:
    a sample that moves while it is read is in this scrape or in the next one.

    Whoever had the ``seat`` before counted for the same service: sums never fall when a process is
    replaced, but for what it counted in its last second.
    """

    def __init__(self, board: MetricsBoard, seat: int) -> None:
        self._board = board
        self._seat = seat
        self._before = _parse(board.read(seat))

    def show(self, own: Iterable[Metric]) -> None:
        """Show the others what ``own`` families hold, and what the predecessors' did."""
        total: Counted = {}
        for family in own:
            if _is_shared(family):
                total[family.name] = _values(family)
        _add(total, self._before)
        self._board.show(self._seat, _render(total))

    def add_to(self, own: Iterable[Metric]) -> Iterator[Metric]:
        """Yield ``own`` families with what predecessors and other processes counted added."""
        elsewhere: Counted = {}
        _add(elsewhere, self._before)
        for seat in range(self._board.seats):
            if seat != self._seat:
                _add(elsewhere, _parse(self._board.read(seat)))
        for family in own:
            if family.name in elsewhere:
                total = {family.name: _values(family)}
                _add(total, {family.name: elsewhere[family.name]})
                found = total[family.name].items()
                family.samples = [
                    Sample(name, dict(labels), value) for (name, labels), value in found
                ]
            yield family


class SummedCollector(Collector):
    """All families of a process, with what the others counted."""

    def __init__(self, own: Iterable[Collector], counts: SharedCounts) -> None:
        self._own = own
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        return self._counts.add_to(family for each in self._own for family in each.collect())


def _is_shared(family: Metric) -> bool:
    return family.type in _SUMMED or family.name in NEWEST_COUNTS


def _values(family: Metric) -> dict[Key, float]:
    return {(each.name, tuple(each.labels.items())): each.value for each in family.samples}


def _add(total: Counted, more: Counted) -> None:
    for name, values in more.items():
        known = total.setdefault(name, {})
        for key, value in values.items():
            before = known.get(key, 0.0)
            known[key] = max(before, value) if name in NEWEST_COUNTS else before + value


def _render(counted: Counted) -> bytes:
    told = {
        family: [[name, labels, value] for (name, labels), value in values.items()]
        for family, values in counted.items()
    }
    return json.dumps(told, separators=(",", ":")).encode()


def _parse(note: bytes) -> Counted:
    told = json.loads(note) if note else {}
    return {
        family: {
            (name, tuple((label, of) for label, of in labels)): value
            for name, labels, value in samples
        }
        for family, samples in told.items()
    }
