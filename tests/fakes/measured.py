"""Times that must be short on any machine that does not happen to pause just then."""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

RUNS = 3


def assert_all_within(seconds: float, scenario: Callable[[], Sequence[float]]) -> None:
    """Play a scenario and check every time that it took; play it anew, three times at the most, where
    the machine was too busy. What else the scenario asserts has to hold each time.
    """
    runs: list[Sequence[float]] = []
    while _goes_on(runs, seconds):
        runs.append(scenario())


async def assert_soon_within(
    seconds: float, scenario: Callable[[], Awaitable[Sequence[float]]]
) -> None:
    """Do the same with a scenario that is awaited."""
    runs: list[Sequence[float]] = []
    while _goes_on(runs, seconds):
        runs.append(await scenario())


def _goes_on(runs: Sequence[Sequence[float]], seconds: float) -> bool:
    """Whether another run is due: none was quick enough yet. Fails after the last."""
    if runs:
        assert runs[-1], "nothing was measured"
        if max(runs[-1]) < seconds:
            return False
    assert len(runs) < RUNS, f"took longer than {seconds} s in each run: {runs}"
    return True


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Add how long the block took, in seconds."""
    began = time.monotonic()
    yield
    into.append(time.monotonic() - began)
