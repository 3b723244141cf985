"""The system's clock as the one source of time."""

import time
from datetime import UTC, datetime

from app.services.ports import Clock


class SystemClock(Clock):
    """Wall clock in aware UTC, and the machine's monotonic seconds."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
