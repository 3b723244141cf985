"""Watches jobs and batches for whoever follows them: one look per tick for all, none for nobody."""

import asyncio
import contextvars
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import structlog

from app.domain.errors import AppError
from app.domain.tombstones import ThingKind
from app.domain.uploads import Upload
from app.services.batches import BatchView
from app.services.ports import Database, Transaction

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.25
"""How often versions are looked at: also how often, at most, a follower is told of a change."""
WHOLE_EVERY = 2
"""A batch's list of jobs and files is read every so many ticks; its jobs' versions at each."""
HEARTBEAT_SECONDS = 15.0
"""Well below the minute after which proxies drop a connection on which nothing comes."""
READERS_AT_ONCE = 2
"""Followers that read at the same time: a change seen by hundreds must not delay other requests."""

_GONE = "gone"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is followed: a job or a batch."""

    kind: Literal[ThingKind.JOB, ThingKind.BATCH]
    id: str


class Subscription:
    """One follower of a subject. Holds no news, only that there are some: whoever is slow reads the
    newest state and skips what was in between.
    """

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None

    def wake(self) -> None:
        """End the present or the next wait."""
        self._wake.set()

    def fail(self, error: BaseException) -> None:
        """Make the present or the next wait raise."""
        self._failure = error
        self.wake()

    async def wait(self, seconds: float) -> bool:
        """Wait until there may be news; False when ``seconds`` passed without.

        May be woken for nothing, never sleeps through a change. Raises RuntimeError when the watch
        has died.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        if self._failure is not None:
            msg = "the watch of jobs has died"
            raise RuntimeError(msg) from self._failure
        return True


@dataclass(frozen=True, slots=True)
class _Whole:
    """What makes up a batch: the ids of its jobs, and a digest of that and of its files."""

    job_ids: tuple[str, ...]
    digest: str


class _Watched:
    """A subject with its followers, and how it was when last looked at (None: not yet)."""

    __slots__ = ("mark", "subscriptions", "whole")

    def __init__(self) -> None:
        self.mark: str | None = None
        self.whole: _Whole | None = None
        self.subscriptions: set[Subscription] = set()

    def tell(self, mark: str) -> None:
        # The first look tells as well: the follower may have read before it.
        if mark != self.mark:
            self.mark = mark
            for subscription in self.subscriptions:
                subscription.wake()


class JobWatch:
    """One poller per process for all followed jobs and batches; it runs while there are any.

    ``heartbeat_seconds``: how long a follower may be left without a word. ``turns``: to be held by
    a follower while it reads.
    """

    def __init__(
        self,
        db: Database,
        *,
        poll_seconds: float = POLL_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self.heartbeat_seconds = heartbeat_seconds
        self.turns = asyncio.Semaphore(READERS_AT_ONCE)
        self._db = db
        self._poll_seconds = poll_seconds
        self._watched: dict[Subject, _Watched] = {}
        self._task: asyncio.Task[None] | None = None
        self._ticks = 0
        self._is_blind = False

    @property
    def subscriptions(self) -> int:
        """How many follow something right now."""
        return sum(len(each.subscriptions) for each in self._watched.values())

    @contextmanager
    def subscribe(self, subject: Subject) -> Iterator[Subscription]:
        """Follow ``subject`` for the length of the block.

        The subscription is woken soon after the beginning, and then by every change: what was read
        before the block cannot have become old unnoticed.
        """
        subscription = Subscription()
        watched = self._watched.setdefault(subject, _Watched())
        watched.subscriptions.add(subscription)
        if watched.mark is not None:
            subscription.wake()
        if self._task is None:
            # In a context of its own: it outlives the request that happens to start it.
            context = contextvars.Context()
            self._task = asyncio.create_task(self._poll(), name="job-watch", context=context)
            self._task.add_done_callback(self._report_end, context=context)
        try:
            yield subscription
        finally:
            watched.subscriptions.discard(subscription)
            if not watched.subscriptions and self._watched.get(subject) is watched:
                del self._watched[subject]

    async def close(self) -> None:
        """Stop polling. A repeat is harmless; who still follows is not told anything any more."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _poll(self) -> None:
        try:
            while self._watched:
                await self._look()
                await asyncio.sleep(self._poll_seconds)
        finally:
            # Without a pause after the last look at ``_watched``: the next follower starts anew.
            self._task = None

    async def _look(self) -> None:
        watched = dict(self._watched)
        is_whole_due = self._ticks % WHOLE_EVERY == 0
        self._ticks += 1
        wholes = [
            subject.id
            for subject, each in watched.items()
            if subject.kind is ThingKind.BATCH and (is_whole_due or each.whole is None)
        ]
        job_ids = {s.id for s in watched if s.kind is ThingKind.JOB}
        for each in watched.values():
            job_ids.update(each.whole.job_ids if each.whole else ())
        try:
            versions, found = await self._db.read(lambda tx: _read(tx, job_ids, wholes))
        except AppError as error:
            if not self._is_blind:
                log.warning("watch.look_failed", code=error.code)
            self._is_blind = True
            return
        if self._is_blind:
            log.info("watch.look_recovered")
            self._is_blind = False
        for subject, each in watched.items():
            each.whole = found.get(subject.id, each.whole)
            each.tell(_mark(subject, each.whole, versions))

    def _report_end(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        log.critical("watch.died", error=repr(error))
        for each in self._watched.values():
            for subscription in each.subscriptions:
                subscription.fail(error)


def batch_version(view: BatchView) -> str:
    """Return what changes whenever a job of the batch or one of its files does. Opaque."""
    jobs = sorted((job.id, job.version) for job in view.jobs)
    return _digest([jobs, _files(view.files), sorted(file.id for file in view.deleted_files)])


def _read(
    tx: Transaction, job_ids: Iterable[str], batch_ids: Sequence[str]
) -> tuple[dict[str, int], dict[str, _Whole]]:
    wholes = {batch_id: _whole(tx, batch_id) for batch_id in batch_ids}
    ids = {*job_ids, *(job_id for whole in wholes.values() for job_id in whole.job_ids)}
    return tx.jobs.list_versions(sorted(ids)), wholes


def _whole(tx: Transaction, batch_id: str) -> _Whole:
    job_ids = tuple(job.id for job in tx.jobs.list_by_batch(batch_id))
    is_there = tx.batches.find(batch_id) is not None
    files = _files(tx.uploads.list_by_batch(batch_id))
    return _Whole(job_ids, _digest([is_there, job_ids, files]))


def _files(uploads: Iterable[Upload]) -> list[tuple[str, bool, bool]]:
    return [(each.id, each.sha256 is not None, each.media is not None) for each in uploads]


def _mark(subject: Subject, whole: _Whole | None, versions: dict[str, int]) -> str:
    if subject.kind is ThingKind.JOB:
        return str(versions.get(subject.id, _GONE))
    if whole is None:
        return _GONE
    return _digest([whole.digest, [versions.get(job_id) for job_id in whole.job_ids]])


def _digest(parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
