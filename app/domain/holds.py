"""When the inputs of a job that has ended stop being held (semantics: when is an input spent)."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.jobs import JobStatus


@dataclass(frozen=True, slots=True)
class HoldPolicy:
    """How long inputs stay after a job has ended, by how it ended.

    ``released_at_once``: names of operations whose inputs nothing holds then, however they ended.
    """

    keep_inputs: timedelta
    failed_ttl: timedelta
    released_at_once: frozenset[str] = frozenset()


def held_until(
    status: JobStatus,
    ended_at: datetime,
    *,
    from_then: bool,
    policy: HoldPolicy,
    keep_inputs_hours: float | None = None,
    operation: str | None = None,
) -> datetime:
    """Return when a just ended job stops holding its inputs.

    After success for as long as their batch asks (``keep_inputs_hours``); where it does not, a
    completed ``then`` releases them at once, any other job after the promised time. A failed or
    cancelled job keeps them so that a retry works, and at least as long as the batch asks. One of an
    ``operation`` that is to release them at once keeps them only as long as the batch asks.
    """
    asked = timedelta(hours=keep_inputs_hours) if keep_inputs_hours is not None else None
    if operation in policy.released_at_once:
        return ended_at + (asked or timedelta(0))
    if status is not JobStatus.COMPLETED:
        return ended_at + max(policy.failed_ttl, asked or timedelta(0))
    if asked is not None:
        return ended_at + asked
    return ended_at if from_then else ended_at + policy.keep_inputs
