"""What is kept of a deleted thing: id, kind, owner, reason, times, sizes; no names, no text."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ThingKind(StrEnum):
    UPLOAD = "upload"
    SESSION = "session"
    BATCH = "batch"
    JOB = "job"
    OUTPUT = "output"


class Reason(StrEnum):
    """Why something was deleted on purpose."""

    TERMINATED = "terminated"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    CONCATENATED = "concatenated"
    SPENT = "spent"
    SESSION_DELETED = "session_deleted"
    SESSION_EXPIRED = "session_expired"
    BATCH_DELETED = "batch_deleted"
    BATCH_EXPIRED = "batch_expired"
    JOB_DELETED = "job_deleted"
    OUTPUT_DELETED = "output_deleted"
    OUTPUT_EXPIRED = "output_expired"
    DELIVERED = "delivered"
    RETENTION_COMPLETED = "retention_completed"
    RETENTION_FAILED = "retention_failed"
    RETENTION_QUEUED = "retention_queued"
    REQUEST_ENDED = "request_ended"


BY_RETENTION = frozenset({Reason.SPENT, Reason.BATCH_EXPIRED})
"""Reasons after which HEAD of a completed upload still answers 200 for a while (uploads contract)."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """``parent_id``: of an upload its batch (else its session; of a part its final), of a job the
    batch whose ``then`` made it, of an output its job. ``size_bytes``: what was freed; of an upload
    its length. ``sweep`` is None for requests.
    """

    id: str
    kind: ThingKind
    owner: str
    reason: Reason
    sweep: str | None
    parent_id: str | None
    size_bytes: int
    error_code: str | None
    created_at: datetime
    completed_at: datetime | None
    deleted_at: datetime
