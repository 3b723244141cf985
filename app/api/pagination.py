"""Pages: opaque cursors and their bounds."""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Query

from app.domain.errors import InvalidRequest
from app.domain.ids import is_id
from app.services.ports import Cursor

DEFAULT_LIMIT = 50
MOST_PER_PAGE = 200
_CHECK_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Page:
    """What part of a list is asked for."""

    cursor: Cursor | None
    limit: int


def encode_cursor(cursor: Cursor) -> str:
    """Return the cursor as the text a client hands back unread."""
    stamp = cursor.created_at.astimezone(UTC).isoformat()
    body = json.dumps([stamp, cursor.id], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_check(body) + body).decode().rstrip("=")


def decode_cursor(text: str) -> Cursor:
    """Return what ``encode_cursor`` was given. Raises InvalidRequest for anything else."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        check, body = raw[:_CHECK_LENGTH], raw[_CHECK_LENGTH:]
        stamp, row_id = json.loads(body)
        cursor = Cursor(datetime.fromisoformat(stamp), row_id)
        sound = check == _check(body) and is_id(row_id) and cursor.created_at.tzinfo is not None
    except (ValueError, TypeError, RecursionError, binascii.Error):
        sound, cursor = False, None
    if not sound or cursor is None:
        entry = {"in": "query", "loc": "cursor", "message": "Not a cursor of this service."}
        raise InvalidRequest(
            "cursor: not a cursor of this service; take it unchanged from `next` of a list.",
            extra={"errors": [entry]},
        )
    return cursor


def _check(body: bytes) -> bytes:
    # No secret: it tells a cut or edited cursor from a whole one, the owner filter does the rest.
    return hashlib.sha256(body).hexdigest()[:_CHECK_LENGTH].encode()


async def get_page(
    cursor: Annotated[
        str | None, Query(max_length=500, description="`next` of the page before, unchanged.")
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=MOST_PER_PAGE, description="How many items at most.")
    ] = DEFAULT_LIMIT,
) -> Page:
    """Return the page that a list's query asks for."""
    return Page(decode_cursor(cursor) if cursor is not None else None, limit)


PageDep = Annotated[Page, Depends(get_page)]
