"""What every use case of jobs begins and ends with: finding the owner's job, and showing it."""

from dataclasses import dataclass

from app.domain.errors import JobGone, JobNotFound
from app.domain.jobs import Job
from app.domain.outputs import Output
from app.domain.tombstones import ThingKind
from app.services.absence import absent
from app.services.ports import Transaction


@dataclass(frozen=True, slots=True)
class JobView:
    """A job with its outputs that are available."""

    job: Job
    outputs: tuple[Output, ...]


def find_job(tx: Transaction, owner: str, job_id: str) -> Job:
    """Return the owner's job. Raises JobNotFound, JobGone."""
    job = tx.jobs.find(job_id)
    if job is None or job.owner != owner:
        raise absent(tx, ThingKind.JOB, job_id, owner, (JobNotFound, JobGone))
    return job


def view_job(tx: Transaction, job: Job) -> JobView:
    """Return the job with those of its outputs that can be read."""
    outputs = tx.outputs.list_by_job(job.id)
    return JobView(job, tuple(o for o in outputs if o.status.is_readable))
