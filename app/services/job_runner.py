"""Running one attempt of a job from claim to end: steps, limits and the one way it ends."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog
from structlog.contextvars import bound_contextvars

from app.domain.errors import AppError, JobTimedOut
from app.domain.jobs import Fence
from app.operations.base import FFmpegStep, Plan, Step, StepFacts
from app.operations.ffmpeg import put_in
from app.services.cancellation import uninterrupted
from app.services.job_claims import Claims
from app.services.job_closing import Closed, Closing
from app.services.job_publication import Publication
from app.services.job_run import LeaseKeeper, Run, Stop
from app.services.job_steps import JobSteps
from app.services.ports import ProgressCallback
from app.services.workshop import Workplace, Workshop

logger = structlog.get_logger(__name__)


class JobRunner:
    """Runs attempts of jobs, any number at a time; the engine says how many.

    A run ends in exactly one way: completed, failed, queued again, cancelled, handed back (when
    ``run`` itself is cancelled), or fenced out, which touches neither the job nor its outputs.
    """

    def __init__(
        self,
        claims: Claims,
        lease: LeaseKeeper,
        workshop: Workshop,
        steps: JobSteps,
        publication: Publication,
        closing: Closing,
    ) -> None:
        self._claims = claims
        self._lease = lease
        self._workshop = workshop
        self._steps = steps
        self._publication = publication
        self._closing = closing

    @property
    def worker(self) -> str:
        return self._claims.worker

    async def run(self, job_id: str, attempt: int) -> None:
        """Run one attempt to its end; returns at once when it is not to be had.

        Duplicates are harmless. Cancelling the call stops the child, hands the job back to the
        queue without using up an attempt, and raises. Raises what nobody foresaw, and then the row
        is still processing: the worker loop logs it and calls ``crash``.
        """
        fence = self._claims.fence(job_id, attempt)
        with bound_contextvars(job_id=job_id, attempt=attempt):
            try:
                run = await uninterrupted(self._claims.claim(fence))
                if run is not None:
                    await self._perform(run)
            except asyncio.CancelledError:
                await self._hand_back(fence)
                raise
            finally:
                self._claims.release(fence)

    async def crash(self, job_id: str, attempt: int) -> None:
        """End an attempt whose ``run`` raised: queued again, or failed with ``internal_error``."""
        with bound_contextvars(job_id=job_id, attempt=attempt):
            await self._closing.crash(self._claims.fence(job_id, attempt))

    def cancel(self, job_id: str) -> None:
        """Stop a run of this process at once; nothing happens if it is not here."""
        self._claims.cancel(job_id)

    async def _perform(self, run: Run) -> None:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._work(run))
            keepers = [
                group.create_task(self._lease.keep(run)),
                group.create_task(self._lease.watch(run)),
            ]
            work.add_done_callback(lambda _: [each.cancel() for each in keepers])
            run.begin(work)
        await uninterrupted(self._end(run))

    async def _work(self, run: Run) -> None:
        try:
            plan, folder = await self._make_in_time(run)
            if run.enter_publication():
                await self._publication.publish(run, plan, folder)
        except AppError as error:
            run.failure = error

    async def _make_in_time(self, run: Run) -> tuple[Plan, Path]:
        limit_seconds = run.job.timeout_seconds
        limit = asyncio.timeout(limit_seconds)
        try:
            async with limit:
                return await self._make(run)
        except TimeoutError as error:
            if not limit.expired():
                raise
            msg = f"The job ran into its limit of {limit_seconds:g} s (timeout_seconds)."
            raise JobTimedOut(
                msg,
                extra={"limit": "timeout_seconds", "timeout_seconds": limit_seconds},
            ) from error

    async def _make(self, run: Run) -> tuple[Plan, Path]:
        run.stage = "preparing"
        place = await self._workshop.prepare(run.job)
        plan = await self._carry_out_or_otherwise(run, place)
        if run.reused:
            plan = replace(plan, effort=0.0)  # how long it took says nothing of the machine
        run.stage = "publishing"
        await self._publication.inspect(run, plan, place.folder)
        return plan, place.folder

    async def _carry_out_or_otherwise(self, run: Run, place: Workplace) -> Plan:
        otherwise = place.plan.otherwise
        try:
            return await self._carry_out(run, place.plan, place.folder)
        except place.plan.gives_way_to as error:
            if otherwise is None:
                raise
            logger.info("job.otherwise", code=error.code, reason=error.detail)
        # Both together could need more room than there is, and a kept result is taken under its name.
        await self._workshop.clear(run.job, place.plan)
        run.reused = 0
        plan = await self._carry_out(run, otherwise, place.folder)
        return replace(plan, effort=0.0)  # how long it took was not spent on this alone

    async def _carry_out(self, run: Run, plan: Plan, folder: Path) -> Plan:
        """Run the steps, and return the plan with what they learned."""
        total = sum(step.weight for step in plan.steps) or 1.0
        done, numbers = 0.0, dict[str, int]()
        for planned in plan.steps:
            step = _with_numbers(planned, numbers)
            run.stage = step.name
            report = _progress_of(run, done / total, step.weight / total)
            facts = await self._steps.run(run, step, folder, report)
            numbers.update(facts.numbers)
            plan = _with_facts(plan, facts)
            done += step.weight
            run.advance(100 * done / total)
        return plan

    async def _end(self, run: Run) -> None:
        if run.closed is None and run.stop is Stop.CANCELLED:
            run.closed = await self._closing.cancel(run.fence)
        elif run.closed is None and run.stop is None and run.failure is not None:
            run.closed = await self._closing.fail(run.fence, run.failure)
        if run.closed is None or run.closed is Closed.LOST:
            await self._closing.abandon(run.job, run.fence, run.output_ids)
            run.closed = Closed.LOST

    async def _hand_back(self, fence: Fence) -> None:
        run = self._claims.find(fence)
        if run is None or run.closed is not None:
            return
        try:
            run.closed = await self._closing.hand_back(fence)
            if run.closed is Closed.LOST:
                await self._closing.abandon(run.job, fence, run.output_ids)
        except AppError as error:
            # The row stays as it is: start-up finds this worker's lock free and queues it again.
            logger.warning("job.hand_back_failed", code=error.code)


def _with_numbers(step: Step, numbers: Mapping[str, int]) -> Step:
    """Return the step with what earlier ones found put into its arguments."""
    if not isinstance(step, FFmpegStep):
        return step
    return replace(step, arguments=put_in(step.arguments, numbers))


def _with_facts(plan: Plan, facts: StepFacts) -> Plan:
    """Return the plan with what a step learned: the job tells it as it tells the plan's own."""
    return replace(
        plan,
        result={**plan.result, **facts.result},
        warnings=(*plan.warnings, *facts.warnings),
    )


def _progress_of(run: Run, start: float, share: float) -> ProgressCallback:
    def report(fraction: float) -> None:
        run.advance(100 * (start + share * min(max(fraction, 0.0), 1.0)))

    return report
