"""Rows of jobs and of their inputs. Every write counts the row's version up."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    RowMapping,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from app.domain.jobs import ACTIVE, Fence, Job, JobError, JobInput, JobStatus
from app.infrastructure.database.statements import (
    Values,
    change_one,
    changed,
    newest_first,
    page_values,
)
from app.infrastructure.database.tables import job_inputs, jobs
from app.services.ports import Beat, Cursor, JobFilter, JobRows

_ROW = jobs.c
_INPUT = job_inputs.c
_ACTIVE = sorted(ACTIVE)
_AT_ONCE = 500
"""Ids per IN list: old builds of SQLite take no more than 999 parameters."""

_BY_ID = _ROW.id == bindparam("id_")
_NEXT_VERSION = {"version": _ROW.version + 1}
_IS_QUEUED = and_(_BY_ID, _ROW.attempt == bindparam("attempt_"), _ROW.status == JobStatus.QUEUED)
_IS_HELD = and_(
    _BY_ID,
    _ROW.attempt == bindparam("attempt_"),
    _ROW.worker == bindparam("worker_"),
    _ROW.status == JobStatus.PROCESSING,
)

_INSERT = insert(jobs)
_INSERT_INPUTS = insert(job_inputs)
_FIND = select(jobs).where(_BY_ID)
_INPUTS = (
    select(job_inputs)
    .where(_INPUT.job_id.in_(bindparam("ids_", expanding=True)))
    .order_by(_INPUT.job_id, _INPUT.position)
)
_BY_BATCH = (
    select(jobs).where(_ROW.batch_id == bindparam("batch_id_")).order_by(_ROW.created_at, _ROW.id)
)
_COUNT_QUEUED = select(func.count()).select_from(jobs).where(_ROW.status == JobStatus.QUEUED)
_CLAIMABLE = (
    select(jobs)
    .where(_ROW.status == JobStatus.QUEUED)
    .order_by(_ROW.priority.desc(), _ROW.created_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_UPDATE = (
    update(jobs)
    .where(_BY_ID, _ROW.status == bindparam("expected_"), _ROW.attempt == bindparam("attempt_"))
    .values(_NEXT_VERSION)
)
_UPDATE_FENCED = update(jobs).where(_IS_HELD).values(_NEXT_VERSION)
_CLAIM = (
    update(jobs)
    .where(_IS_QUEUED)
    .values(_NEXT_VERSION | {"status": JobStatus.PROCESSING, "progress": 0.0, "stage": None})
)
_CANCEL_REQUESTED = select(_ROW.cancel_requested).where(_BY_ID)
_REQUEST_CANCEL = (
    update(jobs)
    .where(_BY_ID, _ROW.status.in_(_ACTIVE), _ROW.cancel_requested.is_(False))
    .values(_NEXT_VERSION | {"cancel_requested": True})
)
_MARK_DISPATCHED = update(jobs).where(_IS_QUEUED).values(_NEXT_VERSION)
_DELETE = delete(jobs).where(_BY_ID)
_PROCESSING = (
    select(jobs)
    .where(_ROW.status == JobStatus.PROCESSING)
    .order_by(_ROW.created_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_UNDISPATCHED = (
    select(jobs)
    .where(
        _ROW.status == JobStatus.QUEUED,
        or_(_ROW.dispatched_at.is_(None), _ROW.dispatched_at < bindparam("before_")),
    )
    .order_by(_ROW.created_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_EXPIRED = (
    select(jobs)
    .where(
        or_(
            and_(_ROW.expires_at < bindparam("now_"), _ROW.status != JobStatus.PROCESSING),
            and_(
                _ROW.status == JobStatus.QUEUED,
                _ROW.expires_at.is_(None),
                _ROW.created_at < bindparam("queued_before_"),
            ),
        )
    )
    .order_by(_ROW.created_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_VERSIONS = select(_ROW.id, _ROW.version).where(_ROW.id.in_(bindparam("ids_", expanding=True)))
_TOTALS = select(_ROW.status, func.count()).group_by(_ROW.status)


class SqlJobs(JobRows):
    """The inputs of a job are written once, with the job. ``request_cancel`` of a job that has
    ended and ``mark_dispatched`` of one that is not queued (any more) do nothing.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def insert(self, job: Job) -> None:
        self._connection.execute(_INSERT, _values(job) | {"id": job.id, "version": job.version})
        if job.inputs:
            self._connection.execute(
                _INSERT_INPUTS, [_input_values(job.id, *each) for each in enumerate(job.inputs)]
            )

    def find(self, job_id: str) -> Job | None:
        found = self._list(_FIND, {"id_": job_id})
        return found[0] if found else None

    def list_page(
        self, owner: str, where: JobFilter, cursor: Cursor | None, limit: int
    ) -> list[Job]:
        query = select(jobs).where(_ROW.owner == owner)
        if where.batch_id is not None:
            query = query.where(_ROW.batch_id == where.batch_id)
        if where.status is not None:
            query = query.where(_ROW.status == where.status)
        if where.operation is not None:
            query = query.where(_ROW.operation == where.operation)
        first, following = newest_first(jobs, query)
        return self._list(first if cursor is None else following, page_values(cursor, limit))

    def list_by_batch(self, batch_id: str) -> list[Job]:
        return self._list(_BY_BATCH, {"batch_id_": batch_id})

    def list_active_reading(
        self, *, upload_ids: Sequence[str] = (), output_ids: Sequence[str] = ()
    ) -> list[Job]:
        found: dict[str, Job] = {}
        for column, ids in ((_INPUT.upload_id, upload_ids), (_INPUT.output_id, output_ids)):
            for some in _parts(ids):
                reads = exists().where(_INPUT.job_id == _ROW.id, column.in_(some))
                query = select(jobs).where(reads, _ROW.status.in_(_ACTIVE))
                found |= {job.id: job for job in self._list(query, {})}
        return sorted(found.values(), key=lambda job: (job.created_at, job.id))

    def count_queued(self) -> int:
        return int(self._connection.execute(_COUNT_QUEUED).scalar_one())

    def list_claimable(self, limit: int) -> list[Job]:
        return self._list(_CLAIMABLE, {"limit_": limit})

    def claim(self, fence: Fence, *, now: datetime, deadline_at: datetime) -> Job | None:
        values = {
            "id_": fence.job_id,
            "attempt_": fence.attempt,
            "worker": fence.worker,
            "started_at": now,
            "heartbeat_at": now,
            "deadline_at": deadline_at,
        }
        return self.find(fence.job_id) if changed(self._connection, _CLAIM, values) else None

    def beat(
        self, fence: Fence, *, now: datetime, progress: float, stage: str | None
    ) -> Beat | None:
        values = _held(fence) | {"heartbeat_at": now, "progress": progress, "stage": stage}
        if not changed(self._connection, _UPDATE_FENCED, values):
            return None
        found = self._connection.execute(_CANCEL_REQUESTED, {"id_": fence.job_id})
        return Beat(cancel_requested=bool(found.scalar_one()))

    def update_fenced(self, job: Job, fence: Fence) -> bool:
        return changed(self._connection, _UPDATE_FENCED, _values(job) | _held(fence)) > 0

    def update(self, job: Job, *, expected: JobStatus, attempt: int) -> None:
        values = _values(job) | {"id_": job.id, "expected_": expected, "attempt_": attempt}
        change_one(self._connection, _UPDATE, values, "job")

    def request_cancel(self, job_id: str) -> None:
        self._connection.execute(_REQUEST_CANCEL, {"id_": job_id})

    def mark_dispatched(self, job_id: str, attempt: int, now: datetime) -> None:
        values = {"id_": job_id, "attempt_": attempt, "dispatched_at": now}
        self._connection.execute(_MARK_DISPATCHED, values)

    def delete(self, job_id: str) -> bool:
        return changed(self._connection, _DELETE, {"id_": job_id}) > 0

    def list_processing(self, limit: int) -> list[Job]:
        return self._list(_PROCESSING, {"limit_": limit})

    def list_undispatched(self, before: datetime, limit: int) -> list[Job]:
        return self._list(_UNDISPATCHED, {"before_": before, "limit_": limit})

    def list_expired(self, now: datetime, queued_before: datetime, limit: int) -> list[Job]:
        values = {"now_": now, "queued_before_": queued_before, "limit_": limit}
        return self._list(_EXPIRED, values)

    def list_versions(self, job_ids: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for some in _parts(job_ids):
            rows = self._connection.execute(_VERSIONS, {"ids_": some})
            found |= {row.id: row.version for row in rows}
        return found

    def list_reading(self, upload_ids: Sequence[str]) -> list[Job]:
        found: dict[str, Job] = {}
        for some in _parts(upload_ids):
            reads = exists().where(_INPUT.job_id == _ROW.id, _INPUT.upload_id.in_(some))
            found |= {job.id: job for job in self._list(select(jobs).where(reads), {})}
        return sorted(found.values(), key=lambda job: (job.created_at, job.id))

    def totals(self) -> dict[JobStatus, int]:
        return {status: count for status, count in self._connection.execute(_TOTALS)}  # noqa: C416

    def _list(self, query: Select[Any], values: Values) -> list[Job]:
        rows = self._connection.execute(query, values).mappings().all()
        inputs = self._inputs([row["id"] for row in rows])
        return [_job(row, tuple(inputs[row["id"]])) for row in rows]

    def _inputs(self, job_ids: Sequence[str]) -> dict[str, list[JobInput]]:
        found: dict[str, list[JobInput]] = {job_id: [] for job_id in job_ids}
        for some in _parts(job_ids):
            for row in self._connection.execute(_INPUTS, {"ids_": some}):
                found[row.job_id].append(
                    JobInput(
                        role=row.role,
                        upload_id=row.upload_id,
                        output_id=row.output_id,
                        order=row.sort_order,
                    )
                )
        return found


def _parts(ids: Sequence[str]) -> Iterable[list[str]]:
    return (list(ids[start : start + _AT_ONCE]) for start in range(0, len(ids), _AT_ONCE))


def _held(fence: Fence) -> dict[str, Any]:
    return {"id_": fence.job_id, "attempt_": fence.attempt, "worker_": fence.worker}


def _values(job: Job) -> dict[str, Any]:
    """Return the columns that change; id and version have ways of their own."""
    return {
        "owner": job.owner,
        "batch_id": job.batch_id,
        "operation": job.operation,
        "params": job.params,
        "status": job.status,
        "priority": job.priority,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "timeout_seconds": job.timeout_seconds,
        "from_then": job.from_then,
        "one_time": job.one_time,
        "worker": job.worker,
        "cancel_requested": job.cancel_requested,
        "progress": job.progress,
        "stage": job.stage,
        "warnings": list(job.warnings),
        "result": job.result,
        "error": None if job.error is None else asdict(job.error),
        "created_at": job.created_at,
        "dispatched_at": job.dispatched_at,
        "started_at": job.started_at,
        "heartbeat_at": job.heartbeat_at,
        "deadline_at": job.deadline_at,
        "completed_at": job.completed_at,
        "expires_at": job.expires_at,
    }


def _input_values(job_id: str, position: int, each: JobInput) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "position": position,
        "role": each.role,
        "upload_id": each.upload_id,
        "output_id": each.output_id,
        "sort_order": each.order,
    }


def _job(row: RowMapping, inputs: tuple[JobInput, ...]) -> Job:
    error = row["error"]
    converted = {
        "inputs": inputs,
        "warnings": tuple(row["warnings"]),
        "error": None if error is None else JobError(**error),
    }
    return Job(**(dict(row) | converted))
