"""Whether this process can do its work, part by part."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class PartState(StrEnum):
    """degraded still takes traffic (200), failing does not (503)."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Part:
    """One part: database, store, scheduler, ffmpeg, ... ``detail`` is for admins, never a secret."""

    name: str
    state: PartState
    detail: str = ""


class Readiness(Protocol):
    """Looks at every part; bounded in time, and never raises for a part that fails."""

    async def check(self) -> Sequence[Part]: ...


def overall(parts: Sequence[Part]) -> PartState:
    """Return the worst state among ``parts``; nothing to look at is ok."""
    states = {part.state for part in parts}
    for state in (PartState.FAILING, PartState.DEGRADED):
        if state in states:
            return state
    return PartState.OK
