"""How many jobs may wait."""

from app.domain.errors import QueueFull
from app.domain.jobs import JobPolicy
from app.services.ports import Transaction

QUEUE_FULL_RETRY_SECONDS = 10


def check_queue(tx: Transaction, policy: JobPolicy) -> None:
    """Raise QueueFull unless one more job may wait."""
    limit = policy.queue_limit
    waiting = tx.jobs.count_queued()
    if waiting >= limit:
        msg = f"The queue is full: jobs waiting {waiting}, allowed {limit}."
        raise QueueFull(
            msg,
            extra={"queued": waiting, "limit": limit},
            retry_after_seconds=QUEUE_FULL_RETRY_SECONDS,
        )
