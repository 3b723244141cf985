"""Whether this process is stopping: it then finishes what it has and begins nothing new."""

import asyncio
import time

from app.domain.errors import Draining

RETRY_AFTER_SECONDS = 5
LAST_MOMENT_SECONDS = 0.5
"""What an answer that was held back needs to leave before the drain ends."""


class Drain:
    """Set once, by the first signal, and never taken back. For use on the event loop's thread."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._ends_at = 0.0
        self._limit_at = 0.0

    @property
    def is_begun(self) -> bool:
        return self._begun.is_set()

    def begin(self, seconds: float = 0.0, *, limit_seconds: float = 0.0) -> None:
        """Say that the process stops; a repeat is harmless.

        ``seconds``: how long it is certain to go on answering from now; 0 where nobody knows.
        ``limit_seconds``: how long it waits for answers that are being made.
        """
        if not self.is_begun:
            self._ends_at = time.monotonic() + seconds
            self._limit_at = time.monotonic() + limit_seconds
            self._begun.set()

    async def begun(self) -> None:
        """Wait until the process stops."""
        await self._begun.wait()

    async def until_last_moment(self) -> None:
        """Wait until shortly before the process answers no more; at once where nobody knows when."""
        await asyncio.sleep(max(0.0, self._ends_at - LAST_MOMENT_SECONDS - time.monotonic()))

    async def until_limit(self, margin_seconds: float) -> None:
        """Wait until so long before the end of what an answer that is being made may take."""
        await asyncio.sleep(max(0.0, self._limit_at - margin_seconds - time.monotonic()))

    def refuse_new(self) -> None:
        """Raise ``Draining`` once the process stops; for whatever would begin something."""
        if self.is_begun:
            raise Draining(
                "The service is stopping and begins nothing new; ask again in a moment.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
