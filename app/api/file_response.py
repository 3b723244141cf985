"""A stored file as an ASGI response: Range, conditional requests, digest, and nothing kept open.

Starlette's own takes background tasks that also run after aborts, does not close early enough on a
missing file, and knows no digest. This one opens the file before the headers go out, reads in
pieces of 1 MiB, and closes it in ``finally``.
"""

import asyncio
import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.errors import problem_response
from app.domain.errors import AppError, RangeNotSatisfiable, StorageFailed

PIECE_BYTES = 1024 * 1024
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,19})[ \t]*-[ \t]*(\d{0,19})\Z", re.IGNORECASE)
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,80}/[A-Za-z0-9!#$&^_.+-]{1,80}\Z")
_LONGEST_NAME = 200
_LONGEST_ENDING = 16
OCTETS = "application/octet-stream"
PARTIAL = 206


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file to hand out. ``sha256`` is hex or None, ``modified_at`` aware UTC."""

    path: Path
    filename: str
    media_type: str
    modified_at: datetime
    sha256: str | None = None
    etag_seed: str | None = None
    """Makes a strong ETag where no digest is known: an id whose bytes never change."""


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes ``start``..``end`` of a file, ``end`` excluded."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


def etag_of(file: StoredFile) -> str | None:
    """Return the strong entity tag with its quotes, None where nothing identifies the bytes."""
    tag = file.sha256 or file.etag_seed
    return f'"{tag}"' if tag else None


def content_disposition(filename: str, fallback: str = "download") -> str:
    """Return an attachment header that no file name can break out of (RFC 6266, RFC 8187).

    The plain form is for old clients: ASCII without quotes, backslashes, percent or control
    characters. The whole name follows as ``filename*`` where the plain form is not all of it.
    """
    name = "".join(c for c in filename if c.isprintable()).replace("/", "_").replace("\\", "_")
    name = _shorten(name.strip(". ")) or fallback
    plain = "".join(c if c.isascii() and c not in '"%' else "_" for c in name)
    header = f'attachment; filename="{plain}"'
    if plain == name:
        return header
    encoded = quote(name.encode("utf-8", "replace"), safe="!#$&+-.^_`|~")
    return f"{header}; filename*=UTF-8''{encoded}"


def _shorten(name: str) -> str:
    if len(name) <= _LONGEST_NAME:
        return name
    stem, dot, ending = name.rpartition(".")
    if not stem or len(ending) > _LONGEST_ENDING:
        return name[:_LONGEST_NAME]
    return f"{stem[: _LONGEST_NAME - len(ending) - 1]}{dot}{ending}"


def parse_range(text: str, size: int) -> Span | None:
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
        span = Span(max(0, size - suffix), size)
    else:
        start = int(first)
        if last and int(last) < start:
            return None
        span = Span(start, min(int(last) + 1, size) if last else size)
    if span.length <= 0:
        msg = f"The file has {size} bytes; the range asked for has none of them."
        raise RangeNotSatisfiable(msg, extra={"size_bytes": size})
    return span


def is_not_modified(headers: Headers, etag: str | None, modified_at: datetime) -> bool:
    """Whether the client has the file already: If-None-Match, else If-Modified-Since."""
    wanted = headers.get("if-none-match")
    if wanted is not None:
        tags = [tag.strip().removeprefix("W/") for tag in wanted.split(",")]
        return "*" in tags or (etag is not None and etag in tags)
    since = _http_date(headers.get("if-modified-since"))
    return since is not None and modified_at.replace(microsecond=0) <= since


def may_use_range(headers: Headers, etag: str | None, modified_at: datetime) -> bool:
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


class FileResponse(Response):
    """A response that sends a stored file, or the part of it that was asked for.

    ``missing`` is the error to answer when the file is not there any more.
    """

    def __init__(
        self,
        file: StoredFile,
        *,
        missing: AppError,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._file = file
        self._missing = missing
        self._extra = dict(headers or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            handle = await asyncio.to_thread(self._open)
        except FileNotFoundError:
            await problem_response(self._missing, scope)(scope, receive, send)
            return
        except OSError as error:
            raise StorageFailed("The stored file cannot be opened.") from error
        try:
            await self._answer(handle, scope, receive, send)
        finally:
            handle.close()

    def _open(self) -> BinaryIO:
        descriptor = os.open(self._file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return os.fdopen(descriptor, "rb", buffering=0)

    async def _answer(self, handle: BinaryIO, scope: Scope, receive: Receive, send: Send) -> None:
        size = os.fstat(handle.fileno()).st_size
        asked = Headers(scope=scope)
        etag = etag_of(self._file)
        if is_not_modified(asked, etag, self._file.modified_at):
            await self._start(send, 304, self._validators())
            await send({"type": "http.response.body", "body": b""})
            return
        span, status = Span(0, size), 200
        # RFC 9110, 14.2: Range means something for GET only.
        wanted = asked.get("range") if scope["method"] == "GET" else None
        if wanted is not None and may_use_range(asked, etag, self._file.modified_at):
            try:
                found = parse_range(wanted, size)
            except RangeNotSatisfiable as error:
                response = problem_response(error, scope)
                response.headers["accept-ranges"] = "bytes"
                await response(scope, receive, send)
                return
            if found is not None:
                span, status = found, 206
        await self._start(send, status, self._describe(span, size, status))
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        # A server drops what is sent after the peer has gone; someone must notice and stop reading.
        watcher = asyncio.create_task(_until_gone(receive))
        try:
            await self._stream(handle, span, send, watcher)
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])

    async def _start(self, send: Send, status: int, headers: Mapping[str, str]) -> None:
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})

    def _validators(self) -> dict[str, str]:
        headers = {
            **self._extra,
            "last-modified": format_datetime(self._file.modified_at, usegmt=True),
            # Kept by the client, asked again each time: what was deleted must answer 410.
            "cache-control": "private, no-cache",
        }
        etag = etag_of(self._file)
        return {**headers, "etag": etag} if etag else headers

    def _describe(self, span: Span, size: int, status: int) -> dict[str, str]:
        media_type = self._file.media_type
        headers = {
            **self._validators(),
            "content-type": media_type if _MEDIA_TYPE.match(media_type) else OCTETS,
            "content-length": str(span.length),
            "accept-ranges": "bytes",
            "content-disposition": content_disposition(self._file.filename),
            "x-content-type-options": "nosniff",
            "content-security-policy": "default-src 'none'; sandbox",
            "cross-origin-resource-policy": "cross-origin",
        }
        if self._file.sha256:
            # Of the whole representation, also with a part of it (RFC 9530, 3).
            digest = base64.b64encode(bytes.fromhex(self._file.sha256)).decode("ascii")
            headers["repr-digest"] = f"sha-256=:{digest}:"
        if status == PARTIAL:
            headers["content-range"] = f"bytes {span.start}-{span.end - 1}/{size}"
        return headers

    async def _stream(
        self, handle: BinaryIO, span: Span, send: Send, gone: "asyncio.Task[None]"
    ) -> None:
        position = span.start
        while position < span.end and not gone.done():
            wanted = min(PIECE_BYTES, span.end - position)
            piece = await asyncio.to_thread(os.pread, handle.fileno(), wanted, position)
            if not piece:
                # Cut under our hands: end the connection rather than pretend it was all.
                msg = "the file became shorter while it was sent"
                raise OSError(msg)
            position += len(piece)
            more = position < span.end
            await send({"type": "http.response.body", "body": piece, "more_body": more})
        if span.length == 0:
            await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
