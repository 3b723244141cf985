"""An output: a stored file that a job produced."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class OutputStatus(StrEnum):
    """publishing (the row exists, the bytes are on their way) -> available; gone is a tombstone."""

    PUBLISHING = "publishing"
    AVAILABLE = "available"


@dataclass(frozen=True, slots=True)
class Output:
    """The row of one output. ``sha256`` is hex; ``size_bytes`` the file's exact length."""

    id: str
    owner: str
    job_id: str
    attempt: int
    status: OutputStatus
    filename: str
    media_type: str
    size_bytes: int
    sha256: str
    created_at: datetime
    expires_at: datetime | None
