"""Rows of what was delivered of one-time outputs."""

from collections.abc import Sequence

from sqlalchemy import bindparam, delete, exists, insert, select

from app.domain.delivery import ByteSpan
from app.infrastructure.database.link import Repository
from app.infrastructure.database.statements import Statement
from app.infrastructure.database.tables import delivered_spans, outputs
from app.services.ports import DeliveryRows

_ROW = delivered_spans.c
_OF = (_ROW.output_id == bindparam("output_id_"), _ROW.principal == bindparam("principal_"))
_SPANS = Statement(select(_ROW.span_start, _ROW.span_end).where(*_OF).order_by(_ROW.span_start))
_FORGET = Statement(delete(delivered_spans).where(*_OF))
_INSERT = Statement(insert(delivered_spans))
_IS_THERE = Statement(select(exists().where(outputs.c.id == bindparam("output_id_"))))


class SqlDeliveries(Repository, DeliveryRows):
    __slots__ = ()

    def spans(self, output_id: str, principal: str) -> tuple[ByteSpan, ...]:
        found = self._link.rows(_SPANS, {"output_id_": output_id, "principal_": principal})
        return tuple(ByteSpan(row["span_start"], row["span_end"]) for row in found)

    def put(self, output_id: str, principal: str, spans: Sequence[ByteSpan]) -> None:
        key = {"output_id_": output_id, "principal_": principal}
        self._link.change(_FORGET, key)
        if not spans or not self._link.value(_IS_THERE, {"output_id_": output_id}):
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
        self._link.insert_all(_INSERT, rows)
