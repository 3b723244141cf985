"""What a tus body needs of the server beyond ASGI: the last bytes of a lost client, and hanging up."""

import asyncio
from typing import Any

from starlette.types import Receive, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.services.upload_writing import BodyInterrupted, Interruption

EXTENSION = "tidemill.connection"
_HANG_UP_SECONDS = 2.0


class Connection:
    """The connection of one request, offered to the application as a scope extension."""

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        self._cycle = cycle

    def take_rest(self) -> tuple[bytes, bool]:
        """Return the bytes that had arrived when the client left, and whether they were the last.

        uvicorn (0.54) reports the disconnect instead of what it had read just before.
        """
        rest, self._cycle.body = bytes(self._cycle.body), bytearray()
        return rest, not self._cycle.more_body

    def hang_up(self) -> None:
        """Close without an answer."""
        self._transport.close()


class OfferConnection(HttpToolsProtocol):
    """A uvicorn protocol that offers each request its ``Connection``. On other servers, or with
    another protocol, the tus app goes without: it answers 423 where it would hang up.
    """

    def on_headers_complete(self) -> None:
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            extensions: dict[str, Any] = self.cycle.scope.setdefault("extensions", {})
            extensions[EXTENSION] = Connection(self.transport, self.cycle)


class RequestBody:
    """A request's body, piece by piece (``read`` is a ``ReadBody``)."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._connection = _connection_of(scope)
        self._gone = False
        self.is_begun = False
        self.is_finished = False

    async def read(self) -> bytes | None:
        self.is_begun = True
        if self.is_finished:
            return None
        if self._gone:
            raise BodyInterrupted(Interruption.CLIENT_GONE)
        message = await self._receive()
        if message["type"] == "http.disconnect":
            return self._rest()
        self.is_finished = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return None if self.is_finished and not piece else piece

    def _rest(self) -> bytes | None:
        self._gone = True
        rest = b""
        if self._connection is not None:
            rest, self.is_finished = self._connection.take_rest()
        if rest:
            return rest
        if self.is_finished:
            return None
        raise BodyInterrupted(Interruption.CLIENT_GONE)

    async def hang_up(self) -> bool:
        """Close the connection without an answer; False where the server does not offer it."""
        if self._connection is None:
            return False
        self._connection.hang_up()
        try:
            async with asyncio.timeout(_HANG_UP_SECONDS):
                # The server takes a request that ends without an answer for a bug, until it has
                # noticed that the connection is gone.
                while (await self._receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return True
        return True


def _connection_of(scope: Scope) -> Connection | None:
    found = (scope.get("extensions") or {}).get(EXTENSION)
    return found if isinstance(found, Connection) else None
