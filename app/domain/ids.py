"""Identifiers: 32 lower-case hex digits, unguessable, the same form for everything that has a row."""

import re
import uuid

_ID = re.compile(r"[0-9a-f]{32}\Z")


def new_id() -> str:
    """Return a fresh random identifier (122 random bits, as a tus URL doubles as a secret)."""
    return uuid.uuid4().hex


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of an identifier; nothing else may reach a path or a query."""
    return _ID.match(text) is not None
