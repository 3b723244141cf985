"""What an examination of an installation finds: one line each, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """A note is worth knowing, a warning wants attention, with a failure something does not work."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``todo`` is there for everything that is not ok."""

    check: str
    level: Level
    what: str
    todo: str = ""


def ok(check: str, what: str) -> Finding:
    return Finding(check, Level.OK, what)


def note(check: str, what: str, todo: str) -> Finding:
    return Finding(check, Level.NOTE, what, todo)


def warning(check: str, what: str, todo: str) -> Finding:
    return Finding(check, Level.WARNING, what, todo)


def failure(check: str, what: str, todo: str) -> Finding:
    return Finding(check, Level.FAILURE, what, todo)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the gravest level there is; nothing found is ok."""
    order = list(Level)
    return max((each.level for each in findings), key=order.index, default=Level.OK)
