"""Jobs as their owner sees them: made, read, listed, cancelled, deleted."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from app.domain.errors import (
    AppError,
    ConflictingUpdate,
    JobFinished,
    JobGone,
    JobNotFound,
    JobRunning,
    QueueFull,
)
from app.domain.ids import new_id
from app.domain.jobs import Job, JobStatus, NewJob, queue
from app.domain.outputs import Output
from app.domain.tombstones import Reason, ThingKind
from app.operations.base import InputRule, Operation
from app.operations.registry import Registry
from app.services.absence import absent
from app.services.burial import bury_job
from app.services.disposal import Disposal
from app.services.job_endings import JobRules, cancel_queued
from app.services.job_inputs import Inputs, find_inputs
from app.services.job_requests import (
    JobRequest,
    check_count,
    check_params,
    check_shape,
    check_timeout,
)
from app.services.ports import Clock, Cursor, Database, JobFilter, JobQueue, Transaction
from app.services.workshop import Workshop

log = structlog.get_logger(__name__)

QUEUE_FULL_RETRY_SECONDS = 10
LOOK_AGAIN_SECONDS = 0.05
CANCEL_WAIT_SECONDS = 2.0
"""How long an answer to a cancellation waits, so that it usually tells of the end."""
DELETE_WAIT_SECONDS = 10.0
"""How long a deletion waits for the job it cancelled: a child gets a second before it is killed."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A job with its outputs that are available."""

    job: Job
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class OperationView:
    """What a client must know to ask for an operation. ``params`` is a JSON Schema."""

    name: str
    description: str
    inputs: tuple[InputRule, ...]
    params: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobService:
    """Use cases of jobs. ``batch_ttl``: how long a batch stays from its latest use."""

    db: Database
    clock: Clock
    queue: JobQueue
    registry: Registry
    workshop: Workshop
    disposal: Disposal
    rules: JobRules
    batch_ttl: timedelta

    async def create(self, owner: str, request: JobRequest) -> JobView:
        """Make a job and hand it to the engine.

        What cannot work is refused now: clips are probed on first need and the operation plans with
        them. Raises UnknownOperation, InvalidParams, InvalidRequest, InvalidInputs, InputsDeleted,
        UploadNotFound, OutputNotFound, BatchNotFound, BatchGone, QueueFull, and what probing and
        planning raise; nothing is written then, but for what a probe learned.
        """
        operation = self.registry.get(request.operation)
        params = check_params(operation, request.params)
        check_shape(request, self.rules.jobs)
        inputs = await self.db.read(lambda tx: self._admit(tx, owner, request, operation))
        try:
            await self.workshop.try_plan(operation, params, inputs.sources)
        except AppError:
            # What was deleted while it was looked at seems damaged: say rather that it is gone.
            await self.db.read(lambda tx: find_inputs(tx, owner, request, operation))
            raise
        job = await self.db.write(lambda tx: self._insert(tx, owner, request, operation))
        log.info("job.created", job_id=job.id, operation=job.operation, batch_id=job.batch_id)
        await self.queue.enqueue(job.id, job.attempt)
        return JobView(job, ())

    def check_new(
        self,
        operation: str,
        params: dict[str, Any],
        n_inputs: int | None,
        timeout_seconds: float | None = None,
    ) -> None:
        """Check a ``then`` before any file is there; ``n_inputs`` None: not known yet.

        Raises UnknownOperation, InvalidParams, InvalidInputs, InvalidRequest, and what the
        parameters' own ``check`` raises when no input could fit them.
        """
        known = self.registry.get(operation)
        check_params(known, params).check()
        check_count(known, n_inputs)
        check_timeout(timeout_seconds, self.rules.jobs)

    def operations(self) -> list[OperationView]:
        """Return everything a job can do."""
        return [
            OperationView(
                name=each.name,
                description=each.description,
                inputs=each.inputs,
                params=each.params_model.model_json_schema(),
            )
            for each in self.registry.all()
        ]

    async def get(self, owner: str, job_id: str) -> JobView:
        """Return a job. Raises JobNotFound, JobGone."""
        return await self.db.read(lambda tx: _view(tx, find_job(tx, owner, job_id)))

    async def list(
        self, owner: str, where: JobFilter, cursor: Cursor | None, limit: int
    ) -> tuple[list[JobView], Cursor | None]:
        """Return a page of jobs, newest first, and where the next begins (None: no more)."""
        views = await self.db.read(
            lambda tx: [
                _view(tx, job) for job in tx.jobs.list_page(owner, where, cursor, limit + 1)
            ]
        )
        page = views[:limit]
        if len(views) <= limit or not page:
            return page, None
        last = page[-1].job
        return page, Cursor(last.created_at, last.id)

    async def cancel(self, owner: str, job_id: str) -> JobView:
        """Cancel a job; a repeat is harmless.

        A queued one ends at once. One that runs is told at once in this process and within a second
        in another; the answer waits a little for its end, and may still say ``processing``. Raises
        JobNotFound, JobGone, JobFinished.
        """
        view = await self._request_cancel(owner, job_id)
        if view.job.status.is_active:
            view = await self._await_end(owner, job_id, CANCEL_WAIT_SECONDS)
        return view

    async def delete(self, owner: str, job_id: str, *, cancel: bool) -> None:
        """Remove a job with its outputs. ``cancel`` ends it first; else an active one refuses.

        Raises JobNotFound, JobGone, JobRunning (also while another job reads its outputs).
        """
        view = await self.get(owner, job_id)
        if cancel and view.job.status.is_active:
            try:
                await self._request_cancel(owner, job_id)
            except JobFinished:
                log.debug("job.ended_meanwhile", job_id=job_id)
            await self._await_end(owner, job_id, DELETE_WAIT_SECONDS)
        paths = await self.db.write(lambda tx: self._bury(tx, owner, job_id))
        # A crash before this leaves cleanup rows, which the sweep spent_inputs settles.
        freed = await self.disposal.settle(paths)
        log.info("job.deleted", job_id=job_id, bytes_freed=freed)

    def _admit(
        self, tx: Transaction, owner: str, request: JobRequest, operation: Operation
    ) -> Inputs:
        inputs = find_inputs(tx, owner, request, operation)
        limit = self.rules.jobs.queue_limit
        waiting = tx.jobs.count_queued()
        if waiting >= limit:
            msg = f"The queue is full: jobs waiting {waiting}, allowed {limit}."
            raise QueueFull(
                msg,
                extra={"queued": waiting, "limit": limit},
                retry_after_seconds=QUEUE_FULL_RETRY_SECONDS,
            )
        return inputs

    def _insert(
        self, tx: Transaction, owner: str, request: JobRequest, operation: Operation
    ) -> Job:
        # Looked at again: a probe takes a while, and from here on the row holds the inputs.
        inputs = self._admit(tx, owner, request, operation)
        new = NewJob(
            operation=operation.name,
            params=request.params,
            inputs=inputs.items,
            batch_id=inputs.batch_id,
            priority=request.priority,
            timeout_seconds=request.timeout_seconds,
        )
        now = self.clock.now()
        job = queue(new, new_id(), owner, now, self.rules.jobs)
        tx.jobs.insert(job)
        batch = tx.batches.find(inputs.batch_id) if inputs.batch_id else None
        if batch is not None:
            tx.batches.touch(batch.id, max(batch.expires_at, now + self.batch_ttl))
        return job

    async def _request_cancel(self, owner: str, job_id: str) -> JobView:
        def work(tx: Transaction) -> JobView:
            job = find_job(tx, owner, job_id)
            if job.status is JobStatus.QUEUED:
                job = cancel_queued(tx, job, self.clock.now(), self.rules)
                log.info("job.cancelled", job_id=job.id, attempt=job.attempt)
            elif job.status is JobStatus.PROCESSING:
                tx.jobs.request_cancel(job_id)
            elif job.status is not JobStatus.CANCELLED:
                msg = f"The job has ended already: {job.status}."
                raise JobFinished(msg, extra={"status": job.status.value})
            return _view(tx, job)

        try:
            view = await self.db.write(work)
        except ConflictingUpdate:
            # Another process claimed it between our look and our write (not on SQLite).
            view = await self.db.write(work)
        if view.job.status is JobStatus.PROCESSING:
            self.queue.cancel(job_id)
        return view

    async def _await_end(self, owner: str, job_id: str, seconds: float) -> JobView:
        view = await self.get(owner, job_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while view.job.status.is_active:
                    await asyncio.sleep(LOOK_AGAIN_SECONDS)
                    view = await self.get(owner, job_id)
        return view

    def _bury(self, tx: Transaction, owner: str, job_id: str) -> Sequence[str]:
        job = find_job(tx, owner, job_id)
        if job.status.is_active:
            raise JobRunning(
                "The job is stopping; ask again in a moment."
                if job.cancel_requested
                else "The job has not finished; cancel it first, or ask with cancel=true.",
                extra={"status": job.status.value},
            )
        outputs = [output.id for output in tx.outputs.list_by_job(job_id)]
        readers = tx.jobs.list_active_reading(output_ids=outputs)
        if readers:
            raise JobRunning(
                "Jobs that have not finished read the outputs of this one.",
                extra={"jobs": [reader.id for reader in readers]},
            )
        now = self.clock.now()
        return bury_job(tx, job, reason=Reason.JOB_DELETED, sweep=None, now=now)


def find_job(tx: Transaction, owner: str, job_id: str) -> Job:
    """Return the owner's job. Raises JobNotFound, JobGone."""
    job = tx.jobs.find(job_id)
    if job is None or job.owner != owner:
        raise absent(tx, ThingKind.JOB, job_id, owner, (JobNotFound, JobGone))
    return job


def _view(tx: Transaction, job: Job) -> JobView:
    outputs = tx.outputs.list_by_job(job.id)
    return JobView(job, tuple(o for o in outputs if o.status.is_readable))
