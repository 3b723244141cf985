"""What a browser's EventSource does with a stream, on a socket that tests can look at and cut."""

import http.client
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it was dispatched. ``at``: monotonic seconds."""

    name: str
    data: str
    last_event_id: str
    at: float


class EventSource:
    """Reads a stream as the HTML standard says, and asks for what comes after it on the next ``open``.

    ``open`` keeps the connection from before when the server does.
    """

    def __init__(
        self,
        port: int,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 20.0,
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self.path = path
        self._sent_headers = {"Accept": STREAM, "Cache-Control": "no-store", **(headers or {})}
        self._buffer = b""
        self._response: http.client.HTTPResponse | None = None
        self.last_event_id = ""
        self.retry_ms: list[int] = []
        self.comments = 0
        self.status = 0
        self.headers: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(self, last_event_id: str | None = None) -> Self:
        """Ask for the stream, with the id of the last event if there was one."""
        if last_event_id is not None:
            self.last_event_id = last_event_id
        self._buffer = b""
        asked = dict(self._sent_headers)
        if self.last_event_id:
            asked["Last-Event-ID"] = self.last_event_id
        self._connection.request("GET", self.path, headers=asked)
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}
        return self

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()

    def body(self) -> bytes:
        """The rest of an answer that is no stream."""
        assert self._response is not None
        return self._response.read()

    def events(self) -> Iterator[Event]:
        """Yield events until the stream ends; ConnectionError when it is cut, TimeoutError when
        nothing at all comes.
        """
        name, data = "", list[str]()
        for line in self._lines():
            if not line:
                if data:
                    yield Event(
                        name or "message", "\n".join(data), self.last_event_id, time.monotonic()
                    )
                name, data = "", []
                continue
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not field:
                self.comments += 1
            elif field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif field == "id":
                self.last_event_id = value
            elif field == "retry":
                self.retry_ms.append(int(value))
            else:
                msg = f"not a field of a stream: {line!r}"
                raise AssertionError(msg)

    def next(self) -> Event:
        """The next event, which must come."""
        event = next(self.events(), None)
        assert event is not None, "the stream ended"
        return event

    def _lines(self) -> Iterator[str]:
        assert self._response is not None
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                yield line.decode()
                continue
            try:
                data = self._response.read1(65536)
            except (http.client.IncompleteRead, ConnectionError) as error:
                self.close()  # the next ``open`` needs another one
                raise ConnectionResetError from error
            if not data:
                assert not self._buffer, "it ended within a line"
                return
            self._buffer += data
