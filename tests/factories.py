"""Domain objects with sane values, each of which a keyword replaces. Times hang on ``NOON``."""

from datetime import timedelta
from typing import Any, TypeVar

from app.domain.access import OWNER
from app.domain.batches import Batch
from app.domain.ids import new_id
from app.domain.jobs import Fence, InputRole, Job, JobInput, JobStatus
from app.domain.kept_clips import KeptClip
from app.domain.outputs import Output, OutputStatus
from app.domain.requests import OpenRequest
from app.domain.sessions import Session, SessionStatus
from app.domain.sweeps import PendingCleanup, SweepName, SweepReport, Trigger
from app.domain.tombstones import Reason, ThingKind, Tombstone
from app.domain.uploads import Upload, UploadMetadata, UploadStatus
from app.services.ports import Transaction
from tests.fakes.clock import NOON

T = TypeVar("T")


def _make(kind: type[T], defaults: dict[str, Any], overrides: dict[str, Any]) -> T:
    return kind(**(defaults | overrides))


def make_session(**overrides: Any) -> Session:
    """An open session that names no number of files."""
    defaults = {
        "id": new_id(),
        "owner": OWNER,
        "status": SessionStatus.OPEN,
        "expected_files": None,
        "then": None,
        "batch_id": None,
        "implicit": False,
        "keep_inputs_hours": None,
        "created_at": NOON,
        "active_at": NOON,
    }
    return _make(Session, defaults, overrides)


def make_batch(**overrides: Any) -> Batch:
    """A batch of a session of its own (which the caller inserts first)."""
    defaults = {
        "id": new_id(),
        "owner": OWNER,
        "session_id": new_id(),
        "created_at": NOON,
        "expires_at": NOON + timedelta(days=7),
        "keep_inputs_hours": None,
    }
    return _make(Batch, defaults, overrides)


def make_upload(**overrides: Any) -> Upload:
    """A receiving upload of 1000 bytes, none of which are there."""
    defaults = {
        "id": new_id(),
        "owner": OWNER,
        "session_id": new_id(),
        "batch_id": None,
        "status": UploadStatus.RECEIVING,
        "length": 1000,
        "recorded_offset": 0,
        "synced_offset": 0,
        "boot_id": "boot",
        "metadata": UploadMetadata(),
        "media": None,
        "sha256": None,
        "created_at": NOON,
        "active_at": NOON,
        "completed_at": None,
        "expires_at": NOON + timedelta(days=1),
        "spent_at": None,
    }
    return _make(Upload, defaults, overrides)


def make_completed_upload(**overrides: Any) -> Upload:
    """An upload whose 1000 bytes have come."""
    size = overrides.get("length", 1000)
    defaults = {
        "status": UploadStatus.COMPLETED,
        "recorded_offset": size,
        "synced_offset": size,
        "completed_at": NOON,
    }
    return make_upload(**(defaults | overrides))


def make_input(upload_id: str | None = None, **overrides: Any) -> JobInput:
    """A clip: an upload, unless ``output_id`` says otherwise."""
    if upload_id is None and "output_id" not in overrides:
        upload_id = new_id()
    return _make(JobInput, {"role": InputRole.CLIP, "upload_id": upload_id}, overrides)


def make_job(**overrides: Any) -> Job:
    """A queued trim of one clip."""
    defaults = {
        "id": new_id(),
        "owner": OWNER,
        "batch_id": None,
        "operation": "trim",
        "params": {"start": 2.0, "end": 7.0},
        "inputs": (make_input(),),
        "status": JobStatus.QUEUED,
        "priority": 0,
        "attempt": 1,
        "max_attempts": 3,
        "timeout_seconds": 600.0,
        "from_then": False,
        "one_time": False,
        "worker": None,
        "cancel_requested": False,
        "progress": 0.0,
        "stage": None,
        "warnings": (),
        "result": None,
        "error": None,
        "created_at": NOON,
        "dispatched_at": None,
        "started_at": None,
        "heartbeat_at": None,
        "deadline_at": None,
        "completed_at": None,
        "expires_at": None,
        "version": 1,
        "output_name": None,
    }
    return _make(Job, defaults, overrides)


def make_processing_job(**overrides: Any) -> Job:
    """A job that worker ``w1`` has begun at noon."""
    defaults = {
        "status": JobStatus.PROCESSING,
        "worker": "w1",
        "started_at": NOON,
        "heartbeat_at": NOON,
        "deadline_at": NOON + timedelta(seconds=600),
    }
    return make_job(**(defaults | overrides))


def make_ended_job(**overrides: Any) -> Job:
    """A job that completed at noon and leaves a day later."""
    defaults = {
        "status": JobStatus.COMPLETED,
        "progress": 100.0,
        "started_at": NOON,
        "completed_at": NOON,
        "expires_at": NOON + timedelta(days=1),
    }
    return make_job(**(defaults | overrides))


def make_fence(job: Job, worker: str = "w1") -> Fence:
    """What a worker of this job's present attempt holds."""
    return Fence(job_id=job.id, attempt=job.attempt, worker=worker)


def make_output(**overrides: Any) -> Output:
    """An available output of a job of its own (which the caller inserts first)."""
    defaults = {
        "id": new_id(),
        "owner": OWNER,
        "job_id": new_id(),
        "attempt": 1,
        "status": OutputStatus.AVAILABLE,
        "filename": "clip-trimmed.mp4",
        "media_type": "video/mp4",
        "size_bytes": 500,
        "sha256": "0" * 64,
        "one_time": False,
        "delivered_at": None,
        "created_at": NOON,
        "expires_at": NOON + timedelta(days=1),
    }
    return _make(Output, defaults, overrides)


def make_kept_clip(**overrides: Any) -> KeptClip:
    """A kept clip of a job of its own (which the caller inserts first)."""
    defaults = {
        "id": new_id(),
        "owner": OWNER,
        "key": new_id() + new_id(),
        "job_id": new_id(),
        "size_bytes": 700,
        "created_at": NOON,
        "used_at": NOON,
    }
    return _make(KeptClip, defaults, overrides)


def make_request(worker: str, job: Job, **overrides: Any) -> OpenRequest:
    """A request of that process which waits for this job."""
    defaults = {
        "id": new_id(),
        "owner": job.owner,
        "worker": worker,
        "session_id": new_id(),
        "job_id": job.id,
        "is_over": False,
        "created_at": job.created_at,
    }
    return _make(OpenRequest, defaults, overrides)


def make_tombstone(**overrides: Any) -> Tombstone:
    """What is left of an upload that its client terminated."""
    defaults = {
        "id": new_id(),
        "kind": ThingKind.UPLOAD,
        "owner": OWNER,
        "reason": Reason.TERMINATED,
        "sweep": None,
        "parent_id": None,
        "size_bytes": 1000,
        "error_code": None,
        "created_at": NOON,
        "completed_at": None,
        "deleted_at": NOON,
    }
    return _make(Tombstone, defaults, overrides)


def make_cleanup(path: str | None = None, **overrides: Any) -> PendingCleanup:
    """The bytes of an upload that are due to be deleted now."""
    defaults = {
        "path": path or f"uploads/{new_id()}",
        "kind": "uploads",
        "reason": Reason.TERMINATED.value,
        "owner": OWNER,
        "attempts": 0,
        "next_attempt_at": NOON,
        "last_error": None,
        "created_at": NOON,
    }
    return _make(PendingCleanup, defaults, overrides)


def make_report(**overrides: Any) -> SweepReport:
    """The report of a run of ``gc_files`` that removed one thing."""
    defaults = {
        "id": new_id(),
        "sweep": SweepName.GC_FILES,
        "trigger": Trigger.INTERVAL,
        "leader": "host:1",
        "dry_run": False,
        "cutoff": NOON,
        "examined": 2,
        "removed": 1,
        "skipped": {"writing": 1},
        "bytes_freed": 1000,
        "errors": (),
        "started_at": NOON,
        "duration_seconds": 0.25,
    }
    return _make(SweepReport, defaults, overrides)


def insert_all(tx: Transaction, *things: Any) -> None:
    """Insert domain objects in the order given, each into its table."""
    for thing in things:
        match thing:
            case Session():
                tx.sessions.insert(thing)
            case Batch():
                tx.batches.insert(thing)
            case Upload():
                tx.uploads.insert(thing)
            case Job():
                tx.jobs.insert(thing)
            case Output():
                tx.outputs.insert(thing)
            case Tombstone():
                tx.tombstones.put(thing)
            case PendingCleanup():
                tx.cleanup.put(thing)
            case SweepReport():
                tx.sweep_reports.insert(thing)
            case _:
                raise TypeError(type(thing))
