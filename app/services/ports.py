"""What the services need of the world, as small protocols. Adapters live in ``app.infrastructure``.

Repositories are synchronous: they are only ever used inside a function given to ``Database.read``
or ``Database.write``, which runs it whole, in a thread, in one transaction. Unless a method says
otherwise, a repeat is harmless, ``find_`` returns None for what is not there, ``list_`` is bounded
by ``limit`` and ordered oldest first, and a conditional write that meets no row raises
``ConflictingUpdate``.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from app.domain.batches import Batch
from app.domain.delivery import ByteSpan
from app.domain.idempotency import IdempotencyRecord
from app.domain.jobs import Fence, Job, JobStatus
from app.domain.layout import WORK
from app.domain.media import MediaInfo
from app.domain.outputs import Output, OutputStatus
from app.domain.sessions import Session, SessionStatus
from app.domain.sweeps import PendingCleanup, SweepName, SweepReport
from app.domain.tombstones import ThingKind, Tombstone
from app.domain.uploads import FsyncMode, Upload, UploadStatus
from app.operations.base import Step

T = TypeVar("T")

RATES_KEPT = 20
"""Measurements kept of each operation (``RateRows``)."""


class Clock(Protocol):
    """The one source of time. ``now`` is aware UTC; ``monotonic`` counts seconds."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ends: the ``created_at`` and id of its last row; pages go newest first."""

    created_at: datetime
    id: str


# --- rows ---------------------------------------------------------------------------------------


class UploadRows(Protocol):
    def insert(self, upload: Upload) -> None: ...

    def find(self, upload_id: str) -> Upload | None: ...

    def find_final(self, owner: str, parts: Sequence[str]) -> Upload | None:
        """Return the final that the owner had made of exactly these parts, in this order."""
        ...

    def list_by_session(self, session_id: str, status: UploadStatus | None = None) -> list[Upload]:
        """Oldest first; ``status`` None means any."""
        ...

    def count_completed(self, session_id: str) -> int:
        """How many uploads of the session are completed."""
        ...

    def put_in_batch(self, session_id: str, batch_id: str) -> None:
        """Make all completed uploads of the session the batch's."""
        ...

    def list_by_batch(self, batch_id: str) -> list[Upload]:
        """In the order of the batch: metadata ``order``, else creation."""
        ...

    def update(self, upload: Upload, *, expected: UploadStatus) -> None:
        """Write the row where its status is still ``expected``: all but what an upload keeps for life,
        its id, session, kind, parts and metadata.
        """
        ...

    def touch(
        self,
        upload_id: str,
        *,
        active_at: datetime,
        expires_at: datetime,
        recorded_offset: int,
        synced_offset: int,
    ) -> None:
        """Record activity of a receiving upload."""
        ...

    def set_verified(self, upload_id: str, offset: int | None) -> None:
        """Note up to where a receiving upload's bytes are right, None when all are."""
        ...

    def set_media(self, upload_id: str, media: dict[str, Any]) -> None: ...

    def set_spent(self, upload_id: str, spent_at: datetime) -> None:
        """Move ``spent_at`` to the later of its value and ``spent_at``."""
        ...

    def delete(self, upload_id: str) -> bool: ...

    def unwritten_bytes(self) -> int:
        """Sum of length minus recorded offset over receiving uploads of known length; and, of parts,
        their length once more: their final is made beside them, and needs no promise of its own.
        """
        ...

    def list_receiving(self, *, after_id: str, limit: int) -> list[Upload]:
        """By id, those after ``after_id`` ("" for the first page)."""
        ...

    def list_expired(self, now: datetime, limit: int) -> list[Upload]:
        """Receiving, with ``expires_at`` before ``now``."""
        ...

    def list_spent(self, now: datetime, limit: int) -> list[Upload]:
        """Completed, ``spent_at`` reached, and no queued or processing job reads them."""
        ...

    def list_without_digest(self, limit: int) -> list[Upload]:
        """Completed and without ``sha256``, oldest completion first."""
        ...

    def set_sha256(self, upload_id: str, sha256: str) -> bool:
        """Keep the digest of a completed upload; False when it is gone."""
        ...

    def plan_spent(self, upload_id: str, spent_at: datetime | None) -> None:
        """Set ``spent_at`` to exactly that, for a hold that was moved or taken up again."""
        ...

    def totals(self) -> dict[UploadStatus, tuple[int, int]]:
        """Count and bytes (recorded offset) by status."""
        ...


class SessionRows(Protocol):
    def insert(self, session: Session) -> None: ...

    def find(self, session_id: str) -> Session | None: ...

    def update(self, session: Session, *, expected: SessionStatus) -> None: ...

    def touch(self, session_id: str, active_at: datetime) -> None: ...

    def delete(self, session_id: str) -> bool: ...

    def list_idle(self, before: datetime, limit: int) -> list[Session]:
        """Open, and neither they nor any of their uploads active since ``before``."""
        ...


class BatchRows(Protocol):
    def insert(self, batch: Batch) -> None: ...

    def find(self, batch_id: str) -> Batch | None: ...

    def list_page(self, owner: str, cursor: Cursor | None, limit: int) -> list[Batch]: ...

    def touch(self, batch_id: str, expires_at: datetime) -> None:
        """Move the expiry on; never back."""
        ...

    def update(self, batch: Batch) -> None:
        """Write ``expires_at``, ``slides`` and ``keep_inputs_hours``, forward or back."""
        ...

    def delete(self, batch_id: str) -> bool: ...

    def list_expired(self, now: datetime, limit: int) -> list[Batch]:
        """Past their expiry, and no active job belongs to them or reads their files."""
        ...


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What ``GET /api/v1/jobs`` can ask for; None means any."""

    batch_id: str | None = None
    status: JobStatus | None = None
    operation: str | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat brings back."""

    cancel_requested: bool


class JobRows(Protocol):
    def insert(self, job: Job) -> None: ...

    def find(self, job_id: str) -> Job | None: ...

    def list_page(
        self, owner: str, where: JobFilter, cursor: Cursor | None, limit: int
    ) -> list[Job]: ...

    def list_by_batch(self, batch_id: str) -> list[Job]: ...

    def list_active_reading(
        self, *, upload_ids: Sequence[str] = (), output_ids: Sequence[str] = ()
    ) -> list[Job]:
        """Queued or processing jobs with any of these uploads or outputs among their inputs."""
        ...

    def count_queued(self) -> int: ...

    def list_claimable(self, limit: int) -> list[Job]:
        """Queued, highest priority first, then oldest."""
        ...

    def claim(self, fence: Fence, *, now: datetime, deadline_at: datetime) -> Job | None:
        """Make a queued job of that attempt the worker's, or None when it is not to be had."""
        ...

    def beat(
        self, fence: Fence, *, now: datetime, progress: float, stage: str | None
    ) -> Beat | None:
        """Renew the lease and store progress; None means fenced out."""
        ...

    def update_fenced(self, job: Job, fence: Fence) -> bool:
        """Write the whole row if the fence still holds (id, attempt, worker, processing)."""
        ...

    def update(self, job: Job, *, expected: JobStatus, attempt: int) -> None:
        """Write the whole row where status and attempt are still as expected."""
        ...

    def request_cancel(self, job_id: str) -> None: ...

    def mark_dispatched(self, job_id: str, attempt: int, now: datetime) -> None: ...

    def delete(self, job_id: str) -> bool: ...

    def list_processing(self, limit: int) -> list[Job]: ...

    def list_undispatched(self, before: datetime, limit: int) -> list[Job]:
        """Queued, with ``dispatched_at`` missing or before ``before``."""
        ...

    def list_expired(self, now: datetime, queued_before: datetime, limit: int) -> list[Job]:
        """Ended with ``expires_at`` before ``now``, or queued and created before the second."""
        ...

    def list_versions(self, job_ids: Sequence[str]) -> dict[str, int]:
        """The versions of those jobs that there are, in one query; for whoever watches them."""
        ...

    def list_reading(self, upload_ids: Sequence[str]) -> list[Job]:
        """Jobs of any status with any of these uploads among their inputs."""
        ...

    def totals(self) -> dict[JobStatus, int]: ...


class OutputRows(Protocol):
    def insert(self, output: Output) -> None: ...

    def find(self, output_id: str) -> Output | None: ...

    def list_by_job(self, job_id: str) -> list[Output]: ...

    def publish(self, job_id: str, attempt: int, expires_at: datetime) -> None:
        """Make the ``publishing`` outputs of that attempt available."""
        ...

    def update(self, output: Output, *, expected: OutputStatus) -> None:
        """Write status, ``delivered_at`` and ``expires_at`` where the status is still ``expected``."""
        ...

    def delete(self, output_id: str) -> bool: ...

    def list_delivered(self, before: datetime, limit: int) -> list[Output]:
        """Delivered, with ``delivered_at`` at or before ``before``, and read by no active job."""
        ...

    def list_expired(self, now: datetime, limit: int) -> list[Output]:
        """Readable, past an ``expires_at`` of their own, and read by no active job."""
        ...

    def list_publishing(self, limit: int) -> list[Output]: ...

    def totals(self) -> dict[OutputStatus, tuple[int, int]]:
        """Count and bytes of output rows by status; a status without rows may be missing."""
        ...


class TombstoneRows(Protocol):
    def put(self, tombstone: Tombstone) -> None:
        """Insert; a second one for the same kind and id is ignored."""
        ...

    def find(self, kind: ThingKind, thing_id: str) -> Tombstone | None: ...

    def list_by_parent(self, kind: ThingKind, parent_id: str) -> list[Tombstone]: ...

    def delete_before(self, before: datetime, limit: int) -> int:
        """Remove those of things deleted before ``before``; returns how many."""
        ...

    def count_before(self, before: datetime) -> int:
        """How many ``delete_before`` would remove without a limit."""
        ...


class DeliveryRows(Protocol):
    """What was delivered of one-time outputs; rows go with their output."""

    def spans(self, output_id: str, principal: str) -> tuple[ByteSpan, ...]:
        """The merged intervals that one principal has got."""
        ...

    def put(self, output_id: str, principal: str, spans: Sequence[ByteSpan]) -> None:
        """Replace the intervals of one principal; nothing happens when the output is gone."""
        ...


class IdempotencyRows(Protocol):
    def find(self, owner: str, scope: str, key: str) -> IdempotencyRecord | None: ...

    def put(self, record: IdempotencyRecord) -> bool:
        """Insert; False when owner, scope and key have a record already."""
        ...

    def delete_old(self, before: datetime, limit: int) -> int:
        """Remove records made before ``before`` whose thing has no row any more; returns how many."""
        ...

    def count_old(self, before: datetime) -> int:
        """How many ``delete_old`` would remove without a limit."""
        ...


class RateRows(Protocol):
    """How fast jobs of an operation went: seconds per unit of effort (``Plan.effort``)."""

    def put(self, operation: str, *, seconds_per_unit: float, measured_at: datetime) -> None:
        """Keep a measurement; of each operation the newest ``RATES_KEPT`` stay."""
        ...

    def best(self, operation: str) -> float | None:
        """The lowest seconds per unit among those kept; None: nothing was measured yet."""
        ...


class LeaseRows(Protocol):
    def acquire(self, name: str, holder: str, *, now: datetime, ttl: timedelta) -> bool:
        """Take or renew a named lease; False while another holder's has not run out."""
        ...

    def release(self, name: str, holder: str) -> None: ...


class SweepReportRows(Protocol):
    def insert(self, report: SweepReport) -> None: ...

    def find_latest(self, sweep: SweepName) -> SweepReport | None: ...

    def list_latest(
        self, limit: int, *, cursor: Cursor | None = None, sweep: SweepName | None = None
    ) -> list[SweepReport]:
        """Newest first, after the cursor (its ``created_at`` is a report's ``started_at``)."""
        ...

    def delete_old(self, before: datetime, limit: int) -> int:
        """Remove reports that started before ``before``, but of each sweep's the latest; returns how
        many.
        """
        ...

    def count_old(self, before: datetime) -> int:
        """How many ``delete_old`` would remove without a limit."""
        ...


class CleanupRows(Protocol):
    def put(self, pending: PendingCleanup) -> None:
        """Insert; one path has one row, a second put is ignored."""
        ...

    def find(self, path: str) -> PendingCleanup | None: ...

    def remove(self, path: str) -> bool: ...

    def record_failure(self, path: str, *, error: str, next_attempt_at: datetime) -> None:
        """Count one more attempt."""
        ...

    def list_due(self, now: datetime, limit: int) -> list[PendingCleanup]: ...

    def list_all(self, limit: int) -> list[PendingCleanup]: ...

    def count(self, *, least_attempts: int = 0) -> int:
        """How many there are that have failed so often."""
        ...

    def list_stuck(self, least_attempts: int, limit: int) -> list[PendingCleanup]:
        """Those that have failed so often, oldest first."""
        ...


class Transaction(Protocol):
    """One open transaction and its repositories. Never kept beyond the function it was given to."""

    @property
    def uploads(self) -> UploadRows: ...

    @property
    def sessions(self) -> SessionRows: ...

    @property
    def batches(self) -> BatchRows: ...

    @property
    def jobs(self) -> JobRows: ...

    @property
    def outputs(self) -> OutputRows: ...

    @property
    def tombstones(self) -> TombstoneRows: ...

    @property
    def deliveries(self) -> DeliveryRows: ...

    @property
    def idempotency(self) -> IdempotencyRows: ...

    @property
    def rates(self) -> RateRows: ...

    @property
    def leases(self) -> LeaseRows: ...

    @property
    def sweep_reports(self) -> SweepReportRows: ...

    @property
    def cleanup(self) -> CleanupRows: ...


class Database(Protocol):
    """Transactions as whole functions. Errors raised by ``work`` roll back and pass through.

    Raises ``DatabaseBusy`` when the database does not answer within its limit. ``work`` may not be
    retried: it runs at most once.
    """

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` on the one writer, and return once it is committed and durable."""
        ...

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` on a consistent snapshot; it must not write."""
        ...

    async def look(self, work: Callable[[Transaction], T]) -> T:
        """Like ``read``, for ``work`` that finds a few rows by their ids and does nothing else.

        It may run on the event loop's own thread while the database has been answering at once: it
        takes microseconds, and neither lists nor counts anything unbounded. Unlike the work of the
        others it may run again.
        """
        return await self.read(work)

    async def check(self) -> None:
        """Prove that the database answers, for readiness."""
        ...

    async def checkpoint(self) -> None:
        """Give the space of deleted rows back where the database does not do it by itself."""
        ...


# --- bytes --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkEntry:
    """Something found in ``work/``: what lies there itself, or inside a folder named by an id.

    ``owner`` is the name of the first level, ``name`` that of the second: None where the entry is
    the first level itself, because it is empty or no folder with an id's name. ``is_folder`` is
    false for links, also for those to folders.
    """

    owner: str
    name: str | None
    is_folder: bool
    changed_at: datetime

    @property
    def path(self) -> str:
        return f"{WORK}/{self.owner}" if self.name is None else f"{WORK}/{self.owner}/{self.name}"


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes on disk of one kind: uploads, work, outputs, database, system, other."""

    kind: str
    count: int
    size_bytes: int


class Files(Protocol):
    """The data folder. Paths are relative to it (``app.domain.layout``).

    Blocking work goes to threads inside. Raises ``NoSpace`` on ENOSPC and EDQUOT, ``StorageFailed``
    on any other error of the disk.
    """

    def free_bytes(self) -> int: ...

    def size(self, path: str) -> int | None:
        """Length of a regular file, None when it is not there."""
        ...

    def modified_at(self, path: str) -> datetime | None:
        """When a file or folder last changed by the disk's clock, None when it is not there."""
        ...

    def absolute(self, path: str) -> Path:
        """The checked absolute path of a file below the folder."""
        ...

    async def delete(self, path: str) -> int:
        """The one deletion: file or folder, never following a link. Returns bytes verified gone."""
        ...

    async def make_scratch(self, job_id: str, attempt: int, links: Mapping[str, str]) -> Path:
        """Make an empty attempt folder holding hard links: name -> relative path of a kept file."""
        ...

    async def publish(self, source: Path, output_id: str) -> None:
        """Sync a finished scratch file, rename it to its output path, sync the folder."""
        ...

    async def list_work(self) -> list[WorkEntry]:
        """Everything in ``work/``, two levels deep, in the order of its names."""
        ...

    async def usage(self) -> list[Usage]: ...

    async def check_writable(self) -> None:
        """Prove that a byte can be written and removed, for readiness."""
        ...


class UploadLocks(Protocol):
    """One writer per upload, across processes; the newest wins."""

    def hold(self, upload_id: str, *, wait_seconds: float) -> "UploadHold":
        """An async context manager: asks a present writer to stop, then holds the upload.

        Raises ``UploadLocked`` when it did not let go within ``wait_seconds``.
        """
        ...

    def is_held(self, upload_id: str) -> bool:
        """Whether some process writes the upload right now. A look, no promise."""
        ...


class UploadHold(Protocol):
    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *exc: object) -> None: ...


class WriterHold(UploadHold, Protocol):
    """The hold of a request that writes: a newer request may ask it to stop."""

    async def __aenter__(self) -> Self: ...

    @property
    def is_asked_to_stop(self) -> bool: ...

    def keep_file(self) -> None:
        """Keep the data file although it is empty (a completed upload of no bytes)."""
        ...

    def interruptible(self, seconds: float) -> AbstractAsyncContextManager[None]:
        """Guard one wait: ``TimeoutError`` after ``seconds``, or at once when asked to stop."""
        ...


class WriterLocks(UploadLocks, Protocol):
    def hold_for_writing(
        self,
        upload_id: str,
        *,
        wait_seconds: float,
        before_asking: Callable[[], Awaitable[None]] | None = None,
    ) -> WriterHold:
        """Like ``hold``, but the newest of several such holders wins.

        ``before_asking`` is for who does not know yet whether it may write, or whether there is such
        an upload: it is awaited before a present writer is asked to stop or a file is made, and not
        at all where the upload's file is there and free. What it raises goes through.
        """
        ...


class UploadWriter(Protocol):
    """The bytes of one request on their way into an upload's file. Its upload's lock is held.

    Every method may raise ``NoSpace`` or ``StorageFailed``; the file then ends where ``written``
    says.
    """

    @property
    def position(self) -> int:
        """The offset after everything accepted so far."""
        ...

    @property
    def written(self) -> int:
        """The offset after everything that is in the file."""
        ...

    async def write(self, chunk: bytes | memoryview) -> None:
        """Accept the next bytes; they are in the file shortly after, in large pieces. Those of a
        memoryview are in it at once: what it shows may change afterwards.
        """
        ...

    async def settle(self) -> None:
        """Put what is accepted into the file."""
        ...

    async def sync(self) -> int:
        """Settle, make file and directory entry durable, and return the offset that now is."""
        ...

    async def cut_back(self, offset: int) -> None:
        """Forget what is not written yet and end the file at ``offset``."""
        ...

    async def close(self) -> None:
        """Settle and let go of the file; never raises, a repeat is harmless."""
        ...


class UploadBytes(Protocol):
    """The data files of uploads: ``uploads/<id>``, whose length is the offset."""

    @property
    def boot_id(self) -> str:
        """Changes whenever the machine boots."""
        ...

    @property
    def fsync(self) -> FsyncMode: ...

    def size(self, upload_id: str) -> int:
        """The file's length, 0 when it is not there."""
        ...

    async def open(self, upload_id: str, offset: int) -> UploadWriter:
        """Open the file for writing at ``offset``, creating it, and cut off what lies behind."""
        ...


class PartCopier(Protocol):
    """Puts data files of uploads together, by the kernel where it can."""

    async def copy(self, final_id: str, parts: Sequence[tuple[str, int]]) -> None:
        """Make the file of ``final_id`` the bytes of ``parts`` (id and length in bytes), in their
        order, and durable unless nothing ever is (``FsyncMode.OFF``). The caller holds them all,
        so that the file is there.

        What the file had is overwritten, and it grows from its beginning to its end: one that has
        the length of all parts is whole. Raises ``NoSpace`` and ``StorageFailed`` and leaves no
        bytes then; cancelled, it ends within one piece and leaves none either.
        """
        ...


class WorkFiles(Protocol):
    """Files that a request brings before they are anybody's: below its own folder in ``work/``
    (``layout.request_path``), which ``Files.delete`` removes.

    Raises ``NoSpace`` and ``StorageFailed`` like ``Files``.
    """

    async def open(self, folder: str, name: str) -> UploadWriter:
        """Make an empty file to write, and its folder if it is the first one there."""
        ...

    async def sync(self, paths: Sequence[str]) -> None:
        """Make the bytes of whole files durable, unless nothing ever is (``FsyncMode.OFF``)."""
        ...

    async def move(self, uploads: Mapping[str, str]) -> None:
        """Make files the data files of uploads: path -> upload id, one rename each, made durable.

        Stops at the first that fails; those before it have moved.
        """
        ...


# --- media --------------------------------------------------------------------------------------


class MediaProbe(Protocol):
    async def probe(self, path: Path) -> MediaInfo:
        """Look at a foreign file in a limited child process.

        Raises EmptyFile, NotMedia, NoVideoStream, MediaOverLimits, InputDamaged; JobTimedOut when
        the child takes too long. Never more than a few at a time.
        """
        ...


ProgressCallback = Callable[[float], None]
"""Called with the finished fraction of a step, 0..1, monotonic, from the event loop's thread."""


class StepRunner(Protocol):
    async def run(self, step: Step, folder: Path, on_progress: ProgressCallback) -> None:
        """Run one step in ``folder`` and check its result.

        Cancelling the call stops the whole process group (TERM, 1 s, KILL) and reaps it before it
        returns. Raises RenderFailed, InputDamaged, NoSpace, JobTimedOut (no sign of life).
        """
        ...


# --- around -------------------------------------------------------------------------------------


class JobQueue(Protocol):
    """The engine's side that services talk to."""

    async def enqueue(self, job_id: str, attempt: int) -> None:
        """Say that a queued job is there. Losing the call is harmless: the engine polls."""
        ...

    def cancel(self, job_id: str) -> None:
        """Stop a run of this process at once; nothing happens if it is not here."""
        ...


class Metrics(Protocol):
    """Counters, gauges and histograms by their documented name without the ``tidemill_`` prefix."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...

    def set(self, name: str, value: float, **labels: str) -> None: ...


class Workers(Protocol):
    """Which workers are alive on this host. Blocking, but never for long."""

    def is_alive(self, worker: str) -> bool:
        """Whether a process still holds that worker's lock. A look, no promise."""
        ...

    def remove_stale(self) -> list[str]:
        """Remove what dead workers left of their locks; returns their names."""
        ...


@dataclass(frozen=True, slots=True)
class Digest:
    """What a finished file is: its exact length in bytes and its SHA-256 in hex."""

    size_bytes: int
    sha256: str


class Digests(Protocol):
    async def of(self, path: Path) -> Digest:
        """Read a finished scratch file once, in a thread. Raises ``StorageFailed``."""
        ...


Sleep = Callable[[float], Awaitable[None]]
