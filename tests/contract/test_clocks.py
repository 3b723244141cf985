"""The port Clock, on the system's clock and on the one that tests set."""

from datetime import timedelta

import pytest

from app.infrastructure.clock import SystemClock
from app.services.ports import Clock
from tests.fakes.clock import NOON, FakeClock


@pytest.fixture(params=[SystemClock, FakeClock])
def any_clock(request: pytest.FixtureRequest) -> Clock:
    clock: Clock = request.param()
    return clock


def test_now_is_aware_utc(any_clock: Clock) -> None:
    assert any_clock.now().utcoffset() == timedelta()


def test_monotonic_never_goes_back(any_clock: Clock) -> None:
    readings = [any_clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)


def test_a_fake_clock_moves_only_when_told(clock: FakeClock) -> None:
    before = clock.monotonic()
    assert clock.now() == NOON
    assert clock.advance(90) == NOON + timedelta(seconds=90)
    assert clock.advance(timedelta(hours=1)) == NOON + timedelta(hours=1, seconds=90)
    assert clock.monotonic() - before == 3690
    clock.set(NOON)
    assert clock.now() == NOON
    assert clock.monotonic() - before == 3690
