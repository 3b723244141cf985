"""A session: one client's visit, grouping uploads until they become a batch."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class SessionStatus(StrEnum):
    """open -> batched; a deleted or expired session becomes a tombstone."""

    OPEN = "open"
    BATCHED = "batched"


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """Times of sessions and the batches they become."""

    max_age: timedelta
    batch_ttl: timedelta


@dataclass(frozen=True, slots=True)
class Then:
    """The one operation to start as soon as the batch exists."""

    operation: str
    params: dict[str, Any]
    timeout_seconds: float | None = None
    one_time: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """The row of one session. ``implicit`` ones were made for a tus upload that named none.

    ``active_at`` is the last time a request touched it; bytes that arrive count too, by the
    uploads' own ``active_at`` and their files' mtime. ``keep_inputs_hours`` is its batch's, once
    it has one (see ``app.domain.holds``).
    """

    id: str
    owner: str
    status: SessionStatus
    expected_files: int | None
    then: Then | None
    batch_id: str | None
    implicit: bool
    keep_inputs_hours: float | None
    created_at: datetime
    active_at: datetime

    def is_full(self, completed: int) -> bool:
        """Whether ``completed`` finished uploads make this session a batch by themselves."""
        return self.expected_files is not None and completed >= self.expected_files

    def expires_at(self, last_activity: datetime, policy: SessionPolicy) -> datetime:
        """When the session goes if nothing touches it any more."""
        return max(self.active_at, last_activity) + policy.max_age
