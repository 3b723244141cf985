"""Sweeps over jobs: ``job_timeouts``, ``undispatched_jobs`` and ``expired_jobs``."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar, Protocol

from app.domain.jobs import Job, JobPolicy, JobStatus
from app.domain.outputs import Output
from app.domain.requests import OpenRequest
from app.domain.sweeps import SweepName, Victim
from app.domain.tombstones import Reason
from app.services.burial import bury_job, bury_output
from app.services.disposal import Disposal, Settled
from app.services.ports import Database, Transaction
from app.services.sweeps.base import SweepRun


class Rescues(Protocol):
    """What is done for one job, as ``app.services.job_rescue.JobRescue`` has it."""

    def diagnose(self, job: Job, now: datetime) -> str | None: ...

    async def rescue(self, job: Job, now: datetime) -> object | None: ...

    async def redispatch(self, job: Job, now: datetime) -> bool: ...


class Removes(Protocol):
    """What is done for requests, as ``app.services.sync_removal.RequestRemoval`` has it."""

    async def list_left(self, limit: int) -> Sequence[OpenRequest]: ...

    async def take_back(self, request: OpenRequest) -> list[Settled] | None: ...


class JobTimeouts:
    """``job_timeouts``: running jobs past their deadline or whose worker is silent.

    They are queued again or fail with ``timeout`` or ``worker_lost``. What requests left whose process
    is gone goes with it.
    """

    name: ClassVar[SweepName] = SweepName.JOB_TIMEOUTS

    def __init__(self, db: Database, rescue: Rescues, removal: Removes | None = None) -> None:
        self._db = db
        self._rescue = rescue
        self._removal = removal

    async def run(self, run: SweepRun) -> None:
        if self._removal is not None:
            await self._sweep_requests(run, self._removal)
        running = await self._db.read(lambda tx: tx.jobs.list_processing(run.limit))
        for job in running:
            with run.entry("job", job.id):
                await self._sweep(run, job)

    async def _sweep(self, run: SweepRun, job: Job) -> None:
        ailment = self._rescue.diagnose(job, run.now)
        if ailment is None:
            return
        if run.claim(Victim("job", job.id, str(ailment))):
            if await self._rescue.rescue(job, run.now) is None:
                run.skip("changed")
            else:
                run.count_repaired()

    async def _sweep_requests(self, run: SweepRun, removal: Removes) -> None:
        for request in await removal.list_left(run.limit):
            with run.entry("request", request.id):
                if not run.claim(Victim("request", request.id, "nobody answers it any more")):
                    continue
                settled = await removal.take_back(request)
                if settled is None:
                    run.skip("in_use")
                else:
                    run.count_removed(settled)


class UndispatchedJobs:
    """``undispatched_jobs``: queued jobs of which the engine was not told, or long ago."""

    name: ClassVar[SweepName] = SweepName.UNDISPATCHED_JOBS

    def __init__(self, db: Database, rescue: Rescues, again_after: timedelta) -> None:
        self._db = db
        self._rescue = rescue
        self._again_after = again_after

    async def run(self, run: SweepRun) -> None:
        cutoff = run.cutoff = run.now - self._again_after
        found = await self._db.read(lambda tx: tx.jobs.list_undispatched(cutoff, run.limit))
        for job in found:
            with run.entry("job", job.id):
                await self._sweep(run, job)

    async def _sweep(self, run: SweepRun, job: Job) -> None:
        why = "queued, and the engine was not told"
        if job.dispatched_at is not None:
            why = f"queued, last told at {job.dispatched_at.isoformat(timespec='seconds')}"
        if run.claim(Victim("job", job.id, why)):
            if await self._rescue.redispatch(job, run.now):
                run.count_repaired()
            else:
                run.skip("changed")


class ExpiredJobs:
    """``expired_jobs``: ended jobs past their retention, queued ones that nobody ever ran, and outputs
    past an earlier time of their own.

    Rows and bytes go, tombstones stay. A job whose outputs another job still reads is left alone, and
    so is one of which an output is promised for longer.
    """

    name: ClassVar[SweepName] = SweepName.EXPIRED_JOBS

    def __init__(self, db: Database, disposal: Disposal, policy: JobPolicy) -> None:
        self._db = db
        self._disposal = disposal
        self._policy = policy

    async def run(self, run: SweepRun) -> None:
        run.cutoff = run.now
        queued_before = run.now - self._policy.queued_ttl
        found = await self._db.read(
            lambda tx: tx.jobs.list_expired(run.now, queued_before, run.limit)
        )
        for job in found:
            with run.entry("job", job.id):
                await self._sweep(run, job)
        left = run.limit - len(run.tally.victims)
        if left <= 0:
            return
        going = {job.id for job in found}
        outputs = await self._db.read(lambda tx: tx.outputs.list_expired(run.now, left))
        for output in outputs:
            if output.job_id not in going or not run.dry_run:
                with run.entry("output", output.id):
                    await self._sweep_output(run, output)

    async def _sweep(self, run: SweepRun, job: Job) -> None:
        outputs = await self._db.read(lambda tx: tx.outputs.list_by_job(job.id))
        if any(_is_promised(output, run.now) for output in outputs):
            run.skip("output_kept")
            return
        why = f"{job.status.value}, retention is over"
        victim = Victim("job", job.id, why, sum(output.size_bytes for output in outputs))
        if not run.claim(victim):
            return
        paths = await self._db.write(lambda tx: self._bury(tx, job.id, run))
        if paths is None:
            run.skip("in_use")
            return
        run.count_removed(await self._disposal.settle_each(paths))

    def _bury(self, tx: Transaction, job_id: str, run: SweepRun) -> list[str] | None:
        job = tx.jobs.find(job_id)
        reason = self._reason(job, run.now) if job else None
        if job is None or reason is None or tx.requests.find_by_job(job_id) is not None:
            return None
        outputs = tx.outputs.list_by_job(job_id)
        if any(_is_promised(output, run.now) for output in outputs):
            return None
        if outputs and tx.jobs.list_active_reading(output_ids=[output.id for output in outputs]):
            return None
        return bury_job(tx, job, reason=reason, sweep=run.name, now=run.now)

    def _reason(self, job: Job, now: datetime) -> Reason | None:
        """Why the job goes, None when it stays."""
        if job.status is JobStatus.QUEUED:
            # A job that was tried again waits anew from then: its row says until when.
            until = job.expires_at or job.created_at + self._policy.queued_ttl
            is_old = until < now
            return Reason.RETENTION_QUEUED if is_old else None
        if job.status.is_active or job.expires_at is None or job.expires_at >= now:
            return None
        if job.status is JobStatus.COMPLETED:
            return Reason.RETENTION_COMPLETED
        return Reason.RETENTION_FAILED

    async def _sweep_output(self, run: SweepRun, output: Output) -> None:
        why = "past the time it was asked to stay"
        if not run.claim(Victim("output", output.id, why, output.size_bytes)):
            return
        paths = await self._db.write(lambda tx: _bury_output(tx, output.id, run))
        if paths is None:
            run.skip("in_use")
            return
        run.count_removed(await self._disposal.settle_each(paths))


def _is_promised(output: Output, now: datetime) -> bool:
    return output.expires_at is not None and output.expires_at >= now


def _bury_output(tx: Transaction, output_id: str, run: SweepRun) -> list[str] | None:
    output = tx.outputs.find(output_id)
    if output is None or not output.status.is_readable or output.expires_at is None:
        return None
    if _is_promised(output, run.now) or tx.jobs.list_active_reading(output_ids=[output_id]):
        return None
    if tx.requests.find_by_job(output.job_id) is not None:
        return None  # somebody waits for it
    return bury_output(tx, output, reason=Reason.OUTPUT_EXPIRED, sweep=run.name, now=run.now)
