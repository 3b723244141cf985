"""Delivery of one-time outputs: which bytes their owner has, and when that is all of them.

Nothing is delivered but what a download proved (``app.api.socket_sender``). An output that was
delivered stays readable for a grace; then the sweep ``delivered_outputs`` takes it. Intervals that a
process could not record when it died were not delivered: the output stays for its retention.
"""

from dataclasses import dataclass, replace

import structlog

from app.domain.delivery import ByteSpan, covers, merge_spans
from app.domain.outputs import Output, OutputStatus
from app.services.ports import Clock, Database, Transaction

log = structlog.get_logger(__name__)

MOST_SPANS = 1000
"""Separate intervals kept of one output for one principal: a client that asks for every other byte
makes no more rows than that.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryService:
    """Use cases of delivery."""

    db: Database
    clock: Clock

    async def record(self, output_id: str, principal: str, span: ByteSpan) -> None:
        """Add bytes that ``principal`` has for certain; together they may deliver the output.

        Nothing happens to outputs that are gone, not one-time, or delivered already. A repeat is
        harmless. Raises ConflictingUpdate when the output is deleted at this moment, DatabaseBusy.
        """
        delivered = await self.db.write(lambda tx: self._record(tx, output_id, principal, span))
        if delivered is not None:
            log.info("output.delivered", output_id=output_id, job_id=delivered.job_id)

    def _record(
        self, tx: Transaction, output_id: str, principal: str, span: ByteSpan
    ) -> Output | None:
        output = tx.outputs.find(output_id)
        if output is None or not output.one_time or output.status is not OutputStatus.AVAILABLE:
            return None
        # Takes the row's lock: of two downloads that end together, the later sees what the former
        # has written (Postgres; on SQLite there is one writer).
        tx.outputs.update(output, expected=OutputStatus.AVAILABLE)
        spans = merge_spans([*tx.deliveries.spans(output_id, principal), span])
        if covers(spans, output.size_bytes):
            now = self.clock.now()
            output = replace(output, status=OutputStatus.DELIVERED, delivered_at=now)
            tx.outputs.update(output, expected=OutputStatus.AVAILABLE)
        if len(spans) <= MOST_SPANS:
            tx.deliveries.put(output_id, principal, spans)
        return output if output.status is OutputStatus.DELIVERED else None
