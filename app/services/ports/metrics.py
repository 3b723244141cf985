"""Counting what happens."""

from typing import Protocol


class Metrics(Protocol):
    """Counters, gauges and histograms by their documented name without the ``tidemill_`` prefix."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...

    def set(self, name: str, value: float, **labels: str) -> None: ...
