"""Idempotency keys: a client's own name for one request, so that a repeat finds what it made."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.tombstones import ThingKind

KEPT = timedelta(hours=24)
"""How long a key is remembered at least; longer while the thing lives."""
LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """What a request with an ``Idempotency-Key`` is known by.

    ``scope`` names the call (its method and path), ``fingerprint`` is a digest of its body.
    """

    scope: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """The row: who asked what under which key, and the thing that came of it.

    ``was_new``: whether that request made the thing, or found it there.
    """

    owner: str
    scope: str
    key: str
    fingerprint: str
    kind: ThingKind
    thing_id: str
    was_new: bool
    created_at: datetime
