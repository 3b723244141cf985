"""The system's clock as the one source of time."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from app.services.ports import Clock


class SystemClock(Clock):
    """Wall clock in aware UTC, and the machine's monotonic seconds."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def wall_seconds() -> float:
    """Seconds since the epoch, by the clock that people may set."""
    return time.time()


def boot_seconds() -> float:
    """Seconds since the machine was booted, those of its sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockDrift:
    """How far the wall clock has gone apart from the machine's own since this was made."""

    def __init__(
        self, wall: Callable[[], float] | None = None, boot: Callable[[], float] | None = None
    ) -> None:
        self._wall = wall or wall_seconds
        self._boot = boot or boot_seconds
        self._at_start = self._wall() - self._boot()

    def seconds(self) -> float:
        """Seconds by which the wall clock was moved: on when positive, back when negative."""
        return self._wall() - self._boot() - self._at_start
