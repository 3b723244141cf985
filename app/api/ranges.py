"""Which bytes of a stored file a request asks for, and whether it has them already (RFC 9110)."""

import re
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from starlette.datastructures import Headers

from app.api.access import FirstHeaders
from app.domain.delivery import ByteSpan
from app.domain.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,19})[ \t]*-[ \t]*(\d{0,19})\Z", re.IGNORECASE)


def parse_range(text: str, size: int) -> ByteSpan | None:
    """Return the span of a single byte range, None for what is to be ignored (RFC 9110, 14.2).

    Several ranges are ignored: the whole file is a correct answer to them. Raises
    RangeNotSatisfiable for a single range that holds no byte of the file.
    """
    match = _RANGE.match(text.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        suffix = int(last)
        span = ByteSpan(max(0, size - suffix), size)
    else:
        start = int(first)
        if last and int(last) < start:
            return None
        span = ByteSpan(start, min(int(last) + 1, size) if last else size)
    if span.length <= 0:
        msg = f"The file has {size} bytes; the range asked for has none of them."
        raise RangeNotSatisfiable(msg, extra={"size_bytes": size})
    return span


def is_precondition_failed(headers: Headers, etag: str | None, modified_at: datetime) -> bool:
    """Whether the client wants another file than this: If-Match, else If-Unmodified-Since.

    RFC 9110, 13.1.1 and 13.1.4: who gives out files has to look. Weak tags match nothing here.
    """
    lines = headers.getlist("if-match")
    if lines:
        tags = {tag.strip() for line in lines for tag in line.split(",")}
        return not ("*" in tags or (etag is not None and etag in tags))
    since = _http_date(headers.get("if-unmodified-since"))
    return since is not None and modified_at.replace(microsecond=0) > since


def is_not_modified(headers: FirstHeaders, etag: str | None, modified_at: datetime) -> bool:
    """Whether the client has the file already: If-None-Match, else If-Modified-Since."""
    wanted = headers.get("if-none-match")
    if wanted is not None:
        tags = [tag.strip().removeprefix("W/") for tag in wanted.split(",")]
        return "*" in tags or (etag is not None and etag in tags)
    since = _http_date(headers.get("if-modified-since"))
    return since is not None and modified_at.replace(microsecond=0) <= since


def may_use_range(headers: FirstHeaders, etag: str | None, modified_at: datetime) -> bool:
    """Whether If-Range allows a part: a strong match of the tag, or exactly the file's date."""
    condition = headers.get("if-range")
    if condition is None:
        return True
    condition = condition.strip()
    if condition.startswith(('"', "W/")):
        return etag is not None and condition == etag
    return _http_date(condition) == modified_at.replace(microsecond=0)


def _http_date(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.utcoffset() == timedelta(0) else None
