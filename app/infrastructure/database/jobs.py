"""Rows of jobs and of their inputs. Every write counts the row's version up."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import combinations
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
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
from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import (
    Row,
    Statement,
    Values,
    in_lists,
    newest_first,
    page_values,
)
from app.infrastructure.database.tables import job_inputs, jobs
from app.services.ports import Beat, Cursor, JobFilter, JobRows

_ROW = jobs.c
_INPUT = job_inputs.c
_ACTIVE = sorted(ACTIVE)
_IDS: BindParameter[Any] = bindparam("ids_", expanding=True)
_BY_ID = _ROW.id == bindparam("id_")
_NEXT_VERSION = {"version": _ROW.version + 1}
_IS_QUEUED = and_(_BY_ID, _ROW.attempt == bindparam("attempt_"), _ROW.status == JobStatus.QUEUED)
_IS_HELD = and_(
    _BY_ID,
    _ROW.attempt == bindparam("attempt_"),
    _ROW.worker == bindparam("worker_"),
    _ROW.status == JobStatus.PROCESSING,
)

_INSERT = Statement(insert(jobs))
_INSERT_INPUTS = Statement(insert(job_inputs))
_FIND = Statement(select(jobs).where(_BY_ID))
_INPUTS = Statement(
    select(job_inputs).where(_INPUT.job_id.in_(_IDS)).order_by(_INPUT.job_id, _INPUT.position)
)
_BY_BATCH = Statement(
    select(jobs).where(_ROW.batch_id == bindparam("batch_id_")).order_by(_ROW.created_at, _ROW.id)
)
_COUNT_QUEUED = Statement(
    select(func.count()).select_from(jobs).where(_ROW.status == JobStatus.QUEUED)
)
_CLAIMABLE = Statement(
    select(jobs)
    .where(_ROW.status == JobStatus.QUEUED)
    .order_by(_ROW.priority.desc(), _ROW.created_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_UPDATE = Statement(
    update(jobs)
    .where(_BY_ID, _ROW.status == bindparam("expected_"), _ROW.attempt == bindparam("attempt_"))
    .values(_NEXT_VERSION)
)
_UPDATE_FENCED = Statement(update(jobs).where(_IS_HELD).values(_NEXT_VERSION))
_CLAIM = Statement(
    update(jobs)
    .where(_IS_QUEUED)
    .values(_NEXT_VERSION | {"status": JobStatus.PROCESSING, "progress": 0.0, "stage": None})
)
_CANCEL_REQUESTED = Statement(select(_ROW.cancel_requested).where(_BY_ID))
_REQUEST_CANCEL = Statement(
    update(jobs)
    .where(_BY_ID, _ROW.status.in_(_ACTIVE), _ROW.cancel_requested.is_(False))
    .values(_NEXT_VERSION | {"cancel_requested": True})
)
_MARK_DISPATCHED = Statement(update(jobs).where(_IS_QUEUED).values(_NEXT_VERSION))
_DELETE = Statement(delete(jobs).where(_BY_ID))
_PROCESSING = Statement(
    select(jobs)
    .where(_ROW.status == JobStatus.PROCESSING)
    .order_by(_ROW.created_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_UNDISPATCHED = Statement(
    select(jobs)
    .where(
        _ROW.status == JobStatus.QUEUED,
        or_(_ROW.dispatched_at.is_(None), _ROW.dispatched_at < bindparam("before_")),
    )
    .order_by(_ROW.created_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_EXPIRED = Statement(
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
_VERSIONS = Statement(select(_ROW.id, _ROW.version).where(_ROW.id.in_(_IDS)))
_TOTALS = Statement(select(_ROW.status, func.count().label("count")).group_by(_ROW.status))


def _reading(column: ColumnElement[str]) -> Select[Any]:
    return select(jobs).where(exists().where(_INPUT.job_id == _ROW.id, column.in_(_IDS)))


_READING = Statement(_reading(_INPUT.upload_id))
_ACTIVE_READING_UPLOADS = Statement(_reading(_INPUT.upload_id).where(_ROW.status.in_(_ACTIVE)))
_ACTIVE_READING_OUTPUTS = Statement(_reading(_INPUT.output_id).where(_ROW.status.in_(_ACTIVE)))


def _pages() -> Iterator[tuple[frozenset[str], tuple[Statement, Statement]]]:
    filters = {
        "batch_id_": _ROW.batch_id == bindparam("batch_id_"),
        "status_": _ROW.status == bindparam("status_"),
        "operation_": _ROW.operation == bindparam("operation_"),
    }
    owned = select(jobs).where(_ROW.owner == bindparam("owner_"))
    for count in range(len(filters) + 1):
        for names in combinations(filters, count):
            query = owned.where(*(filters[name] for name in names))
            yield frozenset(names), newest_first(jobs, query)


_PAGES = dict(_pages())
"""By the names of what is asked for."""


class SqlJobs(Repository, JobRows):
    """The inputs of a job are written once, with the job. ``request_cancel`` of a job that has
    ended and ``mark_dispatched`` of one that is not queued (any more) do nothing.
    """

    __slots__ = ()

    def insert(self, job: Job) -> None:
        self._link.change(_INSERT, _values(job) | {"id": job.id, "version": job.version})
        if job.inputs:
            rows = [_input_values(job.id, *each) for each in enumerate(job.inputs)]
            self._link.insert_all(_INSERT_INPUTS, rows)

    def find(self, job_id: str) -> Job | None:
        found = self._list(_FIND, {"id_": job_id})
        return found[0] if found else None

    def list_page(
        self, owner: str, where: JobFilter, cursor: Cursor | None, limit: int
    ) -> list[Job]:
        wished = {
            "batch_id_": where.batch_id,
            "status_": where.status,
            "operation_": where.operation,
        }
        given = {name: value for name, value in wished.items() if value is not None}
        first, following = _PAGES[frozenset(given)]
        values = page_values(cursor, limit) | given | {"owner_": owner}
        return self._list(first if cursor is None else following, values)

    def list_by_batch(self, batch_id: str) -> list[Job]:
        return self._list(_BY_BATCH, {"batch_id_": batch_id})

    def list_active_reading(
        self, *, upload_ids: Sequence[str] = (), output_ids: Sequence[str] = ()
    ) -> list[Job]:
        found = self._by_inputs(_ACTIVE_READING_UPLOADS, upload_ids)
        return _in_order(found | self._by_inputs(_ACTIVE_READING_OUTPUTS, output_ids))

    def count_queued(self) -> int:
        return int(self._link.value(_COUNT_QUEUED))

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
        return self.find(fence.job_id) if self._link.change(_CLAIM, values) else None

    def beat(
        self, fence: Fence, *, now: datetime, progress: float, stage: str | None
    ) -> Beat | None:
        values = _held(fence) | {"heartbeat_at": now, "progress": progress, "stage": stage}
        if not self._link.change(_UPDATE_FENCED, values):
            return None
        found = self._link.value(_CANCEL_REQUESTED, {"id_": fence.job_id})
        return Beat(cancel_requested=bool(found))

    def update_fenced(self, job: Job, fence: Fence) -> bool:
        return self._link.change(_UPDATE_FENCED, _values(job) | _held(fence)) > 0

    def update(self, job: Job, *, expected: JobStatus, attempt: int) -> None:
        values = _values(job) | {"id_": job.id, "expected_": expected, "attempt_": attempt}
        self._link.change_one(_UPDATE, values, "job")

    def request_cancel(self, job_id: str) -> None:
        self._link.change(_REQUEST_CANCEL, {"id_": job_id})

    def mark_dispatched(self, job_id: str, attempt: int, now: datetime) -> None:
        values = {"id_": job_id, "attempt_": attempt, "dispatched_at": now}
        self._link.change(_MARK_DISPATCHED, values)

    def delete(self, job_id: str) -> bool:
        return self._link.change(_DELETE, {"id_": job_id}) > 0

    def list_processing(self, limit: int) -> list[Job]:
        return self._list(_PROCESSING, {"limit_": limit})

    def list_undispatched(self, before: datetime, limit: int) -> list[Job]:
        return self._list(_UNDISPATCHED, {"before_": before, "limit_": limit})

    def list_expired(self, now: datetime, queued_before: datetime, limit: int) -> list[Job]:
        values = {"now_": now, "queued_before_": queued_before, "limit_": limit}
        return self._list(_EXPIRED, values)

    def list_versions(self, job_ids: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for some in in_lists(job_ids):
            rows = self._link.rows(_VERSIONS, {"ids_": some})
            found |= {row["id"]: row["version"] for row in rows}
        return found

    def list_reading(self, upload_ids: Sequence[str]) -> list[Job]:
        return _in_order(self._by_inputs(_READING, upload_ids))

    def totals(self) -> dict[JobStatus, int]:
        return {row["status"]: row["count"] for row in self._link.rows(_TOTALS)}

    def _by_inputs(self, query: Statement, ids: Sequence[str]) -> dict[str, Job]:
        return {job.id: job for some in in_lists(ids) for job in self._list(query, {"ids_": some})}

    def _list(self, query: Statement, values: Values) -> list[Job]:
        rows = self._link.rows(query, values)
        inputs = self._inputs([row["id"] for row in rows])
        return [_job(row, tuple(inputs[row["id"]])) for row in rows]

    def _inputs(self, job_ids: Sequence[str]) -> dict[str, list[JobInput]]:
        found: dict[str, list[JobInput]] = {job_id: [] for job_id in job_ids}
        for some in in_lists(job_ids):
            for row in self._link.rows(_INPUTS, {"ids_": some}):
                found[row["job_id"]].append(
                    JobInput(
                        role=row["role"],
                        upload_id=row["upload_id"],
                        output_id=row["output_id"],
                        order=row["sort_order"],
                    )
                )
        return found


def _in_order(found: Mapping[str, Job]) -> list[Job]:
    return sorted(found.values(), key=lambda job: (job.created_at, job.id))


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
        "output_name": job.output_name,
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


def _job(row: Row, inputs: tuple[JobInput, ...]) -> Job:
    error = row["error"]
    converted = {
        "inputs": inputs,
        "warnings": tuple(row["warnings"]),
        "error": None if error is None else JobError(**error),
    }
    return Job(**(row | converted))
