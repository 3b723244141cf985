"""Moving the end of a thing that somebody wants to keep longer, or shorter."""

from datetime import UTC, datetime

from app.domain.errors import InvalidRequest
from app.domain.retention import RetentionPolicy


def check_expiry(expires_at: datetime, now: datetime, policy: RetentionPolicy) -> datetime:
    """Return ``expires_at`` in UTC, as every time is kept and told.

    Raises InvalidRequest unless it is in the future and within ``policy.max_ttl``.
    """
    latest = now + policy.max_ttl
    if now < expires_at <= latest:
        return expires_at.astimezone(UTC)
    wrong = "is in the past" if expires_at <= now else "is too far away"
    allowed = f"after {_shown(now)}, up to {_shown(latest)}"
    error = {"in": "body", "loc": "expires_at", "message": wrong, "allowed": allowed}
    msg = f"expires_at: {wrong} (allowed: {allowed}). To remove a thing now, DELETE it."
    raise InvalidRequest(msg, extra={"errors": [error]})


def _shown(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
