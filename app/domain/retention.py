"""How long things stay that somebody may ask to keep, and traces of what is gone."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """``max_ttl``: furthest from now that a client may move an expiry. ``delivery_grace``: how long a
    delivered one-time output stays readable. ``tombstones``: how long a deleted thing answers 410.
    """

    max_ttl: timedelta
    delivery_grace: timedelta
    tombstones: timedelta
