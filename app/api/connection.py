"""What a request can know of its connection beyond ASGI: the socket, lost bytes, how it ended."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.body_reader import SIZES, BodyReader, BufferPool, Parent

EXTENSION = "tidemill.connection"
SENT_BYTES = "tidemill.sent_bytes"
"""In a message of a body: how many bytes of it went past ASGI, for whoever counts them."""
_DISK_READS = "tidemill.disk_reads"
_BUFFERS = "tidemill.buffers"
DISK_READERS = 3
"""Threads of the server that downloads may keep busy with a slow disk: uploads use them too."""

LEAST_LENT = 2 * SIZES[0]
"""Bytes of a body that have to be still to come for the fast path."""

Listener = Callable[[], None]


class Wire:
    """One client's connection for as long as it lasts, whatever number of requests it carries.

    ``was_reset``: it ended by an error rather than by a goodbye of either side; whoever takes that
    error from the socket first must set it. ``has_eof``: the client said that it sends no more, and
    the connection was kept for the answer. ``requests`` counts those whose first bytes have come.
    """

    def __init__(self, transport: asyncio.Transport, disk_reads: asyncio.Semaphore) -> None:
        self.transport = transport
        self.disk_reads = disk_reads
        self.is_lost = False
        self.was_reset = False
        self.has_eof = False
        self.requests = 0
        self._listeners: set[Listener] = set()

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.is_lost or self.transport.is_closing()

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` when a request begins and when the connection is lost."""
        self._listeners.add(listener)

    def unlisten(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def note_request(self) -> None:
        self.requests += 1
        self._tell()

    def note_loss(self, error: Exception | None) -> None:
        self.is_lost = True
        self.was_reset = self.was_reset or error is not None
        self._tell()

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()


class Connection:
    """The connection as one request sees it, offered to the application as a scope extension.

    ``number``: which of the wire's requests this is, from 1.
    """

    def __init__(
        self,
        wire: Wire,
        cycle: RequestResponseCycle,
        lend: Callable[[], BodyReader | None] = lambda: None,
    ) -> None:
        self.wire = wire
        self.number = wire.requests
        self.is_left_with_client = False
        self._cycle = cycle
        self._lend = lend

    @property
    def flow(self) -> FlowControl:
        return self._cycle.flow

    @property
    def socket_number(self) -> int | None:
        """The descriptor on which plain bytes can be sent, None where there is none (TLS)."""
        transport = self.wire.transport
        if transport.get_extra_info("sslcontext") is not None or self.wire.is_closing:
            return None
        socket = transport.get_extra_info("socket")
        number = socket.fileno() if socket is not None else -1
        return number if number >= 0 else None

    def read_past_parser(self) -> BodyReader | None:
        """Return a reader of what is still to come of the body, which ``receive`` then tells nothing
        of; None where it has to go the plain way.

        For a request that has received what had come before. A chunked body needs the parser, as
        TLS needs its layer; and the end of a small body is not worth it.
        """
        return None if self.socket_number is None else self._lend()

    def take_rest(self) -> tuple[bytes, bool]:
        """Return the bytes that had arrived when the client left, and whether they were the last.

        uvicorn (0.54) reports the disconnect instead of what it had read just before.
        """
        rest, self._cycle.body = bytes(self._cycle.body), bytearray()
        return rest, not self._cycle.more_body

    def count_sent(self, count: int) -> None:
        """Tell the server of body bytes that went past it, which it counts against the length.

        On the request's own cycle: the protocol's present one may be a later request already.
        """
        self._cycle.expected_content_length -= count

    def leave_with_client(self) -> None:
        """Take a client that sends no more to be gone, from now on and if it said so before.

        For requests that take long: who closes a connection politely says no other word than who
        still waits for the answer, and the work would go on for nobody.
        """
        self.is_left_with_client = True
        if self.wire.has_eof:
            self.wire.transport.close()

    def hang_up(self) -> None:
        """Close without an answer."""
        self.wire.transport.close()

    def drop(self) -> None:
        """End the connection in the middle of an answer, without the server calling that a bug."""
        self._cycle.disconnected = True
        self.wire.transport.abort()


class OfferConnection(HttpToolsProtocol, Parent):
    """A uvicorn protocol that offers each request its ``Connection``. On other servers, or with
    another protocol, one goes without: stored files are read and sent piece by piece, bodies come
    through ``receive``, and the tus app answers 423 where it would hang up.
    """

    lends_bodies = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wire: Wire | None = None
        self._running: RequestResponseCycle | None = None
        self._reader: BodyReader | None = None
        self._body_seen = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # One for the whole server: its state is what all its connections share.
        reads = self.app_state.setdefault(_DISK_READS, asyncio.Semaphore(DISK_READERS))
        self.app_state.setdefault(_BUFFERS, BufferPool())
        self._wire = Wire(transport, reads)

    def connection_lost(self, exc: Exception | None) -> None:
        self._reader = None
        super().connection_lost(exc)
        # uvicorn (0.54) tells the last request only, not the one before it that is being answered.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        if self._wire is not None:
            self._wire.note_loss(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._wire is not None:
            self._wire.note_request()

    def on_headers_complete(self) -> None:
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before and self._wire is not None:
            extensions: dict[str, Any] = self.cycle.scope.setdefault("extensions", {})
            extensions[EXTENSION] = Connection(
                self._wire, self.cycle, partial(self._lend, self.cycle)
            )
            self._body_seen = 0

    def on_body(self, body: bytes) -> None:
        self._body_seen += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        if self._reader is not None:
            self._reader.detach()
        super().on_response_complete()

    def _lend(self, cycle: RequestResponseCycle) -> BodyReader | None:
        """Let the rest of the body of ``cycle`` be read past the parser."""
        is_present = self.cycle is cycle and cycle.more_body and not cycle.body
        if not is_present or not self.lends_bodies or cycle.disconnected or cycle.response_complete:
            return None
        left = self._announced - self._body_seen
        if self._reader is not None or left < LEAST_LENT:
            return None
        pool: BufferPool = self.app_state[_BUFFERS]
        self._reader = BodyReader(self, self.transport, left, pool)
        self.flow.resume_reading()
        self._reader.attach()
        return self._reader

    @property
    def _announced(self) -> int:
        """The Content-Length of the present request, 0 for a chunked body or none."""
        headers = dict(self.headers)
        is_chunked = b"transfer-encoding" in headers
        return 0 if is_chunked else int(headers.get(b"content-length", b"0"))

    def take_back(self, left: int) -> None:
        """Have a parser again: the old one still waits for what was read past it."""
        self._reader = None
        if left == 0:
            self.parser = _parser(self)
            self.on_message_complete()
            return
        relay = _Rest(self)
        self.parser = _parser(relay)
        self.parser.feed_data(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % left)
        relay.is_begun = True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)


class _Rest:
    """What a parser calls that is told of the rest of a body by a head of its own, which nobody is
    to hear of; after that rest everything goes on as ever.
    """

    def __init__(self, protocol: OfferConnection) -> None:
        self.is_begun = False
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete
        self._protocol = protocol

    def on_message_begin(self) -> None:
        if self.is_begun:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self.is_begun:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.is_begun:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.is_begun:
            self._protocol.on_headers_complete()


def _parser(listener: object) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(listener)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
    return parser


def connection_of(scope: Scope) -> Connection | None:
    """Return the connection of a request, None where the server offers none."""
    found = (scope.get("extensions") or {}).get(EXTENSION)
    return found if isinstance(found, Connection) else None
