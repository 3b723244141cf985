"""Moving the holds on a batch's files: how long they stay after the jobs that used them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from app.domain.batches import Batch
from app.domain.errors import InvalidRequest
from app.domain.holds import HoldPolicy, held_until
from app.domain.jobs import Job
from app.domain.retention import RetentionPolicy
from app.domain.uploads import Upload
from app.services.ports import Transaction


def check_keep_inputs(hours: float | None, policy: RetentionPolicy) -> None:
    """Raise InvalidRequest unless ``hours`` lies within ``policy.max_ttl``; None is always right."""
    longest = policy.max_ttl / timedelta(hours=1)
    if hours is None or 0 <= hours <= longest:
        return
    wrong, allowed = "is out of range", f"0 to {longest:g} hours"
    error = {"in": "body", "loc": "keep_inputs_hours", "message": wrong, "allowed": allowed}
    msg = f"keep_inputs_hours: {hours:g} {wrong} (allowed: {allowed})."
    raise InvalidRequest(msg, extra={"errors": [error]})


def plan_holds(
    tx: Transaction, batch: Batch, keep_inputs_hours: float | None, policy: HoldPolicy
) -> Batch:
    """Plan every file of the batch as if ``keep_inputs_hours`` had been asked from the start.

    Counted from the ends of the jobs that used a file and still have a row; a failed or cancelled
    one keeps its own time for a retry. Where only the plan of jobs long gone is left, that moves by
    the difference. What no job has used yet is not planned; what a job reads now stays until it
    ends, whatever the plan. Returns the batch as it is to be written.
    """
    uploads = tx.uploads.list_by_batch(batch.id)
    used: dict[str, list[Job]] = {upload.id: [] for upload in uploads}
    for job in tx.jobs.list_reading([upload.id for upload in uploads]):
        for item in job.inputs:
            if item.upload_id in used:
                used[item.upload_id].append(job)
    changed = replace(batch, keep_inputs_hours=keep_inputs_hours)
    for upload in uploads:
        until = _latest(used[upload.id], keep_inputs_hours, policy)
        if until is None and upload.spent_at is not None:
            moved_by = _kept(changed, policy) - _kept(batch, policy)
            until = upload.spent_at + moved_by
        if until is not None:
            tx.uploads.plan_spent(upload.id, until)
    return changed


def promised_until(uploads: Sequence[Upload], otherwise: datetime) -> datetime:
    """Return the latest time that a hold on a file promises, and at least ``otherwise``."""
    return max([otherwise, *(upload.spent_at for upload in uploads if upload.spent_at)])


def _latest(
    jobs: Sequence[Job], keep_inputs_hours: float | None, policy: HoldPolicy
) -> datetime | None:
    holds = [
        held_until(
            job.status,
            job.completed_at,
            from_then=job.from_then,
            policy=policy,
            keep_inputs_hours=keep_inputs_hours,
            operation=job.operation,
        )
        for job in jobs
        if not job.status.is_active and job.completed_at is not None
    ]
    return max(holds, default=None)


def _kept(batch: Batch, policy: HoldPolicy) -> timedelta:
    if batch.keep_inputs_hours is None:
        return policy.keep_inputs
    return timedelta(hours=batch.keep_inputs_hours)
