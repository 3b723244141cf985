"""uvicorn's HTTP protocol with a limit on what comes before a body, and ways to end a connection."""

import asyncio
import logging
from typing import Any
from weakref import WeakSet

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from app.api.connection import OfferConnection

MAX_HEAD_BYTES = 64 * 2**10
"""Request line and headers; httptools itself would collect them without end."""
HEAD_SECONDS = 30.0
"""How long a client may take for a head: else idle connections would cost it nothing and us sockets."""
LINGER_SECONDS = 2.0
"""How long what a refused client still sends is read: a close with unread data would reset the
connection, and the client would never see the answer.
"""

_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: 33\r\n"
    b"connection: close\r\n"
    b"\r\n"
    b"The request's head is too large.\n"
)
_SILENT = logging.getLogger(f"{__name__}.silent")
_SILENT.disabled = True


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


class LimitedProtocol(OfferConnection):
    """Bounds the head of a request in size (431) and in time (the connection is closed).

    While the server drains, each connection ends with its answer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._in_body = False
        self._head_bytes = 0
        self._is_refused = False
        self._head_timer: asyncio.TimerHandle | None = None

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
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        super().data_received(data)
        # Only what leaves a head unfinished counts: one read may hold a head and much of its body.
        if self._in_head:
            self._await_head()
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_body = True
        self._head_bytes = 0
        self._stop_waiting()
        super().on_headers_complete()
        if isinstance(self.server_state, DrainingState):
            self.server_state.cycles.add(self.cycle)

    def on_message_complete(self) -> None:
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

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self) -> None:
        self._is_refused = True
        self.transport.write(_REFUSAL)
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
