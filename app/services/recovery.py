"""What a start does for jobs: nothing of a dead attempt stays, and nobody waits for a dead worker."""

from dataclasses import dataclass

import structlog

from app.domain import layout
from app.domain.ids import is_id
from app.domain.jobs import Job, JobStatus
from app.domain.outputs import Output
from app.services.disposal import Disposal
from app.services.job_endings import pending
from app.services.job_rescue import JobRescue
from app.services.ports import Clock, Database, Files, Transaction, WorkEntry, Workers
from app.services.sync_removal import RequestRemoval

log = structlog.get_logger(__name__)

PAGE = 1000
"""More than any number of workers leaves; what is over is the next start's and the sweeps' work."""


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What one recovery did."""

    jobs_recovered: int
    outputs_removed: int
    scratch_removed: int
    workers_removed: int
    bytes_freed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Takes back what dead processes of this host left. Safe beside living ones, and to repeat."""

    db: Database
    files: Files
    clock: Clock
    workers: Workers
    rescue: JobRescue
    disposal: Disposal
    removal: RequestRemoval | None = None

    async def run(self) -> RecoveryReport:
        """Remove what requests of dead processes left, re-queue jobs whose worker's lock is free, then
        remove what their attempts left.
        """
        if self.removal is not None:
            await self.removal.take_all_back()
        jobs = await self._recover_jobs()
        outputs, output_bytes = await self._remove_publishing()
        scratch, scratch_bytes = await self._remove_scratch()
        report = RecoveryReport(
            jobs_recovered=jobs,
            outputs_removed=outputs,
            scratch_removed=scratch,
            workers_removed=len(self.workers.remove_stale()),
            bytes_freed=output_bytes + scratch_bytes,
        )
        log.info(
            "recovery.finished",
            jobs=report.jobs_recovered,
            outputs=report.outputs_removed,
            scratch=report.scratch_removed,
            workers=report.workers_removed,
            bytes_freed=report.bytes_freed,
        )
        return report

    async def _recover_jobs(self) -> int:
        recovered = 0
        for job in await self.db.read(lambda tx: tx.jobs.list_processing(PAGE)):
            if not self._is_alive(job):
                recovered += await self.rescue.recover(job, self.clock.now()) is not None
        return recovered

    async def _remove_publishing(self) -> tuple[int, int]:
        """Remove outputs that were being published by attempts that are over."""

        def work(tx: Transaction) -> list[str]:
            paths = []
            for output in tx.outputs.list_publishing(PAGE):
                job = tx.jobs.find(output.job_id)
                if not _is_live(job, output.attempt):
                    paths.append(self._forget(tx, output))
            return paths

        paths = await self.db.write(work)
        return len(paths), await self.disposal.settle(paths)

    def _forget(self, tx: Transaction, output: Output) -> str:
        path = layout.output_path(output.id)
        now = self.clock.now()
        tx.outputs.delete(output.id)
        tx.cleanup.put(pending(path, owner=output.owner, reason="never_published", now=now))
        return path

    async def _remove_scratch(self) -> tuple[int, int]:
        """Remove everything in ``work/`` but the folders of live attempts and of living workers.

        The folder is listed first: an attempt is claimed, and a worker's lock taken, before its
        folder is made, so that whatever of the list belongs to neither now is dead or foreign.
        """
        found = await self.files.list_work()
        left = [each for each in found if not self._is_a_living_worker_s(each)]

        def dead(tx: Transaction) -> list[WorkEntry]:
            return [each for each in left if not _is_needed(tx, each)]

        paths = [each.path for each in await self.db.read(dead)]
        return len(paths), await self.disposal.settle(paths)

    def _is_a_living_worker_s(self, entry: WorkEntry) -> bool:
        is_inside = entry.is_folder or entry.name is not None
        return is_inside and is_id(entry.owner) and self.workers.is_alive(entry.owner)

    def _is_alive(self, job: Job) -> bool:
        return job.worker is not None and self.workers.is_alive(job.worker)


def _is_needed(tx: Transaction, entry: WorkEntry) -> bool:
    """Whether an entry of ``work/`` is a job's that may be running, or may soon be."""
    job = tx.jobs.find(entry.owner) if is_id(entry.owner) else None
    if job is None:
        return False
    if entry.name is None:
        # An empty folder stays while there is a row: by the time that it would be deleted, another
        # attempt may have moved in. That attempt takes it along, or the burial of the job.
        return entry.is_folder
    return entry.name == str(job.attempt) and _is_live(job, job.attempt)


def _is_live(job: Job | None, attempt: int) -> bool:
    """Whether some worker may be at that attempt; the dead ones' have moved on by now."""
    return job is not None and job.status is JobStatus.PROCESSING and job.attempt == attempt
