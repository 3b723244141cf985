"""Ending the jobs that still need a batch, so that it can go."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

from app.domain.batches import Batch
from app.domain.errors import JobFinished, JobGone, JobNotFound
from app.domain.jobs import Job, JobStatus
from app.services.ports import Transaction

LOOK_AGAIN_SECONDS = 0.05
DELETE_WAIT_SECONDS = 10.0
"""How long a deletion waits for jobs it cancelled: a child gets a second before it is killed."""


class JobEnding(Protocol):
    """The part of the job service that ends jobs."""

    async def cancel(self, owner: str, job_id: str) -> object:
        """Ends a job, waiting a little for it. Raises JobNotFound, JobGone, JobFinished."""
        ...


async def end_jobs(jobs: JobEnding, look: Callable[[], Awaitable[Sequence[Job]]]) -> None:
    """Cancel whatever ``look`` finds active, until it finds nothing more, within reason."""
    asked: set[str] = set()
    with suppress(TimeoutError):
        async with asyncio.timeout(DELETE_WAIT_SECONDS):
            while active := await look():
                await _cancel(jobs, [job for job in active if job.id not in asked])
                asked |= {job.id for job in active}
                await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def _cancel(jobs: JobEnding, active: Sequence[Job]) -> None:
    # Those that wait go first: none of them shall begin in the place of one that is stopped.
    for job in active:
        if job.status is JobStatus.QUEUED:
            await _cancel_one(jobs, job)
    running = [job for job in active if job.status is not JobStatus.QUEUED]
    ends = await asyncio.gather(
        *(_cancel_one(jobs, job) for job in running), return_exceptions=True
    )
    for failure in ends:
        if failure is not None:
            raise failure


async def _cancel_one(jobs: JobEnding, job: Job) -> None:
    with suppress(JobNotFound, JobGone, JobFinished):
        await jobs.cancel(job.owner, job.id)


def active_jobs(tx: Transaction, batch: Batch) -> list[Job]:
    """The batch's own unfinished jobs and whoever else still reads its files or outputs."""
    jobs = tx.jobs.list_by_batch(batch.id)
    own = [job for job in jobs if job.status.is_active]
    upload_ids = [upload.id for upload in tx.uploads.list_by_batch(batch.id)]
    output_ids = [output.id for job in jobs for output in tx.outputs.list_by_job(job.id)]
    readers = tx.jobs.list_active_reading(upload_ids=upload_ids, output_ids=output_ids)
    known = {job.id for job in own}
    return [*own, *(job for job in readers if job.id not in known)]
