"""Whether this process is stopping: it then finishes what it has and begins nothing new."""

import asyncio

from app.domain.errors import Draining

RETRY_AFTER_SECONDS = 5


class Drain:
    """Set once, by the first signal, and never taken back. For use on the event loop's thread."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()

    @property
    def is_begun(self) -> bool:
        return self._begun.is_set()

    def begin(self) -> None:
        """Say that the process stops; a repeat is harmless."""
        self._begun.set()

    async def begun(self) -> None:
        """Wait until the process stops."""
        await self._begun.wait()

    def refuse_new(self) -> None:
        """Raise ``Draining`` once the process stops; for whatever would begin something."""
        if self.is_begun:
            raise Draining(
                "The service is stopping and begins nothing new; ask again in a moment.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
