"""An output: a stored file that a job produced."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class OutputStatus(StrEnum):
    """publishing (the row exists, the bytes are on their way) -> available -> delivered (one-time
    outputs only: still readable for a grace); gone is a tombstone.
    """

    PUBLISHING = "publishing"
    AVAILABLE = "available"
    DELIVERED = "delivered"

    @property
    def is_readable(self) -> bool:
        """Whether its bytes can be had: by a download, and by a job that reads it."""
        return self is not OutputStatus.PUBLISHING


@dataclass(frozen=True, slots=True)
class Output:
    """The row of one output. ``sha256`` is hex; ``size_bytes`` the file's exact length.

    ``one_time``: it goes a grace after ``delivered_at``, when all its bytes were delivered.
    """

    id: str
    owner: str
    job_id: str
    attempt: int
    status: OutputStatus
    filename: str
    media_type: str
    size_bytes: int
    sha256: str
    one_time: bool
    created_at: datetime
    delivered_at: datetime | None
    expires_at: datetime | None
