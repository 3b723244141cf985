"""How an attempt or a job ends: the row work that every way of ending shares."""

from dataclasses import dataclass, replace
from datetime import datetime

from app.domain import layout
from app.domain.batches import Batch
from app.domain.errors import (
    AppError,
    ConflictingUpdate,
    DatabaseBusy,
    InternalError,
    LogFailed,
    RenderFailed,
    StorageFailed,
    WorkerLost,
)
from app.domain.holds import HoldPolicy, held_until
from app.domain.jobs import Job, JobError, JobPolicy, JobStatus, finish, requeue
from app.domain.outputs import OutputStatus
from app.domain.sweeps import PendingCleanup
from app.domain.tombstones import Reason
from app.services.burial import bury_upload
from app.services.ports import Transaction

CURABLE = (
    RenderFailed,
    LogFailed,
    WorkerLost,
    StorageFailed,
    DatabaseBusy,
    ConflictingUpdate,
    InternalError,
)
"""What another attempt may cure. The caller's mistakes, limits and a full disk never are."""


@dataclass(frozen=True, slots=True)
class JobRules:
    """The policies that decide how a job ends and how long its inputs stay."""

    jobs: JobPolicy
    holds: HoldPolicy


def after_failure(job: Job, error: AppError, now: datetime, rules: JobRules) -> Job:
    """Return what becomes of a processing job whose attempt failed with ``error``.

    A wish to cancel wins; a retry is there for what it can cure, while attempts last.
    """
    if job.cancel_requested:
        return finish(job, JobStatus.CANCELLED, now, rules.jobs)
    if isinstance(error, CURABLE) and job.attempt < job.max_attempts:
        return queue_again(requeue(job, uses_attempt=True), now, rules.jobs)
    told = JobError(code=error.code, message=error.detail, detail=dict(error.extra) or None)
    return finish(job, JobStatus.FAILED, now, rules.jobs, error=told)


def after_hand_back(job: Job, now: datetime, rules: JobRules) -> Job:
    """Return a processing job that its worker gives back unharmed: queued, or cancelled if asked."""
    if job.cancel_requested:
        return finish(job, JobStatus.CANCELLED, now, rules.jobs)
    return queue_again(requeue(job, uses_attempt=False), now, rules.jobs)


def queue_again(job: Job, now: datetime, policy: JobPolicy) -> Job:
    """Return a job that waits once more, with its whole time in the queue anew.

    Its row says until when, for ``expired_jobs`` alone: clients see an expiry of ended jobs only.
    """
    return replace(job, expires_at=now + policy.queued_ttl)


def settle_inputs(tx: Transaction, ended: Job, now: datetime, rules: JobRules) -> list[str]:
    """Let go of the inputs of a job that has just ended; does nothing for one that goes on.

    A promised time holds a file also against the end of its batch. Returns the paths of those that
    are buried right here, because their operation releases them at once; the others are left to the
    sweep ``spent_inputs``. A job that a request waits for spends nothing: what the request brought it
    removes itself, and what it only named stays as long as it would have stayed without it.
    """
    paths: list[str] = []
    if ended.status.is_active or tx.requests.find_by_job(ended.id) is not None:
        return paths
    batches: dict[str, Batch | None] = {}
    for item in ended.inputs:
        upload = tx.uploads.find(item.upload_id) if item.upload_id is not None else None
        if upload is None:
            continue
        batch_id = upload.batch_id
        if batch_id is not None and batch_id not in batches:
            batches[batch_id] = tx.batches.find(batch_id)
        batch = batches.get(batch_id) if batch_id is not None else None
        until = held_until(
            ended.status,
            now,
            from_then=ended.from_then,
            policy=rules.holds,
            keep_inputs_hours=batch.keep_inputs_hours if batch else None,
            operation=ended.operation,
        )
        tx.uploads.set_spent(upload.id, until)
        if batch is not None:
            tx.batches.touch(batch.id, until)
        if ended.operation in rules.holds.released_at_once:
            paths += _bury_if_spent(tx, upload.id, now)
    return paths


def _bury_if_spent(tx: Transaction, upload_id: str, now: datetime) -> list[str]:
    upload = tx.uploads.find(upload_id)
    if upload is None or upload.spent_at is None or upload.spent_at > now:
        return []
    if tx.jobs.list_active_reading(upload_ids=[upload_id]):
        return []
    return bury_upload(tx, upload, reason=Reason.SPENT, sweep=None, now=now)


def release_scratch(tx: Transaction, job: Job, attempt: int, now: datetime) -> list[str]:
    """Put the scratch of an attempt that is over up for deletion; returns its path.

    A crash before the deletion leaves the row to the sweep ``spent_inputs``.
    """
    path = layout.scratch_path(job.id, attempt)
    tx.cleanup.put(pending(path, owner=job.owner, reason="attempt_over", now=now))
    return [path]


def release_attempt(tx: Transaction, job: Job, attempt: int, now: datetime) -> list[str]:
    """Put scratch and unpublished outputs of a dead attempt up for deletion; returns the paths.

    The scratch comes first: once it is gone, a worker that lost its fence has nothing left that it
    could still rename to an output's path.
    """
    paths = release_scratch(tx, job, attempt, now)
    for output in tx.outputs.list_by_job(job.id):
        if output.status is OutputStatus.PUBLISHING and output.attempt <= attempt:
            path = layout.output_path(output.id)
            tx.outputs.delete(output.id)
            tx.cleanup.put(pending(path, owner=job.owner, reason="never_published", now=now))
            paths.append(path)
    return paths


def pending(path: str, *, owner: str, reason: str, now: datetime) -> PendingCleanup:
    """Return the record that ``path`` is to be deleted now."""
    return PendingCleanup(
        path=path,
        kind=path.partition("/")[0],
        reason=reason,
        owner=owner,
        attempts=0,
        next_attempt_at=now,
        last_error=None,
        created_at=now,
    )


def cancel_queued(
    tx: Transaction, job: Job, now: datetime, rules: JobRules
) -> tuple[Job, list[str]]:
    """End a queued job as cancelled; returns it and the paths to be deleted.

    Raises ``ConflictingUpdate`` when it was claimed meanwhile.
    """
    ended = finish(replace(job, cancel_requested=True), JobStatus.CANCELLED, now, rules.jobs)
    tx.jobs.update(ended, expected=JobStatus.QUEUED, attempt=job.attempt)
    return ended, settle_inputs(tx, ended, now, rules)
