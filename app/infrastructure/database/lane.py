"""A lane: a few threads with a connection each, on which whole transactions run."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Engine

from app.domain.errors import DatabaseBusy, NotReady
from app.infrastructure.database.faults import VENDOR_ERRORS, translate
from app.services.ports import Clock

T = TypeVar("T")

_SLOW_SECONDS = 1.0

_log = structlog.get_logger()


class Lane:
    """Runs functions of a connection, at most ``width`` at once, the others waiting in order."""

    def __init__(
        self, name: str, engine: Engine, *, width: int, wait_seconds: float, clock: Clock
    ) -> None:
        self._name = name
        self._engine = engine
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._threads = ThreadPoolExecutor(width, thread_name_prefix=f"tidemill-{name}")
        # Idle connections, the warmest last. Appending and popping are atomic.
        self._idle: list[Connection] = []

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction of its own, and return its result once that is committed.

        Raises DatabaseBusy when its turn does not come within ``wait_seconds``; then it never runs.
        Once begun it runs to its end: a cancelled caller waits for that end (a transaction is short)
        before CancelledError goes on, so that nothing of a call outlives it. A second cancellation
        goes through at once, and even then the transaction ends whole.
        """
        return await self._submit(lambda: self._transact(work))

    async def run_outside(self, work: Callable[[Connection], T]) -> T:
        """Like ``run``, but ``work`` gets a connection on which no transaction is open."""
        return await self._submit(lambda: self._with_connection(work))

    async def close(self) -> None:
        """Let what was asked for end, then end the threads and the connections."""
        await asyncio.to_thread(self._threads.shutdown, wait=True)
        while self._idle:
            self._idle.pop().close()
        self._engine.dispose()

    async def _submit(self, call: Callable[[], T]) -> T:
        try:
            future = self._threads.submit(call)
        except RuntimeError as error:
            raise NotReady("The database is closed") from error
        waiter = asyncio.wrap_future(future)
        try:
            await self._wait_for(future, waiter)
        except asyncio.CancelledError:
            waiter.add_done_callback(_forget)
            if not future.cancel():
                await asyncio.wait((waiter,))
            raise
        return waiter.result()

    async def _wait_for(self, future: Future[T], waiter: asyncio.Future[T]) -> None:
        done, _ = await asyncio.wait((waiter,), timeout=self._wait_seconds)
        if done:
            return
        if future.cancel():
            raise DatabaseBusy(retry_after_seconds=1)
        # It has begun: only its end can tell what became of it.
        await asyncio.wait((waiter,))

    def _transact(self, work: Callable[[Connection], T]) -> T:
        def in_transaction(connection: Connection) -> T:
            with connection.begin():
                return work(connection)

        begun = self._clock.monotonic()
        result = self._with_connection(in_transaction)
        seconds = self._clock.monotonic() - begun
        if seconds > _SLOW_SECONDS:
            _log.warning("transaction.slow", lane=self._name, seconds=round(seconds, 3))
        return result

    def _with_connection(self, work: Callable[[Connection], T]) -> T:
        connection = self._connection()
        try:
            result = work(connection)
        except VENDOR_ERRORS as error:
            # Whatever state the vendor's error left it in: this connection is not used again.
            _discard(connection)
            raise translate(error) from error
        except BaseException:
            self._idle.append(connection)
            raise
        self._idle.append(connection)
        return result

    def _connection(self) -> Connection:
        with suppress(IndexError):  # asking first whether there is one would race with the others
            return self._idle.pop()
        try:
            return self._engine.connect()
        except VENDOR_ERRORS as error:
            raise translate(error) from error


def _discard(connection: Connection) -> None:
    connection.invalidate()
    connection.close()


def _forget(waiter: asyncio.Future[T]) -> None:
    """Take note of an outcome that nobody waits for, so that asyncio does not complain."""
    if not waiter.cancelled():
        waiter.exception()
