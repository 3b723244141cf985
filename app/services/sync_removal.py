"""Removing whatever a request brought and made, at its end or after that of its process."""

import asyncio
from dataclasses import dataclass, field

import structlog

from app.domain.errors import AppError, ConflictingUpdate
from app.domain.jobs import Job, JobStatus
from app.domain.requests import OpenRequest
from app.domain.tombstones import Reason
from app.services.batch_endings import JobEnding, end_jobs
from app.services.burial import bury_batch, bury_job, bury_session
from app.services.cancellation import uninterrupted
from app.services.disposal import Disposal, Settled
from app.services.job_endings import JobRules, cancel_queued, pending
from app.services.job_rescue import JobRescue
from app.services.ports import Clock, Database, JobQueue, Transaction, Workers

log = structlog.get_logger(__name__)

PAGE = 1000
WHY = Reason.REQUEST_ENDED


@dataclass(slots=True, kw_only=True)
class RequestRemoval:
    """Knows the open requests of this process, named ``worker``, and ends any.

    What a request named by id is not its own and stays. Repeats are harmless.
    """

    db: Database
    clock: Clock
    disposal: Disposal
    queue: JobQueue
    jobs: JobEnding
    rescue: JobRescue
    workers: Workers
    rules: JobRules
    worker: str
    _open: set[str] = field(default_factory=set)

    # --- a request's own end ---------------------------------------------------------------------

    async def begin(self, request: OpenRequest) -> None:
        """Write down a request before anything of it is kept."""
        is_written = False
        self._open.add(request.id)
        try:
            await uninterrupted(self.db.write(lambda tx: tx.requests.insert(request)))
            is_written = True
        except asyncio.CancelledError:
            await uninterrupted(self.end(request))
            raise
        finally:
            if not is_written:
                self._open.discard(request.id)

    async def release(self, request: OpenRequest) -> None:
        """Let everything live on by its own retention, as if the request had never held it."""
        await self.db.write(lambda tx: tx.requests.delete(request.id))
        self._open.discard(request.id)

    async def end(self, request: OpenRequest) -> list[Settled] | None:
        """Stop the request's job if it still runs, remove everything, and return what became of it.
        Never raises ``AppError``: None where it could not be done now. Whoever does not try again
        leaves it to the sweep ``job_timeouts``.
        """
        settled: list[Settled] | None = None
        try:
            settled = await self._bury(request)
            if settled is None:
                await end_jobs(self.jobs, lambda: self.db.read(lambda tx: _active(tx, request)))
                settled = await self._bury(request)
            if settled is None:
                await self.db.write(lambda tx: tx.requests.end(request.id))
                log.warning("render.not_removed", job_id=request.job_id, reason="still running")
        except AppError as error:
            log.warning("render.not_removed", job_id=request.job_id, reason=error.code)
        finally:
            self._open.discard(request.id)
        return settled

    # --- and what was left behind ----------------------------------------------------------------

    async def list_left(self, limit: int) -> list[OpenRequest]:
        """Return requests that nobody answers any more."""
        found = await self.db.read(lambda tx: tx.requests.list_all(limit))
        return [each for each in found if self._is_left(each)]

    async def take_all_back(self) -> int:
        """Remove what dead processes' requests left; returns how many of these there were."""
        left = await self.list_left(PAGE)
        done = [await self.take_back(request) for request in left]
        return sum(settled is not None for settled in done)

    async def take_back(self, request: OpenRequest) -> list[Settled] | None:
        """Remove everything of a request that nobody answers; None while its job has to end first."""
        job = await self.db.write(lambda tx: _ask_to_end(tx, request))
        if job is not None:
            self.queue.cancel(job.id)
            if job.worker is not None and not self.workers.is_alive(job.worker):
                await self.rescue.recover(job, self.clock.now())
        settled = await self._bury(request)
        if settled is not None:
            log.info(
                "render.taken_back",
                job_id=request.job_id,
                worker=request.worker,
                removed=sum(each.error is None for each in settled),
                bytes_freed=sum(each.freed_bytes for each in settled),
            )
        return settled

    def _is_left(self, request: OpenRequest) -> bool:
        if request.worker == self.worker:
            return request.id not in self._open
        return request.is_over or not self.workers.is_alive(request.worker)

    async def _bury(self, request: OpenRequest) -> list[Settled] | None:
        """Bury rows and delete bytes; None, and nothing happened, while a worker has the job."""
        try:
            paths = await self.db.write(lambda tx: self._bury_rows(tx, request))
        except ConflictingUpdate:
            return None  # claimed at this very moment (not on SQLite)
        return None if paths is None else await self.disposal.settle_each(paths)

    def _bury_rows(self, tx: Transaction, request: OpenRequest) -> list[str] | None:
        now, paths = self.clock.now(), list[str]()
        job = tx.jobs.find(request.job_id)
        if job is not None and job.status is JobStatus.PROCESSING:
            return None
        if job is not None:
            if job.status is JobStatus.QUEUED:
                job, paths = cancel_queued(tx, job, now, self.rules)
            paths += bury_job(tx, job, reason=WHY, sweep=None, now=now)
        session = tx.sessions.find(request.session_id)
        batch = tx.batches.find(session.batch_id) if session and session.batch_id else None
        if batch is not None:
            paths += bury_batch(tx, batch, reason=WHY, sweep=None, now=now)
        elif session is not None:
            paths += bury_session(tx, session, reason=WHY, sweep=None, now=now)
        if request.worker != self.worker and not self.workers.is_alive(request.worker):
            # All that lies there is of requests that nobody answers.
            folder = request.folder.rpartition("/")[0]
            tx.cleanup.put(pending(folder, owner=request.owner, reason=WHY.value, now=now))
            paths.append(folder)
        tx.requests.delete(request.id)
        return paths


def _active(tx: Transaction, request: OpenRequest) -> list[Job]:
    job = tx.jobs.find(request.job_id)
    return [job] if job is not None and job.status.is_active else []


def _ask_to_end(tx: Transaction, request: OpenRequest) -> Job | None:
    """Ask a running job to end; returns it, None when none runs."""
    job = tx.jobs.find(request.job_id)
    if job is None or job.status is not JobStatus.PROCESSING:
        return None
    tx.jobs.request_cancel(job.id)
    return job
