"""Making a job: what cannot work is refused now, and the same request makes it only once."""

from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from app.domain.errors import AppError
from app.domain.idempotency import IdempotentRequest
from app.domain.ids import new_id
from app.domain.jobs import NewJob, queue
from app.domain.tombstones import ThingKind
from app.operations.base import Operation, Params
from app.operations.registry import Registry
from app.services.idempotency import find_replay, remember, write_once
from app.services.job_endings import JobRules
from app.services.job_inputs import Inputs, find_inputs
from app.services.job_queueing import check_queue
from app.services.job_rates import check_duration
from app.services.job_requests import JobRequest, check_params, check_shape
from app.services.job_views import JobView, find_job, view_job
from app.services.ports import Clock, Database, JobQueue, Transaction
from app.services.workshop import Workshop

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobMade:
    """A job that was asked for; ``is_replay``: an earlier request of the same key made it."""

    view: JobView
    is_replay: bool


@dataclass(frozen=True, slots=True)
class _Wish:
    """One request as it came."""

    owner: str
    request: JobRequest
    idempotent: IdempotentRequest | None
    job_id: str


@dataclass(frozen=True, slots=True)
class _Order:
    """A wish that can be asked of its operation. ``effort`` is 0 until it was planned."""

    wish: _Wish
    operation: Operation
    params: Params
    inputs: Inputs
    effort: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCreation:
    """The use case of making a job. ``batch_ttl``: how long a batch stays from its latest use."""

    db: Database
    clock: Clock
    queue: JobQueue
    registry: Registry
    workshop: Workshop
    rules: JobRules
    batch_ttl: timedelta

    async def create(
        self,
        owner: str,
        request: JobRequest,
        idempotent: IdempotentRequest | None = None,
        *,
        job_id: str | None = None,
    ) -> JobMade:
        """Make a job and hand it to the engine, or return the one that the same request made.

        ``job_id``: what it is to be, where somebody has written that down before.
        Clips are probed on first need and the operation plans with them. Raises
        IdempotencyKeyReused, and JobGone for a replay; UnknownOperation, InvalidParams,
        InvalidRequest, InvalidInputs, InputsDeleted, UploadNotFound, OutputNotFound, BatchNotFound,
        BatchGone, QueueFull, WouldExceedTimeout, and what probing and planning raise. Nothing is
        written then, but for what a probe learned.
        """
        wish = _Wish(owner, request, idempotent, job_id or new_id())
        order = await self.db.read(lambda tx: _replay(tx, wish) or self._order(tx, wish))
        if isinstance(order, JobMade):
            return order
        planned = await self._plan(order)
        made = await write_once(
            self.db, idempotent, lambda tx: _replay(tx, wish) or self._insert(tx, planned)
        )
        job = made.view.job
        if not made.is_replay:
            log.info("job.created", job_id=job.id, operation=job.operation, batch_id=job.batch_id)
            await self.queue.enqueue(job.id, job.attempt)
        return made

    def _order(self, tx: Transaction, wish: _Wish) -> _Order:
        operation = self.registry.get(wish.request.operation)
        params = check_params(operation, wish.request.params)
        check_shape(wish.request, self.rules.jobs)
        inputs = find_inputs(tx, wish.owner, wish.request, operation)
        check_queue(tx, self.rules.jobs)
        return _Order(wish, operation, params, inputs)

    async def _plan(self, order: _Order) -> _Order:
        operation, wish = order.operation, order.wish
        try:
            plan = await self.workshop.try_plan(operation, order.params, order.inputs)
        except AppError:
            # What was deleted while it was looked at seems damaged: say rather that it is gone.
            await self.db.read(lambda tx: find_inputs(tx, wish.owner, wish.request, operation))
            raise
        return replace(order, effort=plan.effort)

    def _insert(self, tx: Transaction, order: _Order) -> JobMade:
        wish, request = order.wish, order.wish.request
        # Looked at again: a probe takes a while, and from here on the row holds the inputs.
        inputs = find_inputs(tx, wish.owner, request, order.operation)
        check_queue(tx, self.rules.jobs)
        new = NewJob(
            operation=order.operation.name,
            params=request.params,
            inputs=inputs.items,
            batch_id=inputs.batch_id,
            priority=request.priority,
            timeout_seconds=request.timeout_seconds,
            one_time=request.one_time,
            output_name=request.output_name,
        )
        now = self.clock.now()
        job = queue(new, wish.job_id, wish.owner, now, self.rules.jobs)
        check_duration(tx, job, order.effort, self.rules.jobs)
        tx.jobs.insert(job)
        if job.batch_id is not None:
            tx.batches.touch(job.batch_id, now + self.batch_ttl)
        remember(tx, wish.owner, wish.idempotent, ThingKind.JOB, job.id, was_new=True, now=now)
        return JobMade(JobView(job, ()), is_replay=False)


def _replay(tx: Transaction, wish: _Wish) -> JobMade | None:
    """Return the job that the same request made, as it is now; raises JobGone when it went."""
    record = find_replay(tx, wish.owner, wish.idempotent)
    if record is None:
        return None
    return JobMade(view_job(tx, find_job(tx, wish.owner, record.thing_id)), is_replay=True)
