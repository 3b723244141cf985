"""Rows of requests under way whose answer is a file."""

from dataclasses import asdict

from sqlalchemy import bindparam, delete, insert, select, update

from app.domain.requests import OpenRequest
from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Statement
from app.infrastructure.database.tables import requests
from app.services.ports import RequestRows

_ROW = requests.c
_BY_ID = _ROW.id == bindparam("id_")
_INSERT = Statement(insert(requests))
_FIND = Statement(select(requests).where(_BY_ID))
_BY_JOB = Statement(select(requests).where(_ROW.job_id == bindparam("job_id_")))
_END = Statement(update(requests).where(_BY_ID))
_DELETE = Statement(delete(requests).where(_BY_ID))
_ALL = Statement(select(requests).order_by(_ROW.created_at, _ROW.id).limit(bindparam("limit_")))


class SqlRequests(Repository, RequestRows):
    __slots__ = ()

    def insert(self, request: OpenRequest) -> None:
        self._link.change(_INSERT, asdict(request))

    def find(self, request_id: str) -> OpenRequest | None:
        row = self._link.first(_FIND, {"id_": request_id})
        return None if row is None else OpenRequest(**row)

    def find_by_job(self, job_id: str) -> OpenRequest | None:
        row = self._link.first(_BY_JOB, {"job_id_": job_id})
        return None if row is None else OpenRequest(**row)

    def end(self, request_id: str) -> None:
        self._link.change(_END, {"id_": request_id, "is_over": True})

    def delete(self, request_id: str) -> bool:
        return self._link.change(_DELETE, {"id_": request_id}) > 0

    def list_all(self, limit: int) -> list[OpenRequest]:
        return [OpenRequest(**row) for row in self._link.rows(_ALL, {"limit_": limit})]
