"""A data folder with a database in it, and rows of every noun, for tests of what is deleted when."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app.domain.access import OWNER
from app.domain.batches import Batch
from app.domain.ids import new_id
from app.domain.jobs import InputRole, Job, JobInput, JobPolicy, JobStatus, NewJob, queue
from app.domain.kept_clips import KeptClip, KeptClipPolicy
from app.domain.layout import kept_clip_path, output_path, upload_path
from app.domain.outputs import Output, OutputStatus
from app.domain.retention import RetentionPolicy
from app.domain.sessions import Session, SessionPolicy, SessionStatus
from app.domain.sweeps import PendingCleanup
from app.domain.tombstones import ThingKind, Tombstone
from app.domain.uploads import FsyncMode, Upload, UploadMetadata, UploadPolicy, UploadStatus
from app.infrastructure.database.engine import SqlDatabase
from app.infrastructure.database.migrate import upgrade
from app.infrastructure.metrics import PrometheusMetrics
from app.infrastructure.storage.local import LocalFiles
from app.infrastructure.storage.paths import DataFolder
from app.infrastructure.storage.upload_bytes import FileUploadBytes
from app.infrastructure.storage.upload_locks import FlockUploadLocks
from app.services.disposal import Disposal

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
UPLOAD_POLICY = UploadPolicy(
    max_upload_bytes=1 << 40,
    metadata_max_bytes=8192,
    expires_after=DAY,
    expires_cap=7 * DAY,
    read_timeout_seconds=60,
    lock_wait_seconds=1,
    reserve_bytes=0,
)
SESSION_POLICY = SessionPolicy(max_age=DAY, batch_ttl=DAY)
RETENTION_POLICY = RetentionPolicy(
    max_ttl=timedelta(days=30), delivery_grace=timedelta(minutes=10), tombstones=timedelta(days=30)
)
KEPT_CLIP_POLICY = KeptClipPolicy(kept_for=HOUR, max_bytes=1000, reserve_bytes=0)
JOB_POLICY = JobPolicy(
    queue_limit=100,
    timeout_seconds=600,
    timeout_max_seconds=7200,
    stall_seconds=60,
    heartbeat_seconds=2,
    lease_seconds=15,
    max_attempts=3,
    queued_ttl=DAY,
    completed_ttl=DAY,
    failed_ttl=HOUR,
)


@dataclass
class MovableClock:
    """Starts at the present, since files carry the disk's own times; moved by hand."""

    ahead: timedelta = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return self.now().timestamp()

    def advance(self, by: timedelta) -> None:
        self.ahead += by


@dataclass
class Seen:
    """Everything that a dry run must leave as it is."""

    rows: Mapping[str, Any]
    files: Mapping[str, bytes]


@dataclass
class World:
    """One data folder and its database, both real, and makers of rows with their bytes."""

    root: Path
    clock: MovableClock
    db: SqlDatabase
    folder: DataFolder
    files: LocalFiles
    locks: FlockUploadLocks
    upload_bytes: FileUploadBytes
    metrics: PrometheusMetrics
    disposal: Disposal
    kept_clips: KeptClipPolicy = KEPT_CLIP_POLICY
    completed: list[str] = field(default_factory=list)

    async def session(self, **changes: Any) -> Session:
        now = self.clock.now()
        session = replace(
            Session(
                id=new_id(),
                owner=OWNER,
                status=SessionStatus.OPEN,
                expected_files=None,
                then=None,
                batch_id=None,
                implicit=False,
                keep_inputs_hours=None,
                created_at=now,
                active_at=now,
            ),
            **changes,
        )
        await self.db.write(lambda tx: tx.sessions.insert(session))
        return session

    async def upload(self, session: Session, data: bytes | None = None, **changes: Any) -> Upload:
        """Insert an upload of 100 bytes; ``data`` is what is in its file, None: no file."""
        now = self.clock.now()
        upload = replace(
            Upload(
                id=new_id(),
                owner=OWNER,
                session_id=session.id,
                batch_id=None,
                status=UploadStatus.RECEIVING,
                length=100,
                recorded_offset=len(data or b""),
                synced_offset=0,
                boot_id=self.upload_bytes.boot_id,
                metadata=UploadMetadata(),
                media=None,
                sha256=None,
                created_at=now,
                active_at=now,
                completed_at=None,
                expires_at=now + DAY,
                spent_at=None,
            ),
            **changes,
        )
        await self.db.write(lambda tx: tx.uploads.insert(upload))
        if data is not None:
            self.path(upload_path(upload.id)).write_bytes(data)
        return upload

    async def completed_upload(self, session: Session, **changes: Any) -> Upload:
        now = self.clock.now()
        done = {"status": UploadStatus.COMPLETED, "completed_at": now, "recorded_offset": 100}
        return await self.upload(session, b"x" * 100, **{**done, **changes})

    async def batch(self, files: int = 1, **changes: Any) -> tuple[Batch, list[Upload]]:
        """Insert a batch of completed uploads of 100 bytes each, with its session."""
        now = self.clock.now()
        session = await self.session()
        batch = replace(Batch(new_id(), OWNER, session.id, now, now + DAY, None), **changes)
        await self.db.write(lambda tx: tx.batches.insert(batch))
        batched = replace(session, status=SessionStatus.BATCHED, batch_id=batch.id)
        await self.db.write(lambda tx: tx.sessions.update(batched, expected=SessionStatus.OPEN))
        uploads = [await self.completed_upload(session, batch_id=batch.id) for _ in range(files)]
        return batch, uploads

    async def job(self, *inputs: Upload | Output, **changes: Any) -> Job:
        wanted = tuple(
            JobInput(InputRole.CLIP, upload_id=each.id)
            if isinstance(each, Upload)
            else JobInput(InputRole.CLIP, output_id=each.id)
            for each in inputs
        )
        new = NewJob(operation="trim", params={"start": 1}, inputs=wanted)
        job = replace(queue(new, new_id(), OWNER, self.clock.now(), JOB_POLICY), **changes)
        await self.db.write(lambda tx: tx.jobs.insert(job))
        return job

    async def ended_job(self, status: JobStatus, *inputs: Upload | Output, **changes: Any) -> Job:
        now = self.clock.now()
        ended = {"status": status, "completed_at": now, "expires_at": now + HOUR}
        return await self.job(*inputs, **{**ended, **changes})

    async def output(self, job: Job, data: bytes = b"y" * 50) -> Output:
        output = Output(
            id=new_id(),
            owner=OWNER,
            job_id=job.id,
            attempt=1,
            status=OutputStatus.AVAILABLE,
            filename="out.mp4",
            media_type="video/mp4",
            size_bytes=len(data),
            sha256="0" * 64,
            one_time=False,
            created_at=self.clock.now(),
            delivered_at=None,
            expires_at=None,
        )
        await self.db.write(lambda tx: tx.outputs.insert(output))
        self.path(output_path(output.id)).write_bytes(data)
        return output

    async def kept_clip(self, job: Job, data: bytes = b"z" * 70, **changes: Any) -> KeptClip:
        now = self.clock.now()
        clip = replace(
            KeptClip(new_id(), job.owner, new_id(), job.id, len(data), now, now), **changes
        )
        await self.db.write(lambda tx: tx.kept_clips.insert(clip))
        self.path(kept_clip_path(clip.id)).write_bytes(data)
        return clip

    def path(self, relative: str) -> Path:
        return self.root / relative

    def age_file(self, upload: Upload, by: timedelta) -> None:
        """Make an upload's file look as if its last byte came ``by`` before the clock's now."""
        then = (self.clock.now() - by).timestamp()
        os.utime(self.path(upload_path(upload.id)), (then, then))

    async def find_upload(self, upload_id: str) -> Upload | None:
        return await self.db.read(lambda tx: tx.uploads.find(upload_id))

    async def tombstone(self, kind: ThingKind, thing_id: str) -> Tombstone | None:
        return await self.db.read(lambda tx: tx.tombstones.find(kind, thing_id))

    async def pending(self) -> list[PendingCleanup]:
        return await self.db.read(lambda tx: tx.cleanup.list_all(100))

    def stored(self) -> set[str]:
        """The relative paths of all files of uploads, work and outputs."""
        return {
            path.relative_to(self.root).as_posix()
            for name in ("uploads", "work", "outputs", "cache")
            for path in self.path(name).rglob("*")
            if not path.is_dir() or path.is_symlink()
        }

    async def complete(self, upload_id: str) -> None:
        """Stand-in for the completion handler, which has tests of its own."""

        def work(tx: Any) -> None:
            upload = tx.uploads.find(upload_id)
            done = replace(upload, status=UploadStatus.COMPLETED, completed_at=self.clock.now())
            tx.uploads.update(done, expected=UploadStatus.RECEIVING)

        await self.db.write(work)
        self.completed.append(upload_id)


def database_url(root: Path) -> str:
    return f"sqlite:///{root}/tidemill.db"


@asynccontextmanager
async def open_world(root: Path, clock: MovableClock | None = None) -> AsyncIterator[World]:
    """A world on ``root``; opening it twice is a second process's view of the same folder."""
    clock = clock or MovableClock()
    folder = DataFolder.open(root)
    upgrade(database_url(root))
    db = SqlDatabase.open(database_url(root), clock=clock)
    files = LocalFiles(folder)
    metrics = PrometheusMetrics()
    upload_bytes = FileUploadBytes(folder, fsync=FsyncMode.COMPLETE)
    try:
        yield World(
            root=root,
            clock=clock,
            db=db,
            folder=folder,
            files=files,
            locks=FlockUploadLocks(folder),
            upload_bytes=upload_bytes,
            metrics=metrics,
            disposal=Disposal(db, files, clock, metrics),
        )
    finally:
        upload_bytes.close()
        await db.close()
