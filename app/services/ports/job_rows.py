"""The rows of jobs, outputs and kept clips, of what was delivered, and of how fast jobs went."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.domain.delivery import ByteSpan
from app.domain.jobs import Fence, Job, JobStatus
from app.domain.kept_clips import KeptClip
from app.domain.outputs import Output, OutputStatus
from app.services.ports.cursor import Cursor

RATES_KEPT = 20
"""Measurements kept of each operation (``RateRows``)."""


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


class KeptClipRows(Protocol):
    """The clips that are kept for other jobs; lists begin with what was used longest ago."""

    def insert(self, clip: KeptClip) -> None: ...

    def find(self, clip_id: str) -> KeptClip | None: ...

    def find_by_key(self, owner: str, key: str) -> KeptClip | None: ...

    def touch(self, clip_id: str, job_id: str, now: datetime) -> bool:
        """Say that it has just been used and goes with that job; False when it is gone."""
        ...

    def delete(self, clip_id: str) -> bool: ...

    def list_by_job(self, job_id: str) -> list[KeptClip]:
        """All that this job was the last to use."""
        ...

    def list_by_upload(self, upload_id: str) -> list[KeptClip]:
        """All whose last job has this upload among its inputs."""
        ...

    def list_oldest(self, limit: int) -> list[KeptClip]: ...

    def totals(self) -> tuple[int, int]:
        """Count and bytes of all of them."""
        ...


class DeliveryRows(Protocol):
    """What was delivered of one-time outputs; rows go with their output."""

    def spans(self, output_id: str, principal: str) -> tuple[ByteSpan, ...]:
        """The merged intervals that one principal has got."""
        ...

    def put(self, output_id: str, principal: str, spans: Sequence[ByteSpan]) -> None:
        """Replace the intervals of one principal; nothing happens when the output is gone."""
        ...


class RateRows(Protocol):
    """How fast jobs of an operation went: seconds per unit of effort (``Plan.effort``)."""

    def put(self, operation: str, *, seconds_per_unit: float, measured_at: datetime) -> None:
        """Keep a measurement; of each operation the newest ``RATES_KEPT`` stay."""
        ...

    def best(self, operation: str) -> float | None:
        """The lowest seconds per unit among those kept; None: nothing was measured yet."""
        ...
