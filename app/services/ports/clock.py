"""The one source of time, and waiting."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The one source of time. ``now`` is aware UTC; ``monotonic`` counts seconds."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


Sleep = Callable[[float], Awaitable[None]]
