"""Bytes by kind, from the disk and from the rows side by side; and the gauges that tell of them."""

from dataclasses import dataclass
from datetime import datetime

import structlog

from app.domain.errors import AppError
from app.domain.jobs import JobStatus
from app.domain.layout import CACHE, OUTPUTS, UPLOADS
from app.domain.outputs import OutputStatus
from app.domain.sweeps import SweepName
from app.domain.uploads import UploadStatus
from app.services.disposal import ALARM_AFTER_ATTEMPTS
from app.services.ports import Clock, Database, Files, Metrics, Transaction, Usage

log = structlog.get_logger(__name__)

REPORTS_LOOKED_AT = 20
"""Of each sweep: one that has failed more often in a row is late anyway."""


@dataclass(frozen=True, slots=True)
class RowTotal:
    """Rows of one state and the bytes that they account for.

    For uploads that are still receiving these are the bytes when the row was last touched, at most a
    minute before: the disk may hold more.
    """

    state: str
    count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class KindTotal:
    """One kind of bytes: what lies on the disk, and what rows say of it (none for kinds without)."""

    kind: str
    count: int
    size_bytes: int
    rows: tuple[RowTotal, ...]


@dataclass(frozen=True, slots=True)
class StorageReport:
    """What the data folder holds. Sizes in bytes.

    A file in ``work`` that is a hard link to a kept one counts there with 0 bytes. ``reserved_bytes``
    are promised to open uploads and not yet written; ``pending_cleanups`` are files and folders that
    no row needs and that are still to be deleted.
    """

    measured_at: datetime
    kinds: tuple[KindTotal, ...]
    free_bytes: int
    reserved_bytes: int
    pending_cleanups: int

    @property
    def total_bytes(self) -> int:
        """Everything on disk below the data folder."""
        return sum(kind.size_bytes for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class _Rows:
    uploads: dict[UploadStatus, tuple[int, int]]
    outputs: dict[OutputStatus, tuple[int, int]]
    kept_clips: tuple[int, int]
    jobs: dict[JobStatus, int]
    reserved_bytes: int
    pending: int
    stuck: int


def _read_rows(tx: Transaction) -> _Rows:
    return _Rows(
        uploads=tx.uploads.totals(),
        outputs=tx.outputs.totals(),
        kept_clips=tx.kept_clips.totals(),
        jobs=tx.jobs.totals(),
        reserved_bytes=tx.uploads.unwritten_bytes(),
        pending=tx.cleanup.count(),
        stuck=tx.cleanup.count(least_attempts=ALARM_AFTER_ATTEMPTS),
    )


def last_successes(tx: Transaction) -> dict[SweepName, datetime]:
    """Return when each sweep last came to its end, in whichever process, as far as reports tell."""
    found = {}
    for sweep in SweepName:
        for report in tx.sweep_reports.list_latest(REPORTS_LOOKED_AT, sweep=sweep):
            if report.came_to_its_end:
                found[sweep] = report.ended_at
                break
    return found


class StorageLedger:
    """Reads the disk, then the rows. A look at moving things: the two are moments apart."""

    def __init__(self, db: Database, files: Files, clock: Clock, metrics: Metrics) -> None:
        self._db = db
        self._files = files
        self._clock = clock
        self._metrics = metrics

    async def report(self) -> StorageReport:
        """Walk the data folder and count the rows. Raises ``StorageFailed``, ``DatabaseBusy``."""
        usage = await self._files.usage()
        rows = await self._db.read(_read_rows)
        return StorageReport(
            measured_at=self._clock.now(),
            kinds=tuple(_kind(found, rows) for found in usage),
            free_bytes=self._files.free_bytes(),
            reserved_bytes=rows.reserved_bytes,
            pending_cleanups=rows.pending,
        )

    async def refresh_gauges(self) -> None:
        """Set the gauges that tell of rows and space, from one short read; for /metrics.

        Rows are the same for every process, so these are right with several of them.
        """
        rows = await self._db.read(_read_rows)
        ended = await self._db.read(last_successes)
        for status in JobStatus:
            self._metrics.set("jobs", rows.jobs.get(status, 0), status=status.value)
        self._metrics.set("jobs_active", rows.jobs.get(JobStatus.PROCESSING, 0))
        open_uploads, _ = rows.uploads.get(UploadStatus.RECEIVING, (0, 0))
        self._metrics.set("uploads_open", open_uploads)
        self._metrics.set("cleanup_pending", rows.pending)
        self._metrics.set("cleanup_stuck", rows.stuck)
        for sweep, at in ended.items():
            self._metrics.set(
                "sweep_last_success_timestamp_seconds", at.timestamp(), sweep=sweep.value
            )
        self._metrics.set("storage_reserved_bytes", rows.reserved_bytes)
        try:
            oldest = min((each.changed_at for each in await self._files.list_work()), default=None)
            self._metrics.set("storage_free_bytes", self._files.free_bytes())
        except AppError as error:  # a folder in trouble is no reason to hide all other metrics
            log.warning("metrics.disk_not_read", code=error.code, detail=error.detail)
            return
        age = 0.0 if oldest is None else (self._clock.now() - oldest).total_seconds()
        self._metrics.set("scratch_oldest_age_seconds", max(0.0, age))


def _kind(found: Usage, rows: _Rows) -> KindTotal:
    totals: tuple[RowTotal, ...] = ()
    if found.kind == UPLOADS:
        totals = tuple(
            RowTotal(status.value, *rows.uploads.get(status, (0, 0))) for status in UploadStatus
        )
    elif found.kind == OUTPUTS:
        totals = tuple(
            RowTotal(status.value, *rows.outputs.get(status, (0, 0))) for status in OutputStatus
        )
    elif found.kind == CACHE:
        totals = (RowTotal("kept", *rows.kept_clips),)
    return KindTotal(found.kind, found.count, found.size_bytes, totals)
