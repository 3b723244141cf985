"""Requests with an ``Idempotency-Key``: finding what the first one made, and remembering it."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from app.domain.errors import ConflictingUpdate, IdempotencyKeyReused
from app.domain.idempotency import IdempotencyRecord, IdempotentRequest
from app.domain.tombstones import ThingKind
from app.services.ports import Database, Transaction

T = TypeVar("T")


def find_replay(
    tx: Transaction, owner: str, request: IdempotentRequest | None
) -> IdempotencyRecord | None:
    """Return what the same request made before; None when it is the first, or has no key.

    Raises IdempotencyKeyReused when the key belongs to a request with another body.
    """
    if request is None:
        return None
    record = tx.idempotency.find(owner, request.scope, request.key)
    if record is not None and record.fingerprint != request.fingerprint:
        raise IdempotencyKeyReused(
            "This Idempotency-Key was sent before with another body. Make a new key for a new"
            " request, or send the same body again.",
            extra={"first_used_at": record.created_at.isoformat().replace("+00:00", "Z")},
        )
    return record


def remember(  # noqa: PLR0913 - each is a column of the row
    tx: Transaction,
    owner: str,
    request: IdempotentRequest | None,
    kind: ThingKind,
    thing_id: str,
    *,
    was_new: bool,
    now: datetime,
) -> None:
    """Keep what ``request`` made, in the transaction that makes it; does nothing without a key.

    Raises ConflictingUpdate when another process has just taken the key: see ``write_once``.
    """
    if request is None:
        return
    record = IdempotencyRecord(
        owner=owner,
        scope=request.scope,
        key=request.key,
        fingerprint=request.fingerprint,
        kind=kind,
        thing_id=thing_id,
        was_new=was_new,
        created_at=now,
    )
    if not tx.idempotency.put(record):
        raise ConflictingUpdate("The same request is being served at this moment.")


async def write_once(
    db: Database, request: IdempotentRequest | None, work: Callable[[Transaction], T]
) -> T:
    """Run a transaction that looks for a replay first and remembers what it makes last.

    Writers take turns, so that the second of two finds the replay. Should a database ever let them
    write at once, the second meets the first one's row, rolls back whole and looks again.
    """
    try:
        return await db.write(work)
    except ConflictingUpdate:
        if request is None:
            raise
        return await db.write(work)
