"""The job part over a real database, real files and a clock moved by hand, its workers run by steps.

A worker's attempt is taken as far as a test wants and then stands still, as under SIGSTOP, while
others go on: claimed, working, announced (output rows ``publishing``), renamed, closed.
"""

import asyncio
import contextlib
import shutil
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Self

from app.domain import layout
from app.domain.access import OWNER
from app.domain.errors import AppError
from app.domain.holds import HoldPolicy
from app.domain.ids import new_id
from app.domain.jobs import InputRole, Job, JobInput, JobPolicy, NewJob, queue
from app.domain.outputs import Output
from app.domain.retention import RetentionPolicy
from app.domain.sweeps import SweepName
from app.domain.tombstones import ThingKind, Tombstone
from app.domain.uploads import Upload
from app.infrastructure.database.engine import SqlDatabase
from app.infrastructure.database.migrate import upgrade
from app.infrastructure.metrics import PrometheusMetrics
from app.infrastructure.storage.local import LocalFiles
from app.infrastructure.storage.paths import DataFolder
from app.infrastructure.worker.digests import FileDigests
from app.operations.base import Plan
from app.operations.registry import Registry
from app.services.disposal import Disposal
from app.services.input_digests import InputDigests
from app.services.job_claims import Claims
from app.services.job_closing import Closed, Closing
from app.services.job_creation import JobCreation
from app.services.job_endings import JobRules
from app.services.job_publication import Publication
from app.services.job_rescue import JobRescue
from app.services.job_retry import JobRetry
from app.services.job_run import Run
from app.services.jobs import JobService
from app.services.logs import LogLooks
from app.services.media import MediaService
from app.services.ports import Beat, Transaction
from app.services.stills import StillLooks
from app.services.sweeps.base import Sweep, SweepRun
from app.services.sweeps.inputs import SpentInputs
from app.services.sweeps.jobs import ExpiredJobs, JobTimeouts
from app.services.workshop import Looks, Workshop
from tests.factories import make_batch, make_completed_upload, make_session
from tests.fakes.clock import FakeClock
from tests.fakes.media import CLIP, FakeProbe, FakeStills
from tests.fakes.steps import Polish
from tests.fakes.sweeping import RememberingQueue

HOUR = timedelta(hours=1)
POLICY = JobPolicy(
    queue_limit=3,
    timeout_seconds=60,
    timeout_max_seconds=120,
    stall_seconds=30,
    heartbeat_seconds=2,
    lease_seconds=15,
    max_attempts=2,
    queued_ttl=5 * HOUR,
    completed_ttl=2 * HOUR,
    failed_ttl=HOUR,
)
HOLDS = HoldPolicy(keep_inputs=HOUR, failed_ttl=HOUR)
RETENTION = RetentionPolicy(max_ttl=10 * HOUR, delivery_grace=HOUR, tombstones=720 * HOUR)
RESULT = CLIP + b"that shines"
"""What a run makes is a clip itself, so that another job can read it."""


class PausingFiles(LocalFiles):
    """Files whose ``publish`` waits before the rename and after it, each until it may go on."""

    def __init__(self, folder: DataFolder) -> None:
        super().__init__(folder)
        self.may_rename = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.stands = asyncio.Event()

    async def publish(self, source: Path, output_id: str) -> None:
        self.stands.set()
        await self.may_rename.wait()
        await super().publish(source, output_id)
        self.stands.set()
        await self.may_go_on.wait()


@dataclass(slots=True)
class Attempt:
    """One attempt as its worker has it in hand. ``publishing`` goes on in the background."""

    run: Run
    files: PausingFiles
    publication: Publication
    plan: Plan | None = None
    folder: Path | None = None
    publishing: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        return self.run.closed is not None


@dataclass(frozen=True, slots=True)
class Found:
    """What rows there are. ``pending`` counts bytes that are still to be deleted."""

    jobs: dict[str, Job]
    outputs: list[Output]
    uploads: list[Upload]
    tombstones: list[Tombstone]
    pending: int


@dataclass(slots=True)
class Life:
    """One data folder, and everything that may happen to its jobs."""

    root: Path
    clock: FakeClock
    db: SqlDatabase
    files: LocalFiles
    jobs: JobService
    closing: Closing
    workshop: Workshop
    sweeps: dict[SweepName, Sweep]
    claims: dict[str, Claims]
    attempts: list[Attempt] = field(default_factory=list)

    @classmethod
    def open(cls, root: Path, *, template: Path, workers: tuple[str, ...] = ("w1", "w2")) -> Self:
        """Open a life on a new folder; ``template`` is a migrated, empty database."""
        folder = DataFolder.open(root)
        shutil.copyfile(template, root / layout.DATABASE)
        clock, metrics, rules = FakeClock(), PrometheusMetrics(), JobRules(POLICY, HOLDS)
        db = SqlDatabase.open(f"sqlite:///{root / layout.DATABASE}", clock=clock)
        files, engine = LocalFiles(folder), RememberingQueue()
        disposal = Disposal(db, files, clock, metrics)
        registry = Registry([Polish()])
        looks = Looks(
            media=MediaService(db, files, FakeProbe()),
            stills=StillLooks(files, FakeStills()),
            logs=LogLooks(files, 2**20),
            digests=InputDigests(db, FileDigests()),
        )
        workshop = Workshop(db, files, looks, registry)
        rescue = JobRescue(db, engine, disposal, metrics, rules)
        sweeps: tuple[Sweep, ...] = (
            SpentInputs(db, files, disposal),
            JobTimeouts(db, rescue),
            ExpiredJobs(db, disposal, POLICY),
        )
        jobs = JobService(
            db=db,
            clock=clock,
            queue=engine,
            registry=registry,
            disposal=disposal,
            rules=rules,
            retention=RETENTION,
            creation=JobCreation(
                db=db,
                clock=clock,
                queue=engine,
                registry=registry,
                workshop=workshop,
                rules=rules,
                batch_ttl=1000 * HOUR,
            ),
            again=JobRetry(
                db=db,
                clock=clock,
                queue=engine,
                disposal=disposal,
                rules=rules,
                batch_ttl=1000 * HOUR,
            ),
            cancel_wait_seconds=0,
            delete_wait_seconds=0,
        )
        return cls(
            root=root,
            clock=clock,
            db=db,
            files=files,
            jobs=jobs,
            closing=Closing(db, files, disposal, clock, metrics, rules),
            workshop=workshop,
            sweeps={each.name: each for each in sweeps},
            claims={name: Claims(name, db, clock) for name in workers},
        )

    async def close(self) -> None:
        """Let go of everything that stands still, then close the database."""
        for attempt in self.attempts:
            attempt.files.may_rename.set()
            attempt.files.may_go_on.set()
            if attempt.publishing is not None:
                await attempt.publishing
        await self.db.close()

    # --- what clients do beyond the service ---

    async def add_upload(self, keep_inputs_hours: float | None = None) -> Upload:
        """Store a batch of one clip."""
        now = self.clock.now()
        session = make_session(created_at=now, active_at=now)
        batch = make_batch(
            session_id=session.id,
            created_at=now,
            expires_at=now + 1000 * HOUR,
            keep_inputs_hours=keep_inputs_hours,
        )
        upload = make_completed_upload(
            session_id=session.id, batch_id=batch.id, length=len(CLIP), created_at=now
        )

        def insert(tx: Transaction) -> None:
            tx.sessions.insert(session)
            tx.batches.insert(batch)
            tx.uploads.insert(upload)

        await self.db.write(insert)
        (self.root / layout.upload_path(upload.id)).write_bytes(CLIP)
        return upload

    async def add_then_job(self, upload: Upload) -> Job:
        """Queue a job as a session's ``then`` does, whatever the length of the queue."""
        new = NewJob(
            operation="polish",
            params={},
            inputs=(JobInput(InputRole.CLIP, upload_id=upload.id),),
            batch_id=upload.batch_id,
            from_then=True,
        )
        job = queue(new, new_id(), OWNER, self.clock.now(), POLICY)
        await self.db.write(lambda tx: tx.jobs.insert(job))
        return job

    async def sweep(self, name: SweepName) -> list[str]:
        """Run a sweep and return its errors."""
        run = SweepRun(name, self.clock.now(), limit=1000)
        await self.sweeps[name].run(run)
        return run.tally.errors

    # --- what workers do, step by step ---

    async def claim(self, worker: str, job_id: str, attempt: int) -> Attempt | None:
        claims = self.claims[worker]
        run = await claims.claim(claims.fence(job_id, attempt))
        if run is None:
            return None
        files = PausingFiles(DataFolder(self.root))
        publication = Publication(self.db, files, FileDigests(), self.clock, self.closing)
        made = Attempt(run, files, publication)
        self.attempts.append(made)
        return made

    async def beat(self, attempt: Attempt) -> Beat | None:
        now, fence = self.clock.now(), attempt.run.fence
        return await self.db.write(
            lambda tx: tx.jobs.beat(fence, now=now, progress=50.0, stage="shine")
        )

    async def work(self, attempt: Attempt) -> None:
        """Make the folder and the result in it; ends the attempt when that cannot be."""
        try:
            place = await self.workshop.prepare(attempt.run.job)
        except AppError as error:
            await self.fail(attempt, error)
            return
        attempt.plan, attempt.folder = place.plan, place.folder
        for planned in place.plan.outputs:
            (place.folder / planned.file).write_bytes(RESULT)

    async def announce(self, attempt: Attempt) -> None:
        """Measure the result, write its row, and stand still before the rename."""
        attempt.publishing = asyncio.get_running_loop().create_task(self._publish(attempt))
        await self._until_it_stands(attempt)

    async def rename(self, attempt: Attempt) -> None:
        """Rename the result to its output's path, and stand still before the last transaction."""
        attempt.files.stands.clear()
        attempt.files.may_rename.set()
        await self._until_it_stands(attempt)

    async def complete(self, attempt: Attempt) -> None:
        """Go on to the end of the publication."""
        assert attempt.publishing is not None
        attempt.files.may_go_on.set()
        await attempt.publishing

    async def fail(self, attempt: Attempt, error: AppError) -> None:
        """End an attempt with ``error``, as the runner does."""
        run = attempt.run
        run.closed = await self.closing.fail(run.fence, error)
        await self._end(attempt)

    async def cancel(self, attempt: Attempt) -> None:
        """End an attempt whose worker has seen that it was cancelled."""
        attempt.run.closed = await self.closing.cancel(attempt.run.fence)
        await self._end(attempt)

    async def hand_back(self, attempt: Attempt) -> None:
        """End an attempt whose worker stops."""
        attempt.run.closed = await self.closing.hand_back(attempt.run.fence)
        await self._end(attempt)

    async def abandon(self, attempt: Attempt) -> None:
        """End an attempt whose worker has heard that it was fenced out."""
        await self._end(attempt)

    async def _publish(self, attempt: Attempt) -> None:
        run, plan, folder = attempt.run, attempt.plan, attempt.folder
        assert plan is not None
        assert folder is not None
        try:
            await attempt.publication.inspect(run, plan, folder)
            await attempt.publication.publish(run, plan, folder)
        except AppError as error:
            run.closed = await self.closing.fail(run.fence, error)
        await self._end(attempt)

    async def _end(self, attempt: Attempt) -> None:
        run = attempt.run
        if run.closed is None or run.closed is Closed.LOST:
            await self.closing.abandon(run.job, run.fence, run.output_ids)
            run.closed = Closed.LOST

    async def _until_it_stands(self, attempt: Attempt) -> None:
        assert attempt.publishing is not None
        stands = asyncio.ensure_future(attempt.files.stands.wait())
        await asyncio.wait([attempt.publishing, stands], return_when=asyncio.FIRST_COMPLETED)
        stands.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stands
        if attempt.publishing.done():
            attempt.publishing.result()

    # --- what there is ---

    async def look(
        self, job_ids: list[str], upload_ids: list[str], gone: list[tuple[ThingKind, str]]
    ) -> Found:
        """Return the rows that there are of these things, and the tombstones of those."""

        def work(tx: Transaction) -> Found:
            jobs = [tx.jobs.find(job_id) for job_id in job_ids]
            uploads = [tx.uploads.find(upload_id) for upload_id in upload_ids]
            stones = [tx.tombstones.find(*thing) for thing in gone]
            return Found(
                jobs={job.id: job for job in jobs if job is not None},
                outputs=[o for job_id in job_ids for o in tx.outputs.list_by_job(job_id)],
                uploads=[upload for upload in uploads if upload is not None],
                tombstones=[stone for stone in stones if stone is not None],
                pending=tx.cleanup.count(),
            )

        return await self.db.read(work)

    def stored(self) -> set[str]:
        """The relative paths of all uploads, outputs and attempts' folders."""
        kept = {
            path.relative_to(self.root).as_posix()
            for name in (layout.UPLOADS, layout.OUTPUTS)
            for path in (self.root / name).iterdir()
        }
        attempts = (self.root / layout.WORK).glob("*/*")
        return kept | {path.relative_to(self.root).as_posix() for path in attempts}


def make_template(folder: Path) -> Path:
    """Make a migrated, empty database to be copied, since migrating takes its time."""
    path = folder / "template.db"
    upgrade(f"sqlite:///{path}")
    return path
