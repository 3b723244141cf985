"""uvicorn's HTTP protocol with a limit on what a request may send before its body."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.api.tus.connection import OfferConnection

MAX_HEAD_BYTES = 64 * 2**10
"""Request line and headers; httptools itself would collect them without end."""

_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: 33\r\n"
    b"connection: close\r\n"
    b"\r\n"
    b"The request's head is too large.\n"
)


class LimitedProtocol(OfferConnection):
    """Answers 431 and closes when the head of a request grows over ``MAX_HEAD_BYTES``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0

    @property
    def is_receiving(self) -> bool:
        """Whether the body of an unanswered request is still on its way."""
        # None before the first request, which uvicorn's own annotation does not say.
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.more_body and not cycle.response_complete

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Only what leaves a head unfinished counts: one read may hold a head and much of its body.
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_REFUSAL)
                self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def cut(self) -> None:
        """Close the connection now; its request is told that the client is gone."""
        self.transport.close()
