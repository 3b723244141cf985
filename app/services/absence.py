"""Gone or never there: what to say of an id that has no row of the owner's."""

from app.domain.errors import AppError
from app.domain.tombstones import ThingKind, Tombstone
from app.services.ports import Transaction


def absent(
    tx: Transaction,
    kind: ThingKind,
    thing_id: str,
    owner: str,
    errors: tuple[type[AppError], type[AppError]],
) -> AppError:
    """Return the error for a missing thing; ``errors`` are its (not found, gone).

    Gone tells reason, time and sweep from the tombstone; another owner's is as if it never was.
    """
    not_found, gone = errors
    tombstone = tx.tombstones.find(kind, thing_id)
    if tombstone is None or tombstone.owner != owner:
        return not_found(f"There is no {kind} {thing_id}.")
    return as_gone(tombstone, gone)


def as_gone(tombstone: Tombstone, gone: type[AppError]) -> AppError:
    """Return ``gone`` with what the tombstone knows."""
    return gone(
        f"The {tombstone.kind} was deleted: {tombstone.reason}.",
        extra={
            "reason": tombstone.reason.value,
            "deleted_at": tombstone.deleted_at.isoformat().replace("+00:00", "Z"),
            "sweep": tombstone.sweep,
        },
    )
