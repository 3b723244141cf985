"""Who an event is of and which course it belongs to, and the names that stand for them."""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from app.operations.moodle.columns import fold, words_before_colon

NOBODY = "-"
"""What an export writes where there is no user."""
PSEUDONYM_DIGITS = 16
KEY_BYTES = 32
REMEMBERED = 4096
"""Names recur: so many are kept at hand."""
NO_USER, NO_COURSE = "(no user)", "(no course)"

_USER_ID = re.compile(r"The user with id '(\d{1,18})'")
_COURSE_ID = re.compile(r"\bcourse with id '(\d{1,18})'")
_COURSES, _USERS = words_before_colon("course"), words_before_colon("user")


class CaseNotion(StrEnum):
    """What a case is: everything of one user, of one course, or of one user in one course."""

    USER = "user"
    COURSE = "course"
    USER_COURSE = "user-course"


class Mask:
    """Puts a pseudonym in the place of names, ids and addresses; the same for the same.

    ``key`` was made for one job and lives in one process's memory alone, so that nobody can tell
    whose a pseudonym is, or find the same person in the result of another job.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._digest = lru_cache(maxsize=REMEMBERED)(self._make)

    def __call__(self, kind: str, text: str) -> str:
        """Return the pseudonym of ``text``, such as user-0f8b1c2d3e4f4a5b; nothing stays nothing."""
        return self._digest(kind, text) if text else ""

    def _make(self, kind: str, text: str) -> str:
        digest = hmac.new(self._key, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()
        return f"{kind}-{digest[:PSEUDONYM_DIGITS]}"


Naming = Callable[[str, str], str]
"""(kind, text) -> what stands for it: ``Mask`` or ``plainly``."""


def plainly(kind: str, text: str) -> str:
    """Return ``text`` as it is; what is to be named when nobody asked for pseudonyms."""
    del kind
    return text


@dataclass(frozen=True, slots=True)
class Identity:
    """What one row says: each field is fit to be shown, "" where the row does not tell.

    ``user_id`` and ``course_id`` tell two of one name apart.
    """

    user: str
    user_id: str
    course: str
    course_id: str
    context: str


def identify(user: str, context: str, description: str, name: Naming) -> Identity:
    """Return whose event it is, where, and its context, by the names ``name`` gives."""
    who = "" if user == NOBODY else name("user", user)
    user_id = _found(_USER_ID.match(description))
    course_id = _found(_COURSE_ID.search(description))
    course, shown = _place(context, name)
    return Identity(
        who,
        _id("id", user_id, name) if who else "",
        course,
        _id("course", course_id, name),
        shown,
    )


@lru_cache(maxsize=REMEMBERED)
def _place(context: str, name: Naming) -> tuple[str, str]:
    """Return the course that a context is, "" for another, and the context as it is shown."""
    word, colon, rest = context.partition(":")
    if not colon:
        return "", name("context", context)
    kind = _kind(word)
    thing = name(kind, rest.strip())
    # The word before the colon is Moodle's own: it names nobody.
    shown = context if name is plainly else f"{word}: {thing}"
    return (thing if kind == "course" else ""), shown


def _found(match: re.Match[str] | None) -> str:
    return match[1] if match else ""


def _id(kind: str, found: str, name: Naming) -> str:
    if not found or name is plainly:
        return found
    return name(kind, f"id {found}")


def _kind(word: str) -> str:
    folded = fold(word)
    if folded in _COURSES:
        return "course"
    return "user" if folded in _USERS else "context"


def case_name(notion: CaseNotion, user: str, course: str) -> str:
    """Return the name of a case."""
    who, where = user or NO_USER, course or NO_COURSE
    if notion is CaseNotion.USER:
        return who
    return where if notion is CaseNotion.COURSE else f"{who} / {where}"
