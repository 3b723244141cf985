"""The database: one writer thread, a few reader threads, whole transactions as functions."""

from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy import func, select
from sqlalchemy.engine import URL

from app.infrastructure.database.connections import open_links
from app.infrastructure.database.lane import Lane
from app.infrastructure.database.link import Link
from app.infrastructure.database.near_looks import NearLooks
from app.infrastructure.database.statements import Statement
from app.infrastructure.database.tables import instance
from app.infrastructure.database.transaction import SqlTransaction
from app.infrastructure.database.urls import is_sqlite, parse_url
from app.services.ports import Clock, Database, Transaction

T = TypeVar("T")

READERS = 3
BUSY_SECONDS = 5.0
_WAIT_FACTOR = 3
"""How many of those who wait for a lock may be waited for, before a caller gives up its turn."""

_PAGES_PER_STEP = 2000
"""Of 4 KiB: freed in less than a tenth of a second, for which everybody else who writes waits."""

_CHECK = Statement(select(func.count()).select_from(instance))

_log = structlog.get_logger()


class SqlDatabase(Database):
    """SQLite or Postgres, already migrated.

    A cancelled ``write`` either never began or runs to its end, committed or rolled back, before
    the cancellation goes on. A ``write`` that has returned is on the disk (``synchronous=FULL``
    unless opened otherwise; Postgres's ``synchronous_commit`` is the server's business). One that
    raised has changed nothing, but for a link to Postgres that broke during the commit itself: then
    DatabaseBusy may hide a success. Statements take milliseconds, so three readers do; there is one
    writer anyway.
    """

    def __init__(
        self, url: URL, *, clock: Clock, readers: int, busy_seconds: float, durable: bool
    ) -> None:
        self._is_sqlite = is_sqlite(url)
        wait_seconds = busy_seconds * _WAIT_FACTOR
        self._writer = Lane(
            "writer",
            open_links(url, writer=True, busy_seconds=busy_seconds, durable=durable),
            width=1,
            wait_seconds=wait_seconds,
            clock=clock,
        )
        self._readers = Lane(
            "reader",
            open_links(url, writer=False, busy_seconds=busy_seconds),
            width=readers,
            wait_seconds=wait_seconds,
            clock=clock,
        )
        self._looks = (
            NearLooks(self._readers, open_links(url, writer=False, busy_seconds=0), clock)
            if self._is_sqlite
            else None
        )

    @classmethod
    def open(
        cls,
        url: str,
        *,
        clock: Clock,
        readers: int = READERS,
        busy_seconds: float = BUSY_SECONDS,
        durable: bool = True,
    ) -> "SqlDatabase":
        """Return the database at ``url``. Nothing is connected before its first use.

        Not ``durable``: a crash of the machine may cost the last commits of a SQLite file, though
        never its order; a crash of the process costs none.

        Raises ValueError for an address that is not understood, or of a database in memory, which
        its connections could not share.
        """
        parsed = parse_url(url)
        if is_sqlite(parsed) and parsed.database in {None, "", ":memory:"}:
            msg = "a database in memory cannot be shared by threads: name a file"
            raise ValueError(msg)
        return cls(parsed, clock=clock, readers=readers, busy_seconds=busy_seconds, durable=durable)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return await self._writer.run(lambda link: work(SqlTransaction(link)))

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await self._readers.run(lambda link: work(SqlTransaction(link)))

    async def look(self, work: Callable[[Transaction], T]) -> T:
        if self._looks is None:
            return await self.read(work)
        return await self._looks.run(lambda link: work(SqlTransaction(link)))

    async def check(self) -> None:
        await self._readers.run(lambda link: link.value(_CHECK))

    async def checkpoint(self) -> None:
        """Give free pages back to the file system and empty the write-ahead log (SQLite only).

        In steps, between which others write. Waits for readers within the busy limit; a log that
        cannot be emptied for them stays.
        """
        if not self._is_sqlite:
            return
        left = await self._writer.run_outside(_count_free_pages)
        for _ in range(0, max(left, 1), _PAGES_PER_STEP):
            await self._writer.run_outside(_free_some_pages)
        await self._writer.run_outside(_empty_log)

    async def close(self) -> None:
        """End the threads once what they were given has ended. A repeat is harmless.

        Readers first: the last connection to a SQLite file empties and removes its log.
        """
        await self._readers.close()
        if self._looks is not None:
            self._looks.close()
        await self._writer.close()


def _count_free_pages(link: Link) -> int:
    return int(link.driver.execute("PRAGMA freelist_count").fetchone()[0])


def _free_some_pages(link: Link) -> None:
    # Frees one page per step, and Python's execute() takes one step: only a script goes on.
    link.driver.executescript(f"PRAGMA incremental_vacuum({_PAGES_PER_STEP})")


def _empty_log(link: Link) -> None:
    busy, pages, _done = link.driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        _log.info("checkpoint.postponed", pages=pages)
