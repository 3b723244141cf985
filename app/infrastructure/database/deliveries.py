"""Rows of what was delivered of one-time outputs."""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, exists, insert, select

from app.domain.delivery import ByteSpan
from app.infrastructure.database.tables import delivered_spans, outputs
from app.services.ports import DeliveryRows

_ROW = delivered_spans.c
_OF = (_ROW.output_id == bindparam("output_id_"), _ROW.principal == bindparam("principal_"))
_SPANS = select(_ROW.span_start, _ROW.span_end).where(*_OF).order_by(_ROW.span_start)
_FORGET = delete(delivered_spans).where(*_OF)
_INSERT = insert(delivered_spans)
_IS_THERE = select(exists().where(outputs.c.id == bindparam("output_id_")))


class SqlDeliveries(DeliveryRows):
    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def spans(self, output_id: str, principal: str) -> tuple[ByteSpan, ...]:
        found = self._connection.execute(_SPANS, {"output_id_": output_id, "principal_": principal})
        return tuple(ByteSpan(start, end) for start, end in found)

    def put(self, output_id: str, principal: str, spans: Sequence[ByteSpan]) -> None:
        key = {"output_id_": output_id, "principal_": principal}
        self._connection.execute(_FORGET, key)
        if not spans or not self._connection.execute(_IS_THERE, {"output_id_": output_id}).scalar():
            return
        rows = [
            {
                "output_id": output_id,
                "principal": principal,
                "span_start": span.start,
                "span_end": span.end,
            }
            for span in spans
        ]
        self._connection.execute(_INSERT, rows)
