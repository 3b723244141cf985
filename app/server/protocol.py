"""uvicorn's HTTP protocol with a limit on what comes before a body, and ways to end a connection."""

import asyncio
import logging
from typing import Any, cast
from weakref import WeakSet

import httptools
import structlog
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from app.api.connection import OfferConnection, connection_of
from app.server.descriptors import first_spare

log = structlog.get_logger(__name__)

MAX_HEAD_BYTES = 64 * 2**10
"""Request line and headers; httptools itself would collect them without end."""
HEAD_SECONDS = 30.0
"""How long a client may take for a head: else idle connections would cost it nothing and us sockets."""
KEEP_ALIVE_SECONDS = 75
"""How long a connection may idle between two requests: longer than clients and proxies keep one for
theirs (httpx 5 s, nginx and AWS's load balancers 60 s), so that they close it and not we, just when
the next request is on its way (RFC 9112, section 9.5).
"""
LEAST_IDLE_SECONDS = 5.0
"""How long it may do so all the same where descriptors are short and others want its place."""
LINGER_SECONDS = 2.0
"""How long what a refused client still sends is read: a close with unread data would reset the
connection, and the client would never see the answer.
"""

SHORT_TOLD_SECONDS = 60.0
"""How often the log says that connections are refused for want of descriptors."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: 33\r\n"
    b"connection: close\r\n"
    b"\r\n"
    b"The request's head is too large.\n"
)
_MALFORMED = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: 23\r\n"
    b"connection: close\r\n"
    b"\r\n"
    b"This is no valid HTTP.\n"
)
_SHORT_TOLD = "tidemill.short_of_descriptors"
_ANSWERED_AFTER_EOF = frozenset({"POST", "PUT", "PATCH", "DELETE", "HEAD"})
_SILENT = logging.getLogger(f"{__name__}.silent")
_SILENT.disabled = True


def _goes_with_client(cycle: RequestResponseCycle) -> bool:
    """Whether nobody is left to hear the answer once the client has said that it sends no more."""
    scope = cast("Scope", cycle.scope)
    connection = connection_of(scope)
    is_left = connection is not None and connection.is_left_with_client
    return is_left or scope["method"] not in _ANSWERED_AFTER_EOF


class DrainingState(ServerState):
    """What all connections of a server share: also whether they are the last ones, and the requests
    under way, some of which outlive their connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_draining = False
        self.cycles: WeakSet[RequestResponseCycle] = WeakSet()

    def cancel_requests(self) -> None:
        """Cancel every request that is left."""
        for cycle in self.cycles:
            cycle.logger = _SILENT  # uvicorn logs a cancelled request as a crash of the application
        for task in list(self.tasks):
            task.cancel()


class _Farewell:
    """The transport as a request sees it: its ``close`` lets a client that still sends, and reads
    only then, hear the answer. With unread data a close would be a reset.
    """

    def __init__(self, protocol: "LimitedProtocol", transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self._transport = transport
        self.close = protocol.close_after_answer

    def write(self, data: bytes) -> None:
        if not self._protocol.has_ended_sending:
            self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether there is nobody to tell any more: an answer, or that a body may come (100)."""
        return self._protocol.has_ended_sending or self._transport.is_closing()


class LimitedProtocol(OfferConnection):
    """Bounds the head of a request in size (431) and in time (the connection is closed).

    What is no HTTP gets 400, but never in the place of an answer that is due to an earlier request,
    and not once some of a body has come: then the connection just ends, and what came is kept.
    Requests to change the protocol are served as if they had not asked. While the server drains,
    each connection ends with its answer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._in_body = False
        self._body_begun = False
        self._head_bytes = 0
        self._is_refused = False
        self.has_ended_sending = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._farewell: Any = None

    @property
    def is_receiving(self) -> bool:
        """Whether the body of an unanswered request is still on its way."""
        # None before the first request, which uvicorn's own annotation does not say.
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.more_body and not cycle.response_complete

    @property
    def is_busy(self) -> bool:
        """Whether an answer is being made, or not yet taken by the client."""
        cycle: RequestResponseCycle | None = self.cycle
        is_answered = cycle is None or cycle.response_complete
        return not is_answered or self.transport.get_write_buffer_size() > 0

    @property
    def _is_draining(self) -> bool:
        state = self.server_state
        return isinstance(state, DrainingState) and state.is_draining

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._farewell = _Farewell(self, transport)
        if self._takes_a_spare_descriptor():
            # Without a word: clients of tus try again after that, and after few other things.
            transport.close()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep a connection for the answer to a request that came whole: some clients say so when
        they will send no more. Who waits for a file or for events is taken to be gone.
        """
        due = self._due()
        if self._is_refused or self._in_body or not due:
            return None
        if any(_goes_with_client(cycle) for cycle in due):
            return None
        due[-1].keep_alive = False
        if self._wire is not None:
            self._wire.has_eof = True
        return True

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse_malformed()
            return
        # Only what leaves a head unfinished counts: one read may hold a head and much of its body.
        if self._in_head:
            self._await_head()
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse_too_large()
        elif not self._in_body and not self._due():
            # Empty lines, or the end of a body that was refused: it may not idle for ever either.
            self._await_head()

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as asked:
                # The parser takes all that follows for another protocol, the body first. It is read
                # once more without the wish, as HTTP allows.
                rest = rest[asked.args[0] :]
                self.parser.feed_data(self._head_without_upgrade())
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            raise httptools.HttpParserError("There is nothing to connect to.")
        lines = [b"%b %b HTTP/%b" % (method, self.url, version.encode("ascii"))]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # it comes again, see _parse
        self._in_head = False
        self._head_bytes = 0
        self._stop_waiting()
        if self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # such a client takes "100 Continue" for its answer
        super().on_headers_complete()
        self._in_body, self._body_begun = True, False
        self.cycle.transport = self._farewell
        if isinstance(self.server_state, DrainingState):
            self.server_state.cycles.add(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._body_begun = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_body = False  # uvicorn's own more_body stays as it is once there is an answer
        super().on_message_complete()
        # Not before: uvicorn closes with the answer then, which who still sends would not see.
        if self._is_draining:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """End the connection of a client that goes on sending a body which was refused.

        uvicorn would read and drop it to its end: a browser shows the answer only then, having sent
        gigabytes for nothing. What is left of a small body still comes, and the connection lives on.
        """
        answered: RequestResponseCycle | None = self.cycle
        if self.has_ended_sending:
            # The answer was the last one; who sent another request behind it will not have one.
            self.pipeline.clear()
        super().on_response_complete()
        # With pipelining the present cycle can be the next one, which has no answer yet.
        if answered is not None and answered.response_complete and answered.more_body:
            self.loop.call_later(LINGER_SECONDS, self._end_refused_body, answered)
        elif self._is_draining and self.cycle is answered:
            self.transport.close()

    def _end_refused_body(self, answered: RequestResponseCycle) -> None:
        if self.cycle is answered and self._in_body:
            self.transport.close()

    def drain(self) -> bool:
        """Let this connection end with its present answer; return whether a body was parked.

        A body under way is not waited for: its request is told that the client is gone and keeps
        what came. An idle connection stays, since a request may be on its way.
        """
        if self.is_receiving:
            self.transport.close()
            return True
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
        return False

    def close_after_answer(self) -> None:
        """Close; while a body still comes, say only that nothing more will, and read for a while."""
        if self._in_body or self._is_refused:
            self._end_sending()
        else:
            self.transport.close()

    def _due(self) -> list[RequestResponseCycle]:
        """The requests without a complete answer, in their order; the last may still be coming."""
        running = self._running
        first = [running] if running is not None and not running.response_complete else []
        return first + [cycle for cycle, _ in reversed(self.pipeline)]

    def _takes_a_spare_descriptor(self) -> bool:
        """Whether this connection has one of the last descriptors, which uploads under way need:
        the lowest free number is given out first.
        """
        socket = self.transport.get_extra_info("socket")
        if socket is None or socket.fileno() < first_spare():
            return False
        self._end_idle_connections()
        now = self.loop.time()
        if now >= self.app_state.get(_SHORT_TOLD, 0.0) + SHORT_TOLD_SECONDS:
            self.app_state[_SHORT_TOLD] = now
            log.warning("service.connections_refused", connections=len(self.connections))
        return True

    def _end_idle_connections(self) -> None:
        """Make room for whoever comes next: this one is refused, its retry finds a place."""
        latest = self.loop.time() + KEEP_ALIVE_SECONDS - LEAST_IDLE_SECONDS
        for each in self.connections:
            if not isinstance(each, LimitedProtocol) or each.is_busy:
                continue
            timer = each.timeout_keep_alive_task
            if timer is not None and timer.when() <= latest:
                each.transport.close()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._on_no_head)

    def _on_no_head(self) -> None:
        self._head_timer = None
        if self._due():
            self._await_head()  # the next request may wait for as long as an answer takes
        else:
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_malformed(self) -> None:
        self._is_refused = True
        self._stop_waiting()
        due = self._due()
        if self._in_body:
            broken, begun = self.cycle, self._body_begun or self.cycle.response_started
            due = due[:-1]  # its own
            if due:
                self.pipeline.popleft()
            elif begun:
                self.transport.close()
                return
            else:
                broken.disconnected = True
                broken.message_event.set()
        if due:
            self.cycle = due[-1]
            self.cycle.keep_alive = False
        else:
            self._refuse(_MALFORMED)

    def _refuse_too_large(self) -> None:
        due = self._due()
        if due:
            # Theirs is the last answer here: another one would come before it, or in its place.
            self._is_refused = True
            self._stop_waiting()
            due[-1].keep_alive = False
        else:
            self._refuse(_TOO_LARGE)

    def _refuse(self, answer: bytes) -> None:
        self.transport.write(answer)
        self._end_sending()

    def _end_sending(self) -> None:
        if self.transport.is_closing():
            return
        self._is_refused = self.has_ended_sending = True
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
