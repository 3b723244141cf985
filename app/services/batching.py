"""Making a batch of a session: row work in the caller's transaction."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from app.domain.batches import Batch
from app.domain.errors import UnknownOperation
from app.domain.ids import new_id
from app.domain.jobs import InputRole, Job, JobInput, JobPolicy, NewJob, queue
from app.domain.sessions import Session, SessionStatus, Then
from app.domain.tombstones import Reason
from app.domain.uploads import Upload, UploadStatus
from app.operations.base import Operation
from app.services.burial import bury_upload
from app.services.ports import Transaction


class OperationLookup(Protocol):
    """The part of the registry that says what an operation takes."""

    def get(self, name: str) -> Operation:
        """Raises UnknownOperation."""
        ...


class BatchMade(NamedTuple):
    """A batch, the jobs of its session's ``then``, and what was superseded: ids and their paths.

    After the commit the caller hands it to ``follow_up``. A crash before that leaves cleanup rows,
    which the sweep ``spent_inputs`` settles, and queued rows, which the engine finds.
    """

    batch: Batch
    jobs: tuple[Job, ...]
    paths: tuple[str, ...]
    superseded: tuple[str, ...]


def make_batch(
    tx: Transaction,
    session: Session,
    *,
    now: datetime,
    batch_ttl: timedelta,
    job_policy: JobPolicy,
    operations: OperationLookup,
) -> BatchMade:
    """Make ``session`` a batch of its completed uploads; a repeat returns the batch there is.

    Unfinished uploads end as superseded. The jobs of ``then`` are made here too, whatever the
    length of the queue: one per file for an operation that takes a single clip, else one for all.
    """
    if session.batch_id is not None:
        existing = tx.batches.find(session.batch_id)
        if existing is not None:
            jobs = tuple(job for job in tx.jobs.list_by_batch(existing.id) if job.from_then)
            return BatchMade(existing, jobs, (), ())
    batch = Batch(
        id=new_id(),
        owner=session.owner,
        session_id=session.id,
        created_at=now,
        expires_at=now + batch_ttl,
        keep_inputs_hours=session.keep_inputs_hours,
    )
    tx.batches.insert(batch)
    tx.sessions.update(
        replace(session, status=SessionStatus.BATCHED, batch_id=batch.id, active_at=now),
        expected=SessionStatus.OPEN,
    )
    superseded, paths = _sort_out(tx, session, batch, now)
    made = _jobs_of(tx, session.then, batch, operations)
    # Made at the same moment, jobs are listed and run in the order of their ids: the files' order.
    ids = sorted(new_id() for _ in made)
    jobs = tuple(
        queue(new, job_id, session.owner, now, job_policy)
        for new, job_id in zip(made, ids, strict=True)
    )
    for job in jobs:
        tx.jobs.insert(job)
    return BatchMade(batch, jobs, tuple(paths), tuple(superseded))


def _sort_out(
    tx: Transaction, session: Session, batch: Batch, now: datetime
) -> tuple[list[str], list[str]]:
    """Put the completed uploads into the batch, end the others; return their ids and paths."""
    superseded: list[str] = []
    paths: list[str] = []
    tx.uploads.put_in_batch(session.id, batch.id)
    for upload in tx.uploads.list_by_session(session.id, UploadStatus.RECEIVING):
        buried = bury_upload(tx, upload, reason=Reason.SUPERSEDED, sweep=None, now=now)
        superseded += [upload.id] * len(buried)
        paths += buried
    return superseded, paths


def _jobs_of(
    tx: Transaction, then: Then | None, batch: Batch, operations: OperationLookup
) -> list[NewJob]:
    if then is None:
        return []
    files = tx.uploads.list_by_batch(batch.id)
    role, takes_one = _shape_of(then.operation, operations)
    groups: list[Sequence[Upload]] = [[file] for file in files] if takes_one else [files]
    return [
        NewJob(
            operation=then.operation,
            params=then.params,
            inputs=tuple(
                JobInput(role=role, upload_id=upload.id, order=place)
                for place, upload in enumerate(group)
            ),
            batch_id=batch.id,
            timeout_seconds=then.timeout_seconds,
            from_then=True,
            one_time=then.one_time,
        )
        for group in groups
        if group
    ]


def _shape_of(operation: str, operations: OperationLookup) -> tuple[InputRole, bool]:
    """Return the role of an operation's files, and whether it takes just one."""
    try:
        rules = operations.get(operation).inputs
    except UnknownOperation:
        # Gone since the session was opened: each file's job fails and says so.
        return InputRole.CLIP, True
    role = rules[0].role if rules else InputRole.CLIP
    return role, sum(rule.maximum for rule in rules) <= 1
