"""Rows of outputs."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import bindparam, delete, exists, func, insert, select, update

from app.domain.jobs import ACTIVE
from app.domain.outputs import Output, OutputStatus
from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Statement, Values
from app.infrastructure.database.tables import job_inputs, jobs, outputs
from app.services.ports import OutputRows

_ROW = outputs.c
_BY_ID = _ROW.id == bindparam("id_")

_INSERT = Statement(insert(outputs))
_FIND = Statement(select(outputs).where(_BY_ID))
_BY_JOB = Statement(
    select(outputs).where(_ROW.job_id == bindparam("job_id_")).order_by(_ROW.created_at, _ROW.id)
)
_PUBLISH = Statement(
    update(outputs)
    .where(
        _ROW.job_id == bindparam("job_id_"),
        _ROW.attempt == bindparam("attempt_"),
        _ROW.status == OutputStatus.PUBLISHING,
    )
    .values(status=OutputStatus.AVAILABLE)
)
_UPDATE = Statement(update(outputs).where(_BY_ID, _ROW.status == bindparam("expected_")))
_IS_READ = exists().where(
    job_inputs.c.output_id == _ROW.id,
    job_inputs.c.job_id == jobs.c.id,
    jobs.c.status.in_(sorted(ACTIVE)),
)
_DELIVERED = Statement(
    select(outputs)
    .where(
        _ROW.status == OutputStatus.DELIVERED,
        _ROW.delivered_at <= bindparam("before_"),
        ~_IS_READ,
    )
    .order_by(_ROW.delivered_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_EXPIRED = Statement(
    select(outputs)
    .where(_ROW.status != OutputStatus.PUBLISHING, _ROW.expires_at < bindparam("now_"), ~_IS_READ)
    .order_by(_ROW.expires_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_DELETE = Statement(delete(outputs).where(_BY_ID))
_PUBLISHING = Statement(
    select(outputs)
    .where(_ROW.status == OutputStatus.PUBLISHING)
    .order_by(_ROW.created_at, _ROW.id)
    .limit(bindparam("limit_"))
)
_TOTALS = Statement(
    select(
        _ROW.status,
        func.count().label("count"),
        func.coalesce(func.sum(_ROW.size_bytes), 0).label("size"),
    ).group_by(_ROW.status)
)


class SqlOutputs(Repository, OutputRows):
    __slots__ = ()

    def insert(self, output: Output) -> None:
        self._link.change(_INSERT, asdict(output))

    def find(self, output_id: str) -> Output | None:
        row = self._link.first(_FIND, {"id_": output_id})
        return None if row is None else Output(**row)

    def list_by_job(self, job_id: str) -> list[Output]:
        return self._list(_BY_JOB, {"job_id_": job_id})

    def publish(self, job_id: str, attempt: int, expires_at: datetime) -> None:
        values = {"job_id_": job_id, "attempt_": attempt, "expires_at": expires_at}
        self._link.change(_PUBLISH, values)

    def update(self, output: Output, *, expected: OutputStatus) -> None:
        values = {
            "id_": output.id,
            "expected_": expected,
            "status": output.status,
            "delivered_at": output.delivered_at,
            "expires_at": output.expires_at,
        }
        self._link.change_one(_UPDATE, values, "output")

    def list_delivered(self, before: datetime, limit: int) -> list[Output]:
        return self._list(_DELIVERED, {"before_": before, "limit_": limit})

    def list_expired(self, now: datetime, limit: int) -> list[Output]:
        return self._list(_EXPIRED, {"now_": now, "limit_": limit})

    def delete(self, output_id: str) -> bool:
        return self._link.change(_DELETE, {"id_": output_id}) > 0

    def list_publishing(self, limit: int) -> list[Output]:
        return self._list(_PUBLISHING, {"limit_": limit})

    def totals(self) -> dict[OutputStatus, tuple[int, int]]:
        found = self._link.rows(_TOTALS)
        return {row["status"]: (row["count"], int(row["size"])) for row in found}

    def _list(self, query: Statement, values: Values) -> list[Output]:
        return [Output(**row) for row in self._link.rows(query, values)]
