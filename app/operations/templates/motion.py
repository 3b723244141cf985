"""How drawn elements come, stay and go: moments in seconds, movement as expressions of time.

Things come quickly and settle slowly (ease-out), and leave slowly at first (ease-in). What comes
together comes one after the other, ``STAGGER`` apart.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

STAGGER = 0.12
ENTER_SECONDS = 0.8
LEAVE_SECONDS = 0.45
FADE_SHARE = 0.6
"""Of an entrance, in which it becomes opaque; then it only settles."""
SETTLE = 5
"""The power of the ease-out: most of the way is done in a third of the time."""
DEPART = 3


class Entrance(StrEnum):
    """How an element comes. They leave by fading, a little further along the way they came."""

    AT_ONCE = "at once"
    FADE = "fade"
    LIFT = "lift"
    """Fades in and comes up a little."""
    SLIDE = "slide"
    """Fades in and comes from the side at which text begins."""
    RISE = "rise"
    """Comes up from behind its own lower edge."""
    GROW = "grow"
    """Comes out from behind its own edge at which text begins: a bar grows."""


@dataclass(frozen=True, slots=True)
class Cue:
    """When an element is there, in seconds. ``stays``: it does not leave before the video ends.

    ``travel`` is how far LIFT and SLIDE go, in pixels.
    """

    name: str
    start: float
    end: float
    entrance: Entrance
    travel: int = 0
    enter_seconds: float = ENTER_SECONDS
    leave_seconds: float = LEAVE_SECONDS
    stays: bool = False


@dataclass(frozen=True, slots=True)
class Drift:
    """A slow, endless movement of an element about its place: pixels each way, seconds for one round."""

    name: str
    across: int
    down: int
    period: float
    phase: float


def in_turn(
    cues: Iterable[tuple[str, Entrance]], *, start: float, end: float, travel: int
) -> tuple[Cue, ...]:
    """Return cues that come one after the other from ``start`` on, and leave together at ``end``."""
    return tuple(
        Cue(name, start + STAGGER * index, end, entrance, travel)
        for index, (name, entrance) in enumerate(cues)
    )


def squeeze(cues: Iterable[Cue], factor: float) -> tuple[Cue, ...]:
    """Return cues at ``factor`` of their times, for a clip that is too short for them."""
    return tuple(
        replace(
            cue,
            start=cue.start * factor,
            end=cue.end * factor,
            enter_seconds=cue.enter_seconds * factor,
            leave_seconds=cue.leave_seconds * factor,
        )
        for cue in cues
    )


def number(value: float) -> str:
    """Return a number as filters read it."""
    return f"{value:.5f}".rstrip("0").rstrip(".")


def to_come(cue: Cue) -> str:
    """Return an expression of t: 1 before the element comes, 0 when it has settled, eased."""
    share = f"clip((t-{number(cue.start)})/{number(max(cue.enter_seconds, 0.001))},0,1)"
    return f"pow(1-{share},{SETTLE})"


def gone(cue: Cue) -> str:
    """Return an expression of t: 0 until the element begins to leave, 1 when it has gone, eased."""
    leaves = cue.end - cue.leave_seconds
    share = f"clip((t-{number(leaves)})/{number(max(cue.leave_seconds, 0.001))},0,1)"
    return f"pow({share},{DEPART})"
