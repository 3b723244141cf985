"""What the services need of the world, as small protocols. Adapters live in ``app.infrastructure``.

Repositories are synchronous: they are only ever used inside a function given to ``Database.read``
or ``Database.write``, which runs it whole, in a thread, in one transaction. Unless a method says
otherwise, a repeat is harmless, ``find_`` returns None for what is not there, ``list_`` is bounded
by ``limit`` and ordered oldest first, and a conditional write that meets no row raises
``ConflictingUpdate``.
"""

from app.services.ports.clock import Clock, Sleep
from app.services.ports.cursor import Cursor
from app.services.ports.database import Database, Transaction
from app.services.ports.files import Digest, Digests, Files, Usage, WorkEntry, WorkFiles
from app.services.ports.job_rows import (
    RATES_KEPT,
    Beat,
    DeliveryRows,
    JobFilter,
    JobRows,
    KeptClipRows,
    OutputRows,
    RateRows,
)
from app.services.ports.jobs import JobQueue, Workers
from app.services.ports.media import MediaProbe, ProgressCallback, StepRunner, StillProbe
from app.services.ports.metrics import Metrics
from app.services.ports.record_rows import (
    CleanupRows,
    IdempotencyRows,
    LeaseRows,
    RequestRows,
    SweepReportRows,
    TombstoneRows,
)
from app.services.ports.upload_bytes import PartCopier, UploadBytes, UploadWriter
from app.services.ports.upload_locks import UploadHold, UploadLocks, WriterHold, WriterLocks
from app.services.ports.upload_rows import BatchRows, SessionRows, UploadRows

__all__ = [
    "RATES_KEPT",
    "BatchRows",
    "Beat",
    "CleanupRows",
    "Clock",
    "Cursor",
    "Database",
    "DeliveryRows",
    "Digest",
    "Digests",
    "Files",
    "IdempotencyRows",
    "JobFilter",
    "JobQueue",
    "JobRows",
    "KeptClipRows",
    "LeaseRows",
    "MediaProbe",
    "Metrics",
    "OutputRows",
    "PartCopier",
    "ProgressCallback",
    "RateRows",
    "RequestRows",
    "SessionRows",
    "Sleep",
    "StepRunner",
    "StillProbe",
    "SweepReportRows",
    "TombstoneRows",
    "Transaction",
    "UploadBytes",
    "UploadHold",
    "UploadLocks",
    "UploadRows",
    "UploadWriter",
    "Usage",
    "WorkEntry",
    "WorkFiles",
    "Workers",
    "WriterHold",
    "WriterLocks",
]
