"""The sweeps: periodic, bounded, idempotent passes that remove or repair, and report."""

from dataclasses import dataclass
from datetime import timedelta

from app.domain.jobs import JobPolicy
from app.domain.kept_clips import KeptClipPolicy
from app.domain.retention import RetentionPolicy
from app.domain.sessions import SessionPolicy
from app.domain.sweeps import SweepName
from app.domain.uploads import UploadPolicy
from app.services.disposal import Disposal
from app.services.ports import Database, Files, Metrics, UploadBytes, UploadLocks
from app.services.sweeps.base import Sweep, SweepRun
from app.services.sweeps.inputs import SpentInputs
from app.services.sweeps.jobs import (
    ExpiredJobs,
    JobTimeouts,
    Removes,
    Rescues,
    UndispatchedJobs,
)
from app.services.sweeps.kept_clips import ExpiredClips
from app.services.sweeps.outputs import DeliveredOutputs
from app.services.sweeps.records import OldRecords
from app.services.sweeps.service import SweepLimits, SweepService
from app.services.sweeps.sessions import ExpiredBatches, StaleSessions
from app.services.sweeps.uploads import Completes, ExpiredUploads, UnclaimedUploads, UploadWatch

__all__ = [
    "SWEEPS_AT_START",
    "Sweep",
    "SweepLimits",
    "SweepParts",
    "SweepPolicies",
    "SweepRun",
    "SweepService",
    "make_sweeps",
]

SWEEPS_AT_START: tuple[SweepName, ...] = (
    SweepName.UNCLAIMED_UPLOADS,
    SweepName.GC_FILES,
    SweepName.STALE_SESSIONS,
    SweepName.SPENT_INPUTS,
    SweepName.OLD_RECORDS,
)
"""What runs once after a start, in this order: what is whole is completed before anything expires,
and what is due daily would never come where the service is restarted daily.
"""

DISPATCH_AGAIN_AFTER = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class SweepParts:
    """What sweeps are built from."""

    db: Database
    files: Files
    metrics: Metrics
    locks: UploadLocks
    upload_bytes: UploadBytes
    disposal: Disposal
    completion: Completes
    rescue: Rescues
    removal: Removes | None = None


@dataclass(frozen=True, slots=True)
class SweepPolicies:
    """The times that sweeps go by."""

    uploads: UploadPolicy
    sessions: SessionPolicy
    jobs: JobPolicy
    retention: RetentionPolicy
    kept_clips: KeptClipPolicy


def make_sweeps(parts: SweepParts, policies: SweepPolicies) -> tuple[Sweep, ...]:
    """Return every sweep there is, in the order of the start."""
    db, files, disposal, metrics = parts.db, parts.files, parts.disposal, parts.metrics
    watch = UploadWatch(files, parts.upload_bytes)
    return (
        UnclaimedUploads(db, watch, parts.locks, parts.completion),
        ExpiredUploads(db, watch, parts.locks, disposal, metrics, policies.uploads),
        StaleSessions(db, watch, parts.locks, disposal, metrics, policies.sessions),
        SpentInputs(db, files, disposal),
        JobTimeouts(db, parts.rescue, parts.removal),
        UndispatchedJobs(db, parts.rescue, DISPATCH_AGAIN_AFTER),
        ExpiredJobs(db, disposal, policies.jobs),
        ExpiredBatches(db, files, disposal),
        DeliveredOutputs(db, files, disposal, policies.retention.delivery_grace),
        ExpiredClips(db, files, disposal, policies.kept_clips),
        OldRecords(db, policies.retention.tombstones),
    )
