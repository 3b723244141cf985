"""The tables. Every row a user owns has an owner; times are ``UtcDateTime``, sizes bytes.

``jobs.batch_id``, the inputs of a job, ``sessions.batch_id`` and the parents of tombstones are soft
references: what they name may be gone.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from app.domain.jobs import InputRole, JobStatus
from app.domain.outputs import OutputStatus
from app.domain.sessions import SessionStatus
from app.domain.sweeps import SweepName, Trigger
from app.domain.tombstones import Reason, ThingKind
from app.domain.uploads import UploadKind, UploadStatus
from app.infrastructure.database.columns import EnumText, UtcDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ID = String(32)
_JSON = JSON(none_as_null=True)

sessions = Table(
    "sessions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("status", EnumText(SessionStatus), nullable=False),
    Column("expected_files", Integer),
    Column("then", _JSON),
    Column("batch_id", _ID),
    Column("implicit", Boolean, nullable=False),
    Column("keep_inputs_hours", Double),
    Column("created_at", UtcDateTime, nullable=False),
    Column("active_at", UtcDateTime, nullable=False),
    Index(None, "status", "active_at"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    # Unique: however often a session completes, it becomes one batch.
    Column("session_id", _ID, ForeignKey("sessions.id"), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("keep_inputs_hours", Double),
    Column("slides", Boolean, nullable=False),
    Index(None, "owner", "created_at", "id"),
    Index(None, "expires_at"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    # None: a part of a file, which belongs to no session.
    Column("session_id", _ID, ForeignKey("sessions.id")),
    Column("batch_id", _ID, ForeignKey("batches.id")),
    Column("kind", EnumText(UploadKind), nullable=False),
    Column("status", EnumText(UploadStatus), nullable=False),
    Column("concat", Text),
    Column("parts", _JSON),
    # Of owner and parts, in order: by it a final that was asked for twice is found.
    Column("parts_digest", String(64)),
    Column("length", BigInteger),
    Column("recorded_offset", BigInteger, nullable=False),
    Column("synced_offset", BigInteger, nullable=False),
    Column("verified_offset", BigInteger),
    Column("boot_id", Text, nullable=False),
    Column("metadata_raw", Text, nullable=False),
    # A foreign name may hold NUL or lone surrogates, which no text column takes: JSON escapes them.
    Column("metadata_parsed", _JSON, nullable=False),
    Column("media", _JSON),
    Column("sha256", String(64)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("active_at", UtcDateTime, nullable=False),
    Column("completed_at", UtcDateTime),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("spent_at", UtcDateTime),
    Index(None, "session_id", "active_at"),
    Index(None, "batch_id"),
    Index(None, "parts_digest"),
    Index(None, "status", "id"),
    Index(None, "status", "expires_at"),
    Index(None, "status", "spent_at"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("batch_id", _ID),
    Column("operation", Text, nullable=False),
    Column("params", _JSON, nullable=False),
    Column("status", EnumText(JobStatus), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout_seconds", Double, nullable=False),
    Column("from_then", Boolean, nullable=False),
    Column("one_time", Boolean, nullable=False),
    Column("worker", Text),
    Column("cancel_requested", Boolean, nullable=False),
    Column("progress", Double, nullable=False),
    Column("stage", Text),
    Column("warnings", _JSON, nullable=False),
    Column("result", _JSON),
    Column("error", _JSON),
    Column("created_at", UtcDateTime, nullable=False),
    Column("dispatched_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("heartbeat_at", UtcDateTime),
    Column("deadline_at", UtcDateTime),
    Column("completed_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
    Column("version", Integer, nullable=False),
    Column("output_name", Text),
    Index(None, "owner", "created_at", "id"),
    Index(None, "batch_id", "created_at", "id"),
    Index(None, "status", "priority", "created_at", "id"),
    Index(None, "status", "created_at", "id"),
    Index(None, "expires_at"),
)

job_inputs = Table(
    "job_inputs",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("role", EnumText(InputRole), nullable=False),
    Column("upload_id", _ID, index=True),
    Column("output_id", _ID, index=True),
    Column("sort_order", Integer, nullable=False),
    CheckConstraint("(upload_id IS NULL) <> (output_id IS NULL)", name="one_source"),
)

outputs = Table(
    "outputs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("job_id", _ID, ForeignKey("jobs.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status", EnumText(OutputStatus), nullable=False),
    Column("filename", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("one_time", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("delivered_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
    Index(None, "job_id", "created_at", "id"),
    Index(None, "status", "created_at", "id"),
    Index(None, "status", "delivered_at"),
    Index(None, "expires_at"),
)

kept_clips = Table(
    "kept_clips",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("key", String(64), nullable=False),
    # The job that used it last: it goes with that job.
    Column("job_id", _ID, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime, nullable=False),
    UniqueConstraint("owner", "key"),
    Index(None, "used_at", "id"),
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("kind", EnumText(ThingKind), primary_key=True),
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("reason", EnumText(Reason), nullable=False),
    Column("sweep", Text),
    Column("parent_id", _ID),
    Column("size_bytes", BigInteger, nullable=False),
    Column("error_code", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("completed_at", UtcDateTime),
    Column("deleted_at", UtcDateTime, nullable=False),
    Index(None, "kind", "parent_id", "created_at", "id"),
    Index(None, "deleted_at"),
)

delivered_spans = Table(
    "delivered_spans",
    metadata,
    Column("output_id", _ID, ForeignKey("outputs.id", ondelete="CASCADE"), primary_key=True),
    Column("principal", Text, primary_key=True),
    Column("span_start", BigInteger, primary_key=True, autoincrement=False),
    Column("span_end", BigInteger, nullable=False),
    CheckConstraint("span_end > span_start", name="not_empty"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("kind", EnumText(ThingKind), nullable=False),
    Column("thing_id", _ID, nullable=False),
    Column("was_new", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "created_at"),
)

job_rates = Table(
    "job_rates",
    metadata,
    Column("operation", Text, primary_key=True),
    Column("measured_at", UtcDateTime, primary_key=True),
    Column("seconds_per_unit", Double, nullable=False),
)

requests = Table(
    "requests",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("worker", Text, nullable=False),
    # Of things that may not have come to be yet.
    Column("session_id", _ID, nullable=False),
    Column("job_id", _ID, nullable=False, index=True),
    Column("is_over", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "created_at", "id"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("acquired_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

sweep_reports = Table(
    "sweep_reports",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("sweep", EnumText(SweepName), nullable=False),
    Column("trigger", EnumText(Trigger), nullable=False),
    Column("leader", Text, nullable=False),
    Column("dry_run", Boolean, nullable=False),
    Column("cutoff", UtcDateTime),
    Column("examined", BigInteger, nullable=False),
    Column("removed", BigInteger, nullable=False),
    Column("skipped", _JSON, nullable=False),
    Column("bytes_freed", BigInteger, nullable=False),
    Column("errors", _JSON, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("duration_seconds", Double, nullable=False),
    Index(None, "sweep", "started_at", "id"),
    Index(None, "started_at", "id"),
)

cleanup_pending = Table(
    "cleanup_pending",
    metadata,
    Column("path", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("last_error", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "next_attempt_at"),
    Index(None, "created_at"),
)

instance = Table(
    "instance",
    metadata,
    # One row at most: it says which data folder this database belongs to.
    Column("singleton", Integer, primary_key=True, autoincrement=False),
    Column("id", _ID, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    CheckConstraint("singleton = 1", name="one_row"),
)
