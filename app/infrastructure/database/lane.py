"""A lane: a few threads with a connection each, on which whole transactions run."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

import structlog

from app.domain.errors import DatabaseBusy, NotReady
from app.infrastructure.database.faults import VENDOR_ERRORS, translate
from app.infrastructure.database.link import Link
from app.services.ports import Clock

T = TypeVar("T")

_SLOW_SECONDS = 1.0
_LOOK_SECONDS = 0.005

_log = structlog.get_logger()


class Links:
    """The connections of a lane that wait to be used again. Any thread may ask."""

    def __init__(self, open_link: Callable[[], Link]) -> None:
        self._open = open_link
        # The warmest last. Appending and popping are atomic.
        self._idle: list[Link] = []

    def transact(self, work: Callable[[Link], T]) -> T:
        """Run ``work`` in a transaction: committed when this returns, undone when it raises."""
        link = self._begun()
        try:
            result = work(link)
            link.commit()
        except VENDOR_ERRORS as error:
            # Whatever state the vendor's error left it in: this connection is not used again.
            link.discard()
            raise translate(error) from error
        except BaseException:
            self._undo(link)
            raise
        self._idle.append(link)
        return result

    def lend(self, work: Callable[[Link], T]) -> T:
        """Run ``work`` on a connection on which no transaction is open."""
        link = self._take()
        try:
            result = work(link)
        except VENDOR_ERRORS as error:
            link.discard()
            raise translate(error) from error
        except BaseException:
            self._idle.append(link)
            raise
        self._idle.append(link)
        return result

    @property
    def has_idle(self) -> bool:
        return bool(self._idle)

    def open_one(self) -> None:
        """Open one to be used later."""
        self._idle.append(self._open_link())

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            self._idle.pop().close()

    def _begun(self) -> Link:
        """Return a link with a transaction on it, and none that died while nobody used it."""
        while True:
            kept = self._kept()
            link = kept or self._open_link()
            try:
                link.begin()
            except VENDOR_ERRORS as error:
                link.discard()
                if kept is not None and getattr(error, "connection_invalidated", False):
                    continue  # nothing was asked of it yet, and of those that are kept there are few
                raise translate(error) from error
            return link

    def _take(self) -> Link:
        return self._kept() or self._open_link()

    def _kept(self) -> Link | None:
        with suppress(IndexError):  # asking first whether there is one would race with the others
            return self._idle.pop()
        return None

    def _open_link(self) -> Link:
        try:
            return self._open()
        except VENDOR_ERRORS as error:
            raise translate(error) from error

    def _undo(self, link: Link) -> None:
        try:
            link.rollback()
        except VENDOR_ERRORS:
            link.discard()  # which undoes it, too
        else:
            self._idle.append(link)


class _Call(Generic[T]):
    """A function on its way through a lane: a task waits for it, a thread runs it."""

    __slots__ = ("_error", "_has_ended", "_loop", "_result", "_turn", "_waiter", "_work")

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        # Who takes it decides, once: the thread that the call runs, its caller that it never will.
        self._turn = Lock()
        self._loop = asyncio.get_running_loop()
        self._waiter = self._loop.create_future()
        self._has_ended = False
        self._result: list[T] = []
        self._error: BaseException | None = None

    async def outcome(self, seconds: float) -> T:
        """Return or raise what the function does (see ``Lane.run``)."""
        timer = self._loop.call_later(seconds, self._give_up)
        try:
            await self._waiter
        except asyncio.CancelledError:
            if not self._turn.acquire(blocking=False) and not self._has_ended:
                self._waiter = self._loop.create_future()
                await self._waiter
            raise
        finally:
            timer.cancel()
        error, self._error = self._error, None
        if error is None:
            return self._result[0]
        try:
            raise error
        finally:
            del error  # whose traceback refers to here

    def run(self) -> None:
        """Run the function, unless its caller does not want it any more; in a thread."""
        if not self._turn.acquire(blocking=False):
            return
        with self:
            self._result.append(self._work())
        with suppress(RuntimeError):  # the loop has been closed, and nobody waits
            self._loop.call_soon_threadsafe(self._end)

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[True]:
        """Keep whatever is raised for the caller."""
        self._error = error
        return True

    def _give_up(self) -> None:
        # Once it has begun, only its end can tell what became of it.
        if self._turn.acquire(blocking=False):
            self._error = DatabaseBusy(retry_after_seconds=1)
            self._end()

    def _end(self) -> None:
        self._has_ended = True
        if not self._waiter.done():
            self._waiter.set_result(None)


class Lane:
    """Runs functions of a connection, at most ``width`` at once, the others waiting in order.

    Its threads do not keep the process from ending: whoever wants calls to end whole closes it.
    """

    def __init__(
        self,
        name: str,
        open_link: Callable[[], Link],
        *,
        width: int,
        wait_seconds: float,
        clock: Clock,
    ) -> None:
        self._name = name
        self._links = Links(open_link)
        self._width = width
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._calls: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._is_closed = False

    async def run(self, work: Callable[[Link], T]) -> T:
        """Run ``work`` in a transaction of its own, and return its result once that is committed.

        Raises DatabaseBusy when its turn does not come within ``wait_seconds``; then it never runs.
        Once begun it runs to its end: a cancelled caller waits for that end (a transaction is short)
        before CancelledError goes on, so that nothing of a call outlives it. A second cancellation
        goes through at once, and even then the transaction ends whole.
        """
        return await self._submit(lambda: self._transact(work))

    async def run_outside(self, work: Callable[[Link], T]) -> T:
        """Like ``run``, but ``work`` gets a connection on which no transaction is open."""
        return await self._submit(lambda: self._links.lend(work))

    async def close(self) -> None:
        """Let what was asked for end, then end the threads and the connections."""
        if not self._is_closed:
            self._is_closed = True
            for _ in self._threads:
                self._calls.put(None)
        # Not joined in a thread: that one would keep the process from ending, when one of ours hangs.
        while any(thread.is_alive() for thread in self._threads):  # noqa: ASYNC110  threads set no event
            await asyncio.sleep(_LOOK_SECONDS)
        self._links.close()

    async def _submit(self, work: Callable[[], T]) -> T:
        if self._is_closed:
            raise NotReady("The database is closed")
        if len(self._threads) < self._width:
            self._add_thread()
        call = _Call(work)
        self._calls.put(call)
        return await call.outcome(self._wait_seconds)

    def _add_thread(self) -> None:
        name = f"tidemill-{self._name}_{len(self._threads)}"
        thread = Thread(target=self._serve, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads to give
            if not self._threads:
                raise DatabaseBusy(retry_after_seconds=1) from error
            return
        self._threads.append(thread)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            del call  # while this waits for the next one, nothing of the last is kept

    def _transact(self, work: Callable[[Link], T]) -> T:
        begun = self._clock.monotonic()
        result = self._links.transact(work)
        seconds = self._clock.monotonic() - begun
        if seconds > _SLOW_SECONDS:
            _log.warning("transaction.slow", lane=self._name, seconds=round(seconds, 3))
        return result
