"""A sweep: a periodic, bounded, idempotent pass that removes or repairs, and reports."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class SweepName(StrEnum):
    GC_FILES = "gc_files"
    UNCLAIMED_UPLOADS = "unclaimed_uploads"
    STALE_SESSIONS = "stale_sessions"
    SPENT_INPUTS = "spent_inputs"
    JOB_TIMEOUTS = "job_timeouts"
    UNDISPATCHED_JOBS = "undispatched_jobs"
    EXPIRED_JOBS = "expired_jobs"
    EXPIRED_BATCHES = "expired_batches"
    DELIVERED_OUTPUTS = "delivered_outputs"
    KEPT_CLIPS = "kept_clips"
    OLD_RECORDS = "old_records"


class Trigger(StrEnum):
    START = "start"
    INTERVAL = "interval"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Victim:
    """One thing a sweep would remove or repair, and why (printed by a dry run)."""

    kind: str
    id: str
    why: str
    size_bytes: int = 0


@dataclass(slots=True)
class SweepTally:
    """What one run counts while it goes. Bytes and ``removed`` count only what is verified gone."""

    examined: int = 0
    removed: int = 0
    bytes_freed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    victims: list[Victim] = field(default_factory=list)

    def skip(self, reason: str) -> None:
        """Count one thing left alone for ``reason``."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1


@dataclass(frozen=True, slots=True)
class SweepReport:
    """The row that a run leaves."""

    id: str
    sweep: SweepName
    trigger: Trigger
    leader: str
    dry_run: bool
    cutoff: datetime | None
    examined: int
    removed: int
    skipped: dict[str, int]
    bytes_freed: int
    errors: tuple[str, ...]
    started_at: datetime
    duration_seconds: float

    @property
    def ended_at(self) -> datetime:
        return self.started_at + timedelta(seconds=self.duration_seconds)

    @property
    def came_to_its_end(self) -> bool:
        """Whether the run did not fail as a whole; trouble with single entries does not count."""
        return not any(error.startswith(f"sweep {self.sweep.value}: ") for error in self.errors)


@dataclass(frozen=True, slots=True)
class PendingCleanup:
    """Bytes that no row needs any more and that are still to be deleted.

    Written in the transaction that let go of them, removed once they are verified gone; what fails
    stays and is tried again with backoff. ``path`` is relative to the data folder.
    """

    path: str
    kind: str
    reason: str
    owner: str
    attempts: int
    next_attempt_at: datetime
    last_error: str | None
    created_at: datetime
