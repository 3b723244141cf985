"""Outputs: finding the stored file of one, keeping it for another time, and letting go of it."""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import structlog

from app.domain import layout
from app.domain.errors import (
    AppError,
    InvalidRequest,
    JobRunning,
    OutputGone,
    OutputNotFound,
    OutputNotReady,
)
from app.domain.outputs import Output, OutputStatus
from app.domain.retention import RetentionPolicy
from app.domain.tombstones import Reason, ThingKind
from app.services.absence import absent, as_gone
from app.services.burial import bury_output
from app.services.delivery import DeliveryService
from app.services.disposal import Disposal
from app.services.ports import Clock, Database, Files, Transaction
from app.services.retention import check_expiry

log = structlog.get_logger(__name__)

_KIND = ThingKind.OUTPUT


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputService:
    """Use cases of outputs."""

    db: Database
    files: Files
    clock: Clock
    disposal: Disposal
    deliveries: DeliveryService
    retention: RetentionPolicy

    async def get(self, owner: str, output_id: str) -> tuple[Output, Path]:
        """Return the output and the absolute path of its bytes.

        Raises OutputNotFound, OutputGone, OutputNotReady while it is being published.
        """
        output = await self.db.look(lambda tx: _find(tx, owner, output_id))
        return output, self.files.absolute(layout.output_path(output.id))

    async def why_missing(self, owner: str, job_id: str) -> AppError:
        """Return why a completed job has no output any more."""
        buried = await self.db.read(lambda tx: tx.tombstones.list_by_parent(_KIND, job_id))
        mine = [tombstone for tombstone in buried if tombstone.owner == owner]
        return as_gone(mine[-1], OutputGone) if mine else OutputGone("The job has no output.")

    async def move_expiry(self, owner: str, output_id: str, expires_at: datetime) -> Output:
        """Keep an output until ``expires_at``, longer or shorter than before; its job stays as long.

        Raises OutputNotFound, OutputGone, OutputNotReady, ConflictingUpdate, and InvalidRequest for
        a time in the past or beyond the longest allowed, or when it was delivered and goes anyway.
        """

        def work(tx: Transaction) -> Output:
            output = _find(tx, owner, output_id)
            until = check_expiry(expires_at, self.clock.now(), self.retention)
            self._refuse_delivered(output)
            moved = replace(output, expires_at=until)
            tx.outputs.update(moved, expected=output.status)
            job = tx.jobs.find(output.job_id)
            # A job takes its outputs along when it goes.
            if job is not None and job.expires_at is not None and job.expires_at < until:
                kept = replace(job, expires_at=until)
                tx.jobs.update(kept, expected=job.status, attempt=job.attempt)
            return moved

        moved = await self.db.write(work)
        log.info("output.expiry_moved", output_id=output_id, expires_at=expires_at.isoformat())
        return moved

    def _refuse_delivered(self, output: Output) -> None:
        if output.status is not OutputStatus.DELIVERED or output.delivered_at is None:
            return
        end = output.delivered_at + self.retention.delivery_grace
        shown = end.isoformat(timespec="seconds").replace("+00:00", "Z")
        message = f"was delivered, and goes after {shown}"
        error = {"in": "body", "loc": "expires_at", "message": message}
        msg = f"expires_at: the one-time output {message}; its end cannot be moved."
        raise InvalidRequest(msg, extra={"errors": [error]})

    async def delete(self, owner: str, output_id: str) -> None:
        """Remove an output; its job stays as it is. A second time raises OutputGone.

        Raises OutputNotFound, OutputGone, OutputNotReady, JobRunning when a job is to read it.
        """

        def work(tx: Transaction) -> list[str]:
            output = _find(tx, owner, output_id)
            readers = tx.jobs.list_active_reading(output_ids=[output_id])
            if readers:
                raise JobRunning(
                    "A job that has not finished reads this output.",
                    extra={"jobs": [job.id for job in readers]},
                )
            now = self.clock.now()
            return bury_output(tx, output, reason=Reason.OUTPUT_DELETED, sweep=None, now=now)

        paths = await self.db.write(work)
        # A crash before this leaves cleanup rows, which the sweep spent_inputs settles.
        freed = await self.disposal.settle(paths)
        log.info("output.deleted", output_id=output_id, bytes_freed=freed)


def _find(tx: Transaction, owner: str, output_id: str) -> Output:
    output = tx.outputs.find(output_id)
    if output is None or output.owner != owner:
        errors = (OutputNotFound, OutputGone)
        raise absent(tx, _KIND, output_id, owner, errors)
    if not output.status.is_readable:
        raise OutputNotReady("The output is just being published.", retry_after_seconds=1)
    return output
