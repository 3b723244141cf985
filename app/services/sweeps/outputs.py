"""``delivered_outputs``: one-time outputs that their client has, after a grace."""

from datetime import timedelta
from typing import ClassVar

from app.domain.layout import output_path
from app.domain.outputs import Output, OutputStatus
from app.domain.sweeps import SweepName, Victim
from app.domain.tombstones import Reason
from app.services.burial import bury_output
from app.services.disposal import Disposal
from app.services.ports import Database, Files, Transaction
from app.services.sweeps.base import SweepRun


class DeliveredOutputs:
    """Buries outputs whose delivery was proved at least ``grace`` ago; their jobs stay as they are."""

    name: ClassVar[SweepName] = SweepName.DELIVERED_OUTPUTS

    def __init__(self, db: Database, files: Files, disposal: Disposal, grace: timedelta) -> None:
        self._db = db
        self._files = files
        self._disposal = disposal
        self._grace = grace

    async def run(self, run: SweepRun) -> None:
        run.cutoff = before = run.now - self._grace
        found = await self._db.read(lambda tx: tx.outputs.list_delivered(before, run.limit))
        for output in found:
            with run.entry("output", output.id):
                await self._bury(run, output)

    async def _bury(self, run: SweepRun, output: Output) -> None:
        size = self._files.size(output_path(output.id)) or 0
        why = f"delivered in full, {self._grace.total_seconds():g} s of grace are over"
        if not run.claim(Victim("output", output.id, why, size)):
            return
        paths = await self._db.write(lambda tx: self._bury_row(tx, output.id, run))
        if paths is None:
            run.skip("in_use")
            return
        run.count_removed(await self._disposal.settle_each(paths))

    def _bury_row(self, tx: Transaction, output_id: str, run: SweepRun) -> list[str] | None:
        output = tx.outputs.find(output_id)
        if output is None or output.status is not OutputStatus.DELIVERED:
            return None
        if output.delivered_at is None or output.delivered_at > run.now - self._grace:
            return None
        if tx.jobs.list_active_reading(output_ids=[output_id]):
            return None
        return bury_output(tx, output, reason=Reason.DELIVERED, sweep=run.name, now=run.now)
