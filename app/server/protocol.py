"""uvicorn's HTTP protocol with a limit on what comes before a body, and ways to end a connection."""

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.api.tus.connection import OfferConnection

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


class LimitedProtocol(OfferConnection):
    """Bounds the head of a request in size (431) and in time (the connection is closed)."""

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

    def on_message_complete(self) -> None:
        self._in_body = False  # uvicorn's own more_body stays as it is once there is an answer
        super().on_message_complete()

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

    def _end_refused_body(self, answered: RequestResponseCycle) -> None:
        if self.cycle is answered and self._in_body:
            self.transport.close()

    def park(self) -> None:
        """Close the connection; its request is told that the client is gone and keeps what came."""
        self.transport.close()

    def cut_off(self) -> None:
        """Drop the connection with what it still has to send, for a request about to be cancelled."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None:
            cycle.logger = _SILENT  # uvicorn logs a cancelled request as a crash of the application
        self.transport.abort()

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
