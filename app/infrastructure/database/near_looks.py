"""Looks at single rows on the thread of whoever asks, while the database answers at once."""

from collections.abc import Callable
from typing import TypeVar

from app.domain.errors import AppError, DatabaseBusy
from app.infrastructure.database.lane import Lane, Links
from app.infrastructure.database.link import Link
from app.services.ports import Clock

T = TypeVar("T")

QUICK_SECONDS = 0.002
"""A look takes a fiftieth of it; what takes longer has waited for a disk."""

QUICK_LOOKS = 2
"""So many quick looks in a row, and they are near (again)."""


class NearLooks:
    """Reads of a few rows of a SQLite file: without a thread, which costs more than they do.

    A reader of a write-ahead log waits for nobody, and what it reads is mostly in memory. Where it is
    not, one look is slow: those after it go to the readers' threads until these are quick again. The
    links come from ``open_link``, and wait for no lock: what finds one goes to the threads, too.
    """

    def __init__(self, readers: Lane, open_link: Callable[[], Link], clock: Clock) -> None:
        self._readers = readers
        self._links = Links(open_link)
        self._clock = clock
        self._quick_in_a_row = 0
        self._is_opening = False

    @property
    def is_near(self) -> bool:
        """Whether the next look runs on the caller's thread."""
        return self._quick_in_a_row >= QUICK_LOOKS and self._links.has_idle

    async def run(self, work: Callable[[Link], T]) -> T:
        """Run ``work`` on a snapshot. It must not write, and may run again."""
        if self.is_near:
            try:
                return self._links.transact(lambda link: self._timed(work, link))
            except DatabaseBusy:
                self._quick_in_a_row = 0
        result = await self._readers.run(lambda link: self._timed(work, link))
        if self._quick_in_a_row >= QUICK_LOOKS and not self._links.has_idle:
            await self._open()
        return result

    def close(self) -> None:
        self._links.close()

    async def _open(self) -> None:
        if self._is_opening:
            return
        self._is_opening = True
        try:
            # In a thread: opening takes longer than any look.
            await self._readers.run_outside(lambda _: self._links.open_one())
        except AppError:
            pass  # the look was answered, and the next one tries again
        finally:
            self._is_opening = False

    def _timed(self, work: Callable[[Link], T], link: Link) -> T:
        begun = self._clock.monotonic()
        result = work(link)
        is_quick = self._clock.monotonic() - begun <= QUICK_SECONDS
        self._quick_in_a_row = self._quick_in_a_row + 1 if is_quick else 0
        return result
