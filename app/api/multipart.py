"""multipart/form-data taken apart while it arrives, every limit enforced on the way."""

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Match
from starlette.types import Scope

from app.api.json_route import JsonRoute
from app.domain.errors import MalformedRequest, RequestTooLarge, UnsupportedMediaType

FORM_TYPE = "multipart/form-data"
HEADER_MAX_BYTES = 4096
"""Of one header line of a part; a file's name is in there."""
HEADERS_MAX = 8
PREAMBLE_MAX_BYTES = 64 * 1024
"""What may come before the first boundary: no client sends any, so it is no form at all."""

_BOUNDARY = re.compile(r"[ -~]{0,69}[!-~]\Z")
_EXTENDED_NAME = re.compile(r";\s*filename\*\s*=\s*utf-8'[^']*'([^\s;\"]+)", re.IGNORECASE)
_BLANK = b" \t\r\n"


class FormRoute(JsonRoute):
    """A route for forms whose path another route serves too: it is taken by the media type."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found, child = super().matches(scope)
        if found is Match.FULL and media_type_of(Request(scope)) != FORM_TYPE:
            return Match.NONE, {}
        return found, child


@dataclass(frozen=True, slots=True)
class Part:
    """What the head of a part says. Text of the client's, to be used as data only.

    ``filename``: None for a plain field, "" for a file input in which nothing was chosen.
    """

    name: str
    filename: str | None
    media_type: str | None


class PartSink(Protocol):
    """Takes the parts of a form in the order in which they come."""

    async def begin(self, part: Part) -> None: ...

    async def write(self, data: bytes) -> None: ...

    async def end(self) -> None: ...


class FieldText:
    """The text of a form's plain fields, one after the other, bounded in all."""

    MAX_BYTES = 256 * 1024

    def __init__(self) -> None:
        self._text = bytearray()
        self._received = 0

    def begin(self) -> None:
        """Forget the field before; its bytes go on counting."""
        self._text.clear()

    def add(self, data: bytes) -> None:
        """Take more of the present field. Raises RequestTooLarge when all of them are too long."""
        self._received += len(data)
        if self._received > self.MAX_BYTES:
            msg = f"The text fields of a form may have at most {self.MAX_BYTES} bytes in all."
            raise RequestTooLarge(msg, extra={"maximum_bytes": self.MAX_BYTES})
        self._text += data

    def value(self) -> bytes:
        """Return what the present field has so far."""
        return bytes(self._text)


@dataclass(frozen=True, slots=True)
class FormLimits:
    """``max_bytes`` of a whole body; ``read_timeout_seconds`` of silence."""

    max_bytes: int
    read_timeout_seconds: float


def media_type_of(request: Request) -> str:
    """Return the lower-case media type that a request says its body has, "" without one."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class FormBody:
    """The body of one request that is a form. Made before anything of it is read.

    Raises UnsupportedMediaType, MalformedRequest without a usable boundary, and RequestTooLarge for
    a Content-Length over the maximum.
    """

    def __init__(self, request: Request, limits: FormLimits) -> None:
        self._stream = request.stream()
        self._limits = limits
        self._boundary = _boundary(request)
        declared = request.headers.get("content-length", "")
        self.length = int(declared) if declared.isdecimal() else None
        self._received = 0
        if self.length is not None and self.length > limits.max_bytes:
            raise self._too_large(length=self.length)

    async def read_into(self, sink: PartSink) -> None:
        """Give the form's parts to ``sink``; its errors pass through.

        Raises MalformedRequest for a body that is no form or breaks off, RequestTooLarge.
        """
        try:
            await self._read_into(sink)
        except ParserLimitReached as error:
            msg = f"A part of the form may have {HEADERS_MAX} headers of {HEADER_MAX_BYTES} bytes."
            raise RequestTooLarge(msg, extra={"maximum": HEADER_MAX_BYTES}) from error
        except MultipartError as error:
            msg = f"The form cannot be read: {error.args[0]}."
            raise MalformedRequest(msg) from error

    async def _read_into(self, sink: PartSink) -> None:
        parser = PushMultipartParser(
            self._boundary, max_header_size=HEADER_MAX_BYTES, max_header_count=HEADERS_MAX
        )
        has_parts, is_whole = False, False
        while chunk := await self._read():
            if not is_whole:
                for event in parser.parse(chunk):
                    has_parts = True
                    await _pass_on(event, sink)
                rest = _behind_the_end(parser)
                chunk, is_whole = rest or b"", rest is not None
            if is_whole and chunk.strip(_BLANK):
                raise MalformedRequest("Something follows the final boundary of the form.")
            if not (has_parts or is_whole) and self._received > PREAMBLE_MAX_BYTES:
                raise MalformedRequest("The body does not begin with the form's boundary.")
        if not is_whole:
            where = "its final boundary" if has_parts else "its first boundary"
            msg = f"The form ends before {where}: it was cut off, or its boundary is another."
            raise MalformedRequest(msg)

    async def _read(self) -> bytes:
        """Return the next bytes, b"" at the end."""
        seconds = self._limits.read_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                chunk = await anext(self._stream, b"")
        except TimeoutError as error:
            msg = f"The body stalled: nothing came for {seconds:g} s. Nothing of it was kept."
            raise MalformedRequest(msg) from error
        except ClientDisconnect as error:
            raise MalformedRequest("The body ended early. Nothing of it was kept.") from error
        self._received += len(chunk)
        if self._received > self._limits.max_bytes:
            raise self._too_large()
        return chunk

    def _too_large(self, **facts: int) -> RequestTooLarge:
        maximum = self._limits.max_bytes
        msg = (
            f"A form may have at most {maximum} bytes; larger files are uploaded by tus to /files/."
        )
        return RequestTooLarge(msg, extra={"maximum_bytes": maximum, **facts})


def _boundary(request: Request) -> str:
    if (media_type := media_type_of(request)) != FORM_TYPE:
        sent = f"not {media_type[:100]}" if media_type else "but no Content-Type was sent"
        msg = f"The files must come as {FORM_TYPE}, {sent}."
        raise UnsupportedMediaType(msg, extra={"allowed": [FORM_TYPE]})
    _, options = parse_options_header(request.headers["content-type"])
    boundary = str(options.get("boundary", ""))
    if _BOUNDARY.match(boundary) is None:
        raise MalformedRequest(
            "Content-Type names no boundary of 1 to 70 characters; leave the header to your HTTP client."
        )
    return boundary


def _behind_the_end(parser: Any) -> bytes | None:
    """Return what the parser has left behind the final boundary, None while that has not come.

    multipart 2.0.1 has no public way to ask, and passes over an epilogue without a word.
    """
    from multipart import _COMPLETE  # noqa: PLC0415 - see above

    return bytes(parser._buffer) if parser._state is _COMPLETE else None  # noqa: SLF001


async def _pass_on(event: Any, sink: PartSink) -> None:
    if event is None:
        await sink.end()
    elif isinstance(event, bytes | bytearray):
        await sink.write(bytes(event))
    else:
        await sink.begin(_part(event))


def _part(segment: Any) -> Part:
    name, media_type = str(segment.name), segment.content_type
    if not name:
        raise MalformedRequest("A part of the form has no name.")
    if media_type is not None and media_type.startswith("multipart/"):
        msg = f"The part {name[:100]} is a {media_type[:100]} itself: send each file as a part."
        raise MalformedRequest(msg)
    return Part(name, _filename(segment), media_type)


def _filename(segment: Any) -> str | None:
    """Return the file's name as it was sent; RFC 7578 forbids ``filename*``, and clients send it."""
    extended = _EXTENDED_NAME.search(segment.header("Content-Disposition") or "")
    if extended is not None:
        return unquote(extended[1], errors="replace")
    found: str | None = segment.filename
    return found
