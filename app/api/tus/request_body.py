"""The body of a tus request: to the last byte of a client that was lost, and hanging up on others."""

import asyncio

from starlette.types import Receive, Scope

from app.api.body_reader import BodyReader
from app.api.connection import connection_of
from app.services.upload_writing import BodyInterrupted, Interruption

_HANG_UP_SECONDS = 2.0


class RequestBody:
    """A request's body, piece by piece (``read`` is a ``ReadBody``).

    Where the server offers it, all but the beginning of a large one is read past ASGI.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._connection = connection_of(scope)
        self._reader: BodyReader | None = None
        self._gone = False
        self.is_begun = False
        self.is_finished = False

    async def read(self) -> bytes | memoryview | None:
        self.is_begun = True
        if self._reader is not None:
            return await self._read_past_parser(self._reader)
        if self.is_finished:
            return None
        if self._gone:
            raise BodyInterrupted(Interruption.CLIENT_GONE)
        message = await self._receive()
        if message["type"] == "http.disconnect":
            return self._rest()
        self.is_finished = not message.get("more_body", False)
        if self._connection is not None and not self.is_finished:
            self._reader = self._connection.read_past_parser()
        piece: bytes = message.get("body", b"")
        return None if self.is_finished and not piece else piece

    async def _read_past_parser(self, reader: BodyReader) -> memoryview | None:
        piece = await reader.read()
        self.is_finished = reader.is_whole
        if piece is None and not self.is_finished:
            raise BodyInterrupted(Interruption.CLIENT_GONE)
        return piece

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
