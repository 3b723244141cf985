"""Everything jobs need, wired as the service wires it: a real database and real files."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Self, TypeVar

from app.domain import layout
from app.domain.access import OWNER
from app.domain.batches import Batch
from app.domain.holds import HoldPolicy
from app.domain.ids import new_id
from app.domain.jobs import Job, JobPolicy, JobStatus
from app.domain.kept_clips import KeptClipPolicy
from app.domain.outputs import Output
from app.domain.retention import RetentionPolicy
from app.domain.uploads import Upload, UploadMetadata
from app.infrastructure.clock import SystemClock
from app.infrastructure.database.engine import SqlDatabase
from app.infrastructure.database.migrate import upgrade
from app.infrastructure.metrics import PrometheusMetrics
from app.infrastructure.storage.local import LocalFiles
from app.infrastructure.storage.paths import DataFolder
from app.infrastructure.worker.digests import FileDigests
from app.infrastructure.worker.embedded import EmbeddedEngine
from app.infrastructure.worker.worker_lock import WorkerLock, WorkerLocks
from app.operations.moodle_log import MoodleLog
from app.operations.registry import Registry
from app.operations.trim import Trim
from app.services.disposal import Disposal
from app.services.input_digests import InputDigests
from app.services.job_claims import Claims
from app.services.job_closing import Closing
from app.services.job_creation import JobCreation
from app.services.job_endings import JobRules
from app.services.job_publication import Publication
from app.services.job_requests import JobRequest
from app.services.job_rescue import JobRescue
from app.services.job_retry import JobRetry
from app.services.job_run import LeaseKeeper
from app.services.job_runner import JobRunner
from app.services.job_steps import JobSteps
from app.services.jobs import JobService, JobView
from app.services.kept_clips import KeptClips
from app.services.logs import LogLooks
from app.services.media import MediaService
from app.services.ports import Database, Files, MediaProbe, StepRunner, Transaction
from app.services.recovery import Recovery
from app.services.stills import StillLooks
from app.services.workshop import Looks, Workshop
from tests.factories import make_batch, make_completed_upload, make_session
from tests.fakes.media import CLIP, FakeProbe, FakeStills
from tests.fakes.steps import Album, Detour, FakeSteps, Join, Polish

T = TypeVar("T")

POLICY = JobPolicy(
    queue_limit=5,
    timeout_seconds=30.0,
    timeout_max_seconds=60.0,
    stall_seconds=10.0,
    heartbeat_seconds=0.05,
    lease_seconds=5.0,
    max_attempts=3,
    queued_ttl=timedelta(hours=24),
    completed_ttl=timedelta(hours=24),
    failed_ttl=timedelta(hours=1),
)
LOG_MAX_BYTES = 2**28
HOLDS = HoldPolicy(
    keep_inputs=timedelta(hours=1),
    failed_ttl=timedelta(hours=2),
    released_at_once=frozenset({MoodleLog.name}),
)
RETENTION = RetentionPolicy(
    max_ttl=timedelta(days=30), delivery_grace=timedelta(minutes=10), tombstones=timedelta(days=30)
)
KEPT_CLIPS = KeptClipPolicy(kept_for=timedelta(hours=1), max_bytes=2**30, reserve_bytes=0)
MADE_BY = "9.0"
"""The version that the steps' FFmpeg is said to have."""
BATCH_TTL = timedelta(hours=24)
LIMIT_SECONDS = 10.0


def prepare(root: Path) -> str:
    """Make data folder and database at ``root``; returns the database's address."""
    DataFolder.open(root)
    url = f"sqlite:///{root / layout.DATABASE}"
    upgrade(url)
    return url


@dataclass(slots=True)
class House:
    """One process's worth of the job part. Several may stand on one folder."""

    root: Path
    url: str
    policy: JobPolicy
    worker: str
    clock: SystemClock
    real_db: SqlDatabase
    db: Database
    files: Files
    metrics: PrometheusMetrics
    steps: FakeSteps
    probe: FakeProbe
    media: MediaService
    closing: Closing
    publication: Publication
    runner: JobRunner
    engine: EmbeddedEngine
    jobs: JobService
    rescue: JobRescue
    recovery: Recovery
    lock: WorkerLock | None

    @classmethod
    def build(
        cls,
        root: Path,
        *,
        policy: JobPolicy = POLICY,
        workers: int = 2,
        db_through: Callable[[Database], Database] = lambda db: db,
        files_through: Callable[[Files], Files] = lambda files: files,
        tools: tuple[MediaProbe, StepRunner] | None = None,
        kept_clips: KeptClipPolicy = KEPT_CLIPS,
        made_by: str = MADE_BY,
    ) -> Self:
        """Wire a house; ``…_through`` put something between the services and a port.

        ``tools`` are a real probe and step runner instead of the fakes, which then stay idle.
        """
        url = f"sqlite:///{root / layout.DATABASE}"
        clock, metrics, rules = SystemClock(), PrometheusMetrics(), JobRules(policy, HOLDS)
        real_db = SqlDatabase.open(url, clock=clock, busy_seconds=0.5)
        db, files = db_through(real_db), files_through(LocalFiles(DataFolder(root)))
        disposal = Disposal(db, files, clock, metrics)
        steps, probe, worker = FakeSteps(), FakeProbe(), new_id()
        registry = Registry([Polish(), Join(), Album(), Detour(), Trim(), MoodleLog()])
        real_probe, real_steps = tools or (probe, steps)
        looks = Looks(
            media=MediaService(db, files, real_probe),
            stills=StillLooks(files, FakeStills()),
            logs=LogLooks(files, LOG_MAX_BYTES),
            digests=InputDigests(db, FileDigests()),
        )
        workshop = Workshop(db, files, looks, registry)
        closing = Closing(db, files, disposal, clock, metrics, rules)
        publication = Publication(db, files, FileDigests(), clock, closing)
        kept = KeptClips(db, files, clock, metrics, disposal, kept_clips)
        engine = EmbeddedEngine(db, clock, workers=workers, poll_seconds=0.1)
        rescue = JobRescue(db, engine, disposal, metrics, rules)
        run_folder = root / layout.RUN
        return cls(
            root=root,
            url=url,
            policy=policy,
            worker=worker,
            clock=clock,
            real_db=real_db,
            db=db,
            files=files,
            metrics=metrics,
            steps=steps,
            probe=probe,
            media=looks.media,
            closing=closing,
            publication=publication,
            runner=JobRunner(
                Claims(worker, db, clock),
                LeaseKeeper(db, clock, policy),
                workshop,
                JobSteps(real_steps, kept, made_by),
                publication,
                closing,
            ),
            engine=engine,
            jobs=JobService(
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
                    batch_ttl=BATCH_TTL,
                ),
                again=JobRetry(
                    db=db,
                    clock=clock,
                    queue=engine,
                    disposal=disposal,
                    rules=rules,
                    batch_ttl=BATCH_TTL,
                ),
            ),
            rescue=rescue,
            recovery=Recovery(
                db=db,
                files=files,
                clock=clock,
                workers=WorkerLocks(run_folder),
                rescue=rescue,
                disposal=disposal,
            ),
            lock=WorkerLock.acquire(run_folder, worker),
        )

    def die(self) -> None:
        """Let go of the worker's lock as the kernel does for a dead process: the file stays."""
        if self.lock is not None and self.lock._descriptor is not None:
            os.close(self.lock._descriptor)
            self.lock = None

    async def close(self) -> None:
        """Stop the engine, free the lock and close the database."""
        await self.engine.stop()
        if self.lock is not None:
            self.lock.release()
        await self.real_db.close()

    # --- rows and files ---

    async def add_batch(self, *contents: bytes, owner: str = OWNER) -> tuple[Batch, list[Upload]]:
        """Store a batch of completed uploads with these contents, in this order."""
        now = self.clock.now()
        session = make_session(owner=owner, created_at=now, active_at=now)
        batch = make_batch(
            session_id=session.id,
            owner=owner,
            created_at=now,
            expires_at=now + timedelta(minutes=1),
        )
        uploads = [
            make_completed_upload(
                owner=owner,
                session_id=session.id,
                batch_id=batch.id,
                length=len(content),
                metadata=UploadMetadata(filename=f"clip{place}"),
                created_at=now + timedelta(microseconds=place),
            )
            for place, content in enumerate(contents)
        ]

        def insert(tx: Transaction) -> None:
            tx.sessions.insert(session)
            tx.batches.insert(batch)
            for upload in uploads:
                tx.uploads.insert(upload)

        await self.real_db.write(insert)
        for upload, content in zip(uploads, contents, strict=True):
            (self.root / layout.upload_path(upload.id)).write_bytes(content)
        return batch, uploads

    async def add_job(self, content: bytes = CLIP, **request: object) -> Job:
        """Ask for a ``polish`` of a new clip, as a client would."""
        batch, _ = await self.add_batch(content)
        asked = JobRequest(operation="polish", params={}, batch_id=batch.id)
        made = await self.jobs.create(OWNER, replace(asked, **request))  # type: ignore[arg-type]
        return made.view.job

    async def row(self, job_id: str) -> Job:
        """The job's row as it is now."""
        job = await self.real_db.read(lambda tx: tx.jobs.find(job_id))
        assert job is not None
        return job

    async def upload(self, upload_id: str) -> Upload:
        """The upload's row as it is now."""
        upload = await self.real_db.read(lambda tx: tx.uploads.find(upload_id))
        assert upload is not None
        return upload

    async def outputs(self, job_id: str) -> list[Output]:
        """All output rows of a job, published or not."""
        return await self.real_db.read(lambda tx: tx.outputs.list_by_job(job_id))

    async def cleanups(self) -> list[str]:
        """The paths that are still to be deleted."""
        return [each.path for each in await self.real_db.read(lambda tx: tx.cleanup.list_all(99))]

    async def expire_heartbeat(self, job_id: str, by: timedelta = timedelta(hours=1)) -> Job:
        """Make a processing job look as if its worker had been silent for long."""

        def work(tx: Transaction) -> Job:
            job = tx.jobs.find(job_id)
            assert job is not None
            assert job.heartbeat_at is not None
            silent = replace(job, heartbeat_at=job.heartbeat_at - by)
            tx.jobs.update(silent, expected=JobStatus.PROCESSING, attempt=job.attempt)
            return silent

        return await self.real_db.write(work)

    def leftovers(self) -> list[str]:
        """Every file and folder below work/, outputs/ and cache/."""
        # Not by rglob, which fails when a folder goes while it looks.
        return sorted(
            (Path(folder) / each).relative_to(self.root).as_posix()
            for name in (layout.WORK, layout.OUTPUTS, layout.CACHE)
            for folder, folders, files in os.walk(self.root / name)
            for each in (*folders, *files)
        )

    async def is_tidy(self) -> bool:
        """Whether nothing is left below work/, outputs/ and cache/."""
        return not self.leftovers()

    async def until(self, job_id: str, *statuses: JobStatus) -> Job:
        """Wait until the job has one of these states."""

        async def look() -> Job | None:
            job = await self.row(job_id)
            return job if job.status in statuses else None

        return await eventually(look)

    async def view(self, job_id: str) -> JobView:
        return await self.jobs.get(OWNER, job_id)


async def eventually(look: Callable[[], Awaitable[T | None]], seconds: float = LIMIT_SECONDS) -> T:
    """Call ``look`` until it answers something, within ``seconds``."""
    async with asyncio.timeout(seconds):
        while True:
            found = await look()
            if found:
                return found
            await asyncio.sleep(0.01)
