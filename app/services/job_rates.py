"""How fast jobs went here, and which wishes even the fastest of them could not have met in time."""

import math
from datetime import datetime

from app.domain.errors import WouldExceedTimeout
from app.domain.jobs import Job, JobPolicy
from app.services.ports import Transaction

LEAST_SECONDS = 10.0
LEAST_EFFORT = 1000.0
"""What a run must have taken, in seconds and in megapixels, to tell something of the machine.

Starting a child, looking at a clip and syncing the result take about a second however small the
work is. The few measurements that are kept would soon all be of such jobs, and refuse long ones
that are quick per megapixel.
"""


def measure(tx: Transaction, job: Job, effort: float, now: datetime) -> None:
    """Keep how fast an attempt was that has just completed; ``job`` is its row from before."""
    if job.started_at is None:
        return
    seconds = (now - job.started_at).total_seconds()
    if seconds < LEAST_SECONDS or effort < LEAST_EFFORT:
        return
    tx.rates.put(job.operation, seconds_per_unit=seconds / effort, measured_at=now)


def check_duration(tx: Transaction, job: Job, effort: float, policy: JobPolicy) -> None:
    """Raise WouldExceedTimeout for what even the fastest run measured here could not do in time.

    ``effort`` as in ``Plan``; 0, or an operation that was never measured, says nothing.
    """
    best = tx.rates.best(job.operation)
    if best is None:
        return
    estimate, timeout_seconds = effort * best, job.timeout_seconds
    if estimate <= timeout_seconds:
        return
    seconds = math.ceil(estimate)
    cure = "Ask for less work"
    if timeout_seconds < policy.timeout_max_seconds:
        cure += f", or for a timeout_seconds of up to {policy.timeout_max_seconds:g}"
    msg = (
        f"This would take about {seconds} s at the fastest rate measured here, longer than its limit"
        f" of {timeout_seconds:g} s. {cure}."
    )
    raise WouldExceedTimeout(
        msg, extra={"estimated_seconds": seconds, "timeout_seconds": timeout_seconds}
    )
