"""Publishing what a run made, in three steps that can each be the last thing a process does.

1. output rows ``publishing``, fenced and committed: from here on the files have an owner;
2. sync and rename each file to its output's path;
3. one fenced transaction: the job is completed and its outputs are available.

Whoever dies after 1 or 2 leaves rows of a dead attempt, which start-up and the sweep
``job_timeouts`` remove together with their files before the job runs again.
"""

from pathlib import Path

from app.domain.ids import new_id
from app.domain.jobs import Job
from app.domain.outputs import Output, OutputStatus
from app.operations.base import Plan, PlannedOutput
from app.services.cancellation import uninterrupted
from app.services.job_closing import Closed, Closing
from app.services.job_run import Run
from app.services.ports import Clock, Database, Digest, Digests, Files, Transaction


class Publication:
    """Turns the files of a finished run into outputs. Raises NoSpace, StorageFailed."""

    def __init__(
        self, db: Database, files: Files, digests: Digests, clock: Clock, closing: Closing
    ) -> None:
        self._db = db
        self._files = files
        self._digests = digests
        self._clock = clock
        self._closing = closing

    async def inspect(self, run: Run, plan: Plan, folder: Path) -> None:
        """Measure the finished files, which may take a while and can be cancelled."""
        run.products = tuple(
            [
                self._row(run.job, planned, await self._digests.of(folder / planned.file))
                for planned in plan.outputs
            ]
        )

    async def publish(self, run: Run, plan: Plan, folder: Path) -> None:
        """Publish everything that was inspected and set ``run.closed``.

        Runs to its end even when cancelled, since a rename that goes on in a thread after its
        caller has cleaned up would leave a file that nobody knows.
        """
        await uninterrupted(self._steps(run, plan, folder))

    async def _steps(self, run: Run, plan: Plan, folder: Path) -> None:
        if not await self._db.write(lambda tx: _announce(tx, run)):
            run.closed = Closed.LOST
            return
        for planned, output in zip(plan.outputs, run.products, strict=True):
            await self._files.publish(folder / planned.file, output.id)
        run.closed = await self._closing.complete(run.fence, plan)

    def _row(self, job: Job, planned: PlannedOutput, digest: Digest) -> Output:
        return Output(
            id=new_id(),
            owner=job.owner,
            job_id=job.id,
            attempt=job.attempt,
            status=OutputStatus.PUBLISHING,
            filename=job.output_name or planned.filename,
            media_type=planned.media_type,
            size_bytes=digest.size_bytes,
            sha256=digest.sha256,
            one_time=job.one_time,
            created_at=self._clock.now(),
            delivered_at=None,
            expires_at=None,
        )


def _announce(tx: Transaction, run: Run) -> bool:
    row = tx.jobs.find(run.fence.job_id)
    if row is None or not run.fence.is_held(row):
        return False
    for output in run.products:
        tx.outputs.insert(output)
    return True
