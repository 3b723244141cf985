"""Jobs as their owner sees them: made, read, listed, cancelled, deleted."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import structlog

from app.domain.errors import ConflictingUpdate, JobFinished, JobRunning, UnknownOperation
from app.domain.idempotency import IdempotentRequest
from app.domain.jobs import InputRole, JobStatus
from app.domain.retention import RetentionPolicy
from app.domain.tombstones import Reason
from app.operations.base import InputRule
from app.operations.registry import Registry
from app.operations.templates.template import Template
from app.services.burial import bury_job
from app.services.disposal import Disposal
from app.services.job_creation import JobCreation, JobMade
from app.services.job_endings import JobRules, cancel_queued
from app.services.job_requests import (
    JobRequest,
    check_count,
    check_params,
    check_timeout,
    main_rule,
)
from app.services.job_retry import JobRetry
from app.services.job_views import JobView, find_job, view_job
from app.services.ports import Clock, Cursor, Database, JobFilter, JobQueue, Transaction
from app.services.retention import check_expiry

log = structlog.get_logger(__name__)

__all__ = ["JobMade", "JobService", "JobView", "OperationView", "find_job"]

LOOK_AGAIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class OperationView:
    """What a client must know to ask for an operation. ``params`` is a JSON Schema."""

    name: str
    description: str
    inputs: tuple[InputRule, ...]
    params: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobService:
    """Use cases of jobs; those with much to say have modules of their own.

    ``cancel_wait_seconds``: how long an answer to a cancellation waits, so that it usually tells of
    the end. ``delete_wait_seconds``: how long a deletion waits for the job it cancelled; a child gets
    a second before it is killed.
    """

    db: Database
    clock: Clock
    queue: JobQueue
    registry: Registry
    disposal: Disposal
    rules: JobRules
    retention: RetentionPolicy
    creation: JobCreation
    again: JobRetry
    cancel_wait_seconds: float = 2.0
    delete_wait_seconds: float = 10.0

    async def create(
        self, owner: str, request: JobRequest, idempotent: IdempotentRequest | None = None
    ) -> JobMade:
        """Make a job; see ``JobCreation.create``."""
        return await self.creation.create(owner, request, idempotent)

    async def retry(self, owner: str, job_id: str) -> JobView:
        """Try a failed or cancelled job again; see ``JobRetry.retry``."""
        return await self.again.retry(owner, job_id)

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
        checked = check_params(known, params)
        checked.check()
        if isinstance(known, Template):
            known.check_text(checked)
        check_count(known, n_inputs)
        check_timeout(timeout_seconds, self.rules.jobs)

    def main_role(self, operation: str) -> InputRole:
        """Return what an input is to an operation when nobody says: its clip, else its first kind."""
        try:
            return main_rule(self.registry.get(operation)).role
        except UnknownOperation:
            return InputRole.CLIP  # refused by that name when the job is made

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
        return await self.db.read(lambda tx: view_job(tx, find_job(tx, owner, job_id)))

    async def list(
        self, owner: str, where: JobFilter, cursor: Cursor | None, limit: int
    ) -> tuple[list[JobView], Cursor | None]:
        """Return a page of jobs, newest first, and where the next begins (None: no more)."""
        views = await self.db.read(
            lambda tx: [
                view_job(tx, job) for job in tx.jobs.list_page(owner, where, cursor, limit + 1)
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
            view = await self._await_end(owner, job_id, self.cancel_wait_seconds)
        return view

    async def move_expiry(self, owner: str, job_id: str, expires_at: datetime) -> JobView:
        """Keep an ended job and all its outputs until ``expires_at``, longer or shorter than before.

        A job never goes before an output of it. Raises JobNotFound, JobGone, JobRunning while it is
        active, InvalidRequest for a time in the past or beyond the longest allowed.
        """

        def work(tx: Transaction) -> JobView:
            job = find_job(tx, owner, job_id)
            if job.status.is_active:
                msg = "The job has not ended; its time begins when it does."
                raise JobRunning(msg, extra={"status": job.status.value})
            until = check_expiry(expires_at, self.clock.now(), self.retention)
            moved = replace(job, expires_at=until)
            tx.jobs.update(moved, expected=job.status, attempt=job.attempt)
            for output in tx.outputs.list_by_job(job_id):
                if output.status.is_readable:
                    later = replace(output, expires_at=until)
                    tx.outputs.update(later, expected=output.status)
            return view_job(tx, moved)

        view = await self.db.write(work)
        log.info("job.expiry_moved", job_id=job_id, expires_at=expires_at.isoformat())
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
            await self._await_end(owner, job_id, self.delete_wait_seconds)
        paths = await self.db.write(lambda tx: self._bury(tx, owner, job_id))
        # A crash before this leaves cleanup rows, which the sweep spent_inputs settles.
        freed = await self.disposal.settle(paths)
        log.info("job.deleted", job_id=job_id, bytes_freed=freed)

    async def _request_cancel(self, owner: str, job_id: str) -> JobView:
        def work(tx: Transaction) -> tuple[JobView, list[str]]:
            job = find_job(tx, owner, job_id)
            paths: list[str] = []
            if job.status is JobStatus.QUEUED:
                job, paths = cancel_queued(tx, job, self.clock.now(), self.rules)
                log.info("job.cancelled", job_id=job.id, attempt=job.attempt)
            elif job.status is JobStatus.PROCESSING:
                tx.jobs.request_cancel(job_id)
            elif job.status is not JobStatus.CANCELLED:
                msg = f"The job has ended already: {job.status}."
                raise JobFinished(msg, extra={"status": job.status.value})
            return view_job(tx, job), paths

        try:
            view, paths = await self.db.write(work)
        except ConflictingUpdate:
            # Another process claimed it between our look and our write (not on SQLite).
            view, paths = await self.db.write(work)
        # A crash before this leaves cleanup rows, which the sweep spent_inputs settles.
        await self.disposal.settle(paths)
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
