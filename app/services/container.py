"""Everything that was built for one process, in one frozen place. Knows no settings."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from app.domain.retention import RetentionPolicy
from app.domain.sweeps import SweepName
from app.operations.registry import Registry
from app.services.batches import BatchService
from app.services.checksums import Checksums
from app.services.completion import CompletionService
from app.services.disposal import Disposal
from app.services.draining import Drain
from app.services.form_uploads import FormUploads
from app.services.job_runner import JobRunner
from app.services.job_watch import JobWatch
from app.services.jobs import JobService
from app.services.log_uploads import LogUploads
from app.services.media import MediaService
from app.services.outputs import OutputService
from app.services.ports import Clock, Database, Files, JobQueue, Metrics, WriterLocks
from app.services.readiness import Part, Readiness
from app.services.recovery import Recovery
from app.services.sessions import SessionService
from app.services.storage_ledger import StorageLedger
from app.services.sweeps import SweepService
from app.services.sync_renders import SyncRenders
from app.services.uploads import UploadService


class Engine(JobQueue, Protocol):
    """The engine as whoever runs the process sees it. ``start`` begins to claim jobs."""

    @property
    def failed(self) -> asyncio.Future[BaseException]:
        """Done, with the reason, when the loop that claims jobs has died by itself."""
        ...

    @property
    def running(self) -> int:
        """How many jobs this process has in hand."""
        ...

    def start(self, runner: JobRunner) -> None: ...

    def stop_claiming(self) -> None:
        """Begin no further job; those in hand go on. For a process that is about to stop."""
        ...

    async def stop(self) -> None:
        """Claim no more, kill the children of running jobs, hand the jobs back. Repeatable."""
        ...


class ReadinessBoard(Readiness, Protocol):
    """Readiness whose parts are added as they come to be."""

    def add(self, name: str, look: Callable[[], Awaitable[Part]]) -> None:
        """Add a part, or replace the look at it. A look may raise ``AppError`` or ``OSError``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """The parts of one process. ``intervals`` are seconds between runs of each sweep."""

    db: Database
    clock: Clock
    metrics: Metrics
    files: Files
    locks: WriterLocks
    registry: Registry
    disposal: Disposal
    uploads: UploadService
    completion: CompletionService
    sessions: SessionService
    forms: FormUploads
    logs: LogUploads
    renders: SyncRenders
    batches: BatchService
    jobs: JobService
    checksums: Checksums
    media: MediaService
    outputs: OutputService
    sweeps: SweepService
    storage: StorageLedger
    recovery: Recovery
    runner: JobRunner
    engine: Engine
    readiness: ReadinessBoard
    drain: Drain
    watch: JobWatch
    retention: RetentionPolicy
    intervals: Mapping[SweepName, float]
