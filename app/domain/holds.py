"""When the inputs of a job that has ended stop being held (semantics: when is an input spent)."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.jobs import JobStatus


@dataclass(frozen=True, slots=True)
class HoldPolicy:
    """How long inputs stay after a job has ended, by how it ended."""

    keep_inputs: timedelta
    failed_ttl: timedelta


def held_until(
    status: JobStatus, ended_at: datetime, *, from_then: bool, policy: HoldPolicy
) -> datetime:
    """Return when a just ended job stops holding its inputs.

    A completed ``then`` releases them at once; a failed or cancelled job keeps them so that a retry
    works; any other completed job keeps them for the promised time.
    """
    if status is JobStatus.COMPLETED:
        return ended_at if from_then else ended_at + policy.keep_inputs
    return ended_at + policy.failed_ttl
