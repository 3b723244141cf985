"""A kept clip: what a step made of one input, for the next job of the same owner that needs it."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class KeptClip:
    """The row of one kept clip. ``key`` names what it was made of and how (``FFmpegStep.cache_key`` and
    FFmpeg's version); an owner has one of each. ``job_id`` is the job that used it last, of those that
    stay when they have ended: it goes with that one. ``size_bytes`` is the file's exact length.
    """

    id: str
    owner: str
    key: str
    job_id: str
    size_bytes: int
    created_at: datetime
    used_at: datetime


@dataclass(frozen=True, slots=True)
class KeptClipPolicy:
    """``kept_for``: how long after its last use. ``max_bytes``: of all kept clips together.
    ``reserve_bytes``: with less free than that on the disk, nothing is kept.
    """

    kept_for: timedelta
    max_bytes: int
    reserve_bytes: int

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self.kept_for > timedelta() and self.max_bytes > 0
