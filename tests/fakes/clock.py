"""A clock that stands still until it is told otherwise."""

from datetime import UTC, datetime, timedelta

from app.services.ports import Clock

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


class FakeClock(Clock):
    """Wall clock and monotonic seconds move together with ``advance``; ``set`` moves the first only."""

    def __init__(self, now: datetime = NOON) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, by: timedelta | float) -> datetime:
        """Let time pass (seconds or a timedelta), and return the new time."""
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        self._now += step
        self._monotonic += step.total_seconds()
        return self._now

    def set(self, now: datetime) -> None:
        """Make the wall clock jump, as an administrator or NTP would."""
        self._now = now
