"""``spent_inputs``: inputs that have served, and bytes that could not be deleted before."""

from typing import ClassVar

from app.domain.layout import upload_path
from app.domain.sweeps import PendingCleanup, SweepName, Victim
from app.domain.tombstones import Reason
from app.domain.uploads import Upload, UploadStatus
from app.services.burial import bury_upload
from app.services.disposal import Disposal
from app.services.ports import Database, Files, Transaction
from app.services.sweeps.base import SweepRun


class SpentInputs:
    """Buries spent inputs; settles cleanup rows that are due (also those of a crash in between)."""

    name: ClassVar[SweepName] = SweepName.SPENT_INPUTS

    def __init__(self, db: Database, files: Files, disposal: Disposal) -> None:
        self._db = db
        self._files = files
        self._disposal = disposal

    async def run(self, run: SweepRun) -> None:
        run.cutoff = run.now
        spent = await self._db.read(lambda tx: tx.uploads.list_spent(run.now, run.limit))
        for upload in spent:
            with run.entry("upload", upload.id):
                await self._bury(run, upload)
        left = run.limit - len(run.tally.victims)
        if left > 0:
            due = await self._db.read(lambda tx: tx.cleanup.list_due(run.now, left))
            for pending in due:
                with run.entry("cleanup", pending.path):
                    await self._settle(run, pending)

    async def _bury(self, run: SweepRun, upload: Upload) -> None:
        size = self._files.size(upload_path(upload.id)) or 0
        if not run.claim(Victim("upload", upload.id, "spent: its jobs have ended", size)):
            return
        paths = await self._db.write(lambda tx: _bury_spent(tx, upload.id, run))
        if paths is None:
            run.skip("in_use")
            return
        run.count_removed(await self._disposal.settle_each(paths))

    async def _settle(self, run: SweepRun, pending: PendingCleanup) -> None:
        why = f"to be deleted ({pending.reason}), {pending.attempts} attempts failed"
        size = self._files.size(pending.path) or 0
        if run.claim(Victim("cleanup", pending.path, why, size)):
            run.count_removed(await self._disposal.settle_each([pending.path]))


def _bury_spent(tx: Transaction, upload_id: str, run: SweepRun) -> list[str] | None:
    upload = tx.uploads.find(upload_id)
    if upload is None or upload.status is not UploadStatus.COMPLETED:
        return None
    if upload.spent_at is None or upload.spent_at > run.now:
        return None
    if tx.jobs.list_active_reading(upload_ids=[upload_id]):
        return None
    return bury_upload(tx, upload, reason=Reason.SPENT, sweep=run.name, now=run.now)
