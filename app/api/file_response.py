"""A stored file as an ASGI response: Range, conditional requests, digest, and nothing kept open.

Starlette's own takes background tasks that also run after aborts, does not close early enough on a
missing file, and knows no digest. This one opens the file before the headers go out, sends it by
sendfile where the server offers the socket (else in pieces of 1 MiB), closes it in ``finally``, and
tells there whoever wants to know what was sent.
"""

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.api.access import first_headers
from app.api.connection import SENT_BYTES, Connection, connection_of
from app.api.errors import problem_response
from app.api.ranges import is_not_modified, is_precondition_failed, may_use_range, parse_range
from app.api.socket_sender import ClientGone, ClientStalled, SocketSender
from app.api.source_file import SourceFile
from app.domain.delivery import ByteSpan
from app.domain.errors import AppError, PreconditionFailed, RangeNotSatisfiable, StorageFailed
from app.services.cancellation import uninterrupted

log = structlog.get_logger(__name__)

PIECE_BYTES = 1024 * 1024
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,80}/[A-Za-z0-9!#$&^_.+-]{1,80}\Z")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9 _.()-]{0,198}[A-Za-z0-9_-]\Z")
_LONGEST_NAME = 200
_LONGEST_ENDING = 16
OCTETS = "application/octet-stream"
PARTIAL = 206
_PRECONDITIONS = frozenset({"if-match", "if-unmodified-since"})


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file to hand out. ``sha256`` is hex or None, ``modified_at`` aware UTC.

    ``size_bytes``: what its row says, None where nobody knows; another length is no answer.
    """

    path: Path
    filename: str
    media_type: str
    modified_at: datetime
    sha256: str | None = None
    etag_seed: str | None = None
    """Makes the strong ETag where a digest may not be known yet: an id whose bytes never change."""
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a body: the bytes that were handed over, from the span's start on, and whether
    the client's system has confirmed them all (``SocketSender.is_taken``).
    """

    span: ByteSpan
    is_taken: bool


OnSent = Callable[[Sent], Awaitable[None]]


def etag_of(file: StoredFile) -> str | None:
    """Return the strong entity tag with its quotes, None where nothing identifies the bytes."""
    tag = file.etag_seed or file.sha256
    return f'"{tag}"' if tag else None


def content_disposition(filename: str, fallback: str = "download") -> str:
    """Return an attachment header that no file name can break out of (RFC 6266, RFC 8187).

    The plain form is for old clients: ASCII without quotes, backslashes, percent or control
    characters. The whole name follows as ``filename*`` where the plain form is not all of it.
    """
    if _PLAIN_NAME.match(filename):
        return f'attachment; filename="{filename}"'
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


class FileResponse(Response):
    """A response that sends a stored file, or the part of it that was asked for.

    ``missing`` is the error to answer when the file is not there any more. ``on_sent`` is told of
    every body that was begun, however it ended, once that is known; never of HEAD, 304 and errors.
    """

    def __init__(
        self,
        file: StoredFile,
        *,
        missing: AppError,
        on_sent: OnSent | None = None,
    ) -> None:
        super().__init__()
        self._file = file
        self._missing = missing
        self._on_sent = on_sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            source = await SourceFile.at(self._file.path)
        except FileNotFoundError:
            await problem_response(self._missing, scope)(scope, receive, send)
            return
        except OSError as error:
            raise StorageFailed("The stored file cannot be opened.") from error
        try:
            self._check_length(source)
            await self._answer(source, scope, receive, send)
        finally:
            source.close()

    def _check_length(self, source: SourceFile) -> None:
        expected = self._file.size_bytes
        if expected is not None and source.size_bytes != expected:
            msg = f"The stored file has {source.size_bytes} bytes, but should have {expected}."
            raise StorageFailed(msg)

    async def _answer(self, source: SourceFile, scope: Scope, receive: Receive, send: Send) -> None:
        size = source.size_bytes
        asked = first_headers(scope)
        etag = etag_of(self._file)
        if not _PRECONDITIONS.isdisjoint(asked) and is_precondition_failed(
            Headers(scope=scope), etag, self._file.modified_at
        ):
            failed = PreconditionFailed("The stored file is not the one that was asked for.")
            await problem_response(failed, scope)(scope, receive, send)
            return
        if is_not_modified(asked, etag, self._file.modified_at):
            await self._start(send, 304, self._validators())
            await send({"type": "http.response.body", "body": b""})
            return
        span, status = ByteSpan(0, size), 200
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
        await self._send_span(source, span, scope, receive, send)

    async def _send_span(
        self, source: SourceFile, span: ByteSpan, scope: Scope, receive: Receive, send: Send
    ) -> None:
        connection = connection_of(scope)
        sender = SocketSender.take(connection)
        if connection is None or sender is None:
            await self._send_pieces(source, span, receive, send)
            return
        with sender:
            await self._send_by_socket(source, span, connection, sender, send)

    async def _start(self, send: Send, status: int, headers: Mapping[str, str]) -> None:
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})

    def _validators(self) -> dict[str, str]:
        headers = {
            "last-modified": format_datetime(self._file.modified_at, usegmt=True),
            # Kept by the client, asked again each time: what was deleted must answer 410.
            "cache-control": "private, no-cache",
        }
        etag = etag_of(self._file)
        return {**headers, "etag": etag} if etag else headers

    def _describe(self, span: ByteSpan, size: int, status: int) -> dict[str, str]:
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

    async def _send_by_socket(
        self,
        source: SourceFile,
        span: ByteSpan,
        connection: Connection,
        sender: SocketSender,
        send: Send,
    ) -> None:
        is_taken, is_proved = False, self._on_sent is not None
        try:
            await sender.send(source, span, is_proved=is_proved)
            connection.count_sent(span.length)
            await send({"type": "http.response.body", "body": b"", SENT_BYTES: span.length})
            is_taken = is_proved and await sender.is_taken()
        except ClientGone as error:
            if isinstance(error, ClientStalled):
                log.info("download.stalled", sent=sender.position - span.start)
            connection.drop()
            sent = sender.position - span.start
            more: Message = {"type": "http.response.body", "more_body": True, SENT_BYTES: sent}
            await send(more)
        finally:
            await self._tell(ByteSpan(span.start, sender.position), is_taken=is_taken)

    async def _send_pieces(
        self, source: SourceFile, span: ByteSpan, receive: Receive, send: Send
    ) -> None:
        """Send through the server, which says nothing of what became of it: nothing is proved."""
        # A server drops what is sent after the peer has gone; someone must notice and stop reading.
        gone = asyncio.create_task(_until_gone(receive))
        position = span.start
        try:
            while position < span.end and not gone.done():
                wanted = min(PIECE_BYTES, span.end - position)
                piece = await uninterrupted(asyncio.to_thread(source.read, position, wanted))
                if not piece:
                    # Cut under our hands: end the connection rather than pretend it was all.
                    msg = "the file became shorter while it was sent"
                    raise OSError(msg)
                position += len(piece)
                more = position < span.end
                await send({"type": "http.response.body", "body": piece, "more_body": more})
            if span.length == 0:
                await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            await asyncio.wait([gone])
            await self._tell(ByteSpan(span.start, position), is_taken=False)

    async def _tell(self, span: ByteSpan, *, is_taken: bool) -> None:
        if self._on_sent is not None:
            await self._on_sent(Sent(span, is_taken))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
