"""Where a page of a list ends."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ends: the ``created_at`` and id of its last row; pages go newest first."""

    created_at: datetime
    id: str
