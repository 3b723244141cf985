"""The two ways of a body, through the parser and past it, and a server that counts the second."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from select import select
from socket import socket

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.api.body_reader import BodyReader
from app.server.protocol import LimitedProtocol
from app.settings import Settings
from tests.fakes.direct import Direct

TAKEN_SECONDS = 20.0


class Way(Enum):
    """How the bodies of a server come in, where they may come either way."""

    PLAIN = "plain"
    LENT = "past the parser"

    def __str__(self) -> str:
        return self.value


class Lending:
    """``count`` is how many bodies went past the parser of the servers with this ``protocol``,
    ``ended`` the client ports of connections whose end they have seen.
    """

    def __init__(self, way: Way) -> None:
        self.way = way
        self.count = 0
        self.ended: set[int] = set()
        lending = self

        class Protocol(LimitedProtocol):
            lends_bodies = way is Way.LENT

            def _lend(self, cycle: RequestResponseCycle) -> BodyReader | None:
                reader = super()._lend(cycle)
                lending.count += reader is not None
                return reader

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                if self.client is not None:
                    lending.ended.add(self.client[1])

        self.protocol: type[LimitedProtocol] = Protocol

    def send(self, line: socket, body: bytes) -> bool:
        """Send a body with a length behind its head, all but the first byte of it past the parser;
        return whether it went that way: it does not where the answer comes before it.
        """
        before = self.count
        if self.way is Way.PLAIN or len(body) < 2:
            line.sendall(body)
            return False
        line.sendall(body[:1])
        deadline = time.monotonic() + TAKEN_SECONDS
        while self.count == before and not select([line], [], [], 0.0002)[0]:
            assert time.monotonic() < deadline, "neither an answer nor a reader of the body"
        is_taken = self.count > before
        line.sendall(body[1:])
        return is_taken


class OneWay(Direct):
    """The service as the command runs it, with all bodies that can on one ``way``."""

    def __init__(self, settings: Settings, way: Way, **headers: str) -> None:
        self.lending = Lending(way)
        self.http_protocol = self.lending.protocol
        super().__init__(settings, **headers)

    @contextmanager
    def lends(self) -> Iterator[None]:
        """Check that bodies in the block go past the parser, if that is the way, and else none."""
        before = self.lending.count
        yield
        assert (self.lending.count > before) == (self.lending.way is Way.LENT)


@contextmanager
def smallest_lent(way: Way) -> Iterator[None]:
    """Have the smallest rest of a body go past the parser, as large ones do."""
    with pytest.MonkeyPatch.context() as patch:
        if way is Way.LENT:
            patch.setattr("app.api.connection.LEAST_LENT", 1)
        yield
