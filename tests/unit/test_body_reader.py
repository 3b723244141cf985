"""Bodies read past the parser are the same bodies, and their connections live on as before."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from app.api.body_reader import MOST, SIZES, BufferPool
from app.api.tus.request_body import RequestBody
from app.server.protocol import DrainingState, LimitedProtocol
from app.services.upload_writing import BodyInterrupted

SMALL_BYTES, LARGE_BYTES = SIZES[0], 2**20
BODY = os.urandom(3 * LARGE_BYTES + 4321)
Serve = Callable[[Scope, RequestBody, Send], Awaitable[None]]
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class PlainProtocol(LimitedProtocol):
    lends_bodies = False


class Bench:
    """A server of one protocol, what its application saw, and its connections."""

    def __init__(self, protocol: type[LimitedProtocol]) -> None:
        self.protocol = protocol
        self.state = DrainingState()
        self.app_state: dict[str, Any] = {}
        self.bodies: list[bytes] = []
        self.kinds: list[set[type]] = []
        self.port = 0

    async def connect(self) -> Client:
        return await asyncio.open_connection("127.0.0.1", self.port)

    @property
    def buffers(self) -> list[BufferPool]:
        return [each for each in self.app_state.values() if isinstance(each, BufferPool)]

    async def keep(self, scope: Scope, body: RequestBody, send: Send) -> None:
        """Keep the body, and say 204."""
        del scope
        kept = bytearray()
        kinds: set[type] = set()
        self.kinds.append(kinds)
        try:
            while (piece := await body.read()) is not None:
                kinds.add(type(piece))
                kept += piece
        except BodyInterrupted:
            self.bodies.append(bytes(kept))
            return
        self.bodies.append(bytes(kept))
        await answer(send)


async def answer(send: Send, status: int = 204) -> None:
    headers = [] if status == 204 else [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def serving(bench: Bench, serve: Serve | None = None) -> AsyncIterator[Bench]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (serve or bench.keep)(scope, RequestBody(scope, receive), send)

    config = uvicorn.Config(app, http=bench.protocol, lifespan="off", log_config=None)
    config.load()

    def make() -> LimitedProtocol:
        return bench.protocol(config=config, server_state=bench.state, app_state=bench.app_state)

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    bench.port = server.sockets[0].getsockname()[1]
    try:
        yield bench
    finally:
        server.close()
        for connection in list(bench.state.connections):
            connection.transport.abort()
        await until(lambda: not bench.state.tasks)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def head(length: int | None = None, *more: str) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return "\r\n".join(["PATCH /files/a HTTP/1.1", "Host: localhost", size, *more, "", ""]).encode()


async def status(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(15):
        found = await reader.readuntil(b"\r\n\r\n")
    return int(found.split()[1])


def run(loop: str, scenario: Callable[[], Any]) -> None:
    if loop == "uvloop":
        uvloop.run(scenario())
    else:
        asyncio.run(scenario())


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[LimitedProtocol, PlainProtocol], ids=["past the parser", "plain"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


def test_bodies_come_whole_and_the_requests_behind_them_are_served(bench: Bench, loop: str) -> None:
    sizes = [len(BODY), 10, SMALL_BYTES * 5, len(BODY) - 1, 0, LARGE_BYTES]

    async def scenario() -> None:
        async with serving(bench):
            reader, writer = await bench.connect()
            for size in sizes:
                writer.write(head(size) + BODY[:size])
            assert [await status(reader) for _ in sizes] == [204] * len(sizes)
            writer.close()
            await until(lambda: not bench.state.connections)

    run(loop, scenario)
    assert bench.bodies == [BODY[:size] for size in sizes]


def test_a_large_body_goes_past_the_parser_and_its_buffers_come_back(loop: str) -> None:
    bench = Bench(LimitedProtocol)

    async def scenario() -> None:
        async with serving(bench):
            clients = [await bench.connect() for _ in range(3)]
            for _, writer in clients:
                writer.write(head(len(BODY)) + BODY)
            for reader, writer in clients:
                assert await status(reader) == 204
                writer.close()

    run(loop, scenario)
    assert bench.bodies == [BODY] * 3
    assert all(memoryview in kinds for kinds in bench.kinds)
    (pool,) = bench.buffers
    taken = [pool.take(2) for _ in range(sum(MOST) + 1)]
    sizes = [each.size for each in taken]
    assert sizes == [SIZES[2]] * MOST[2] + [SIZES[1]] * MOST[1] + [SIZES[0]]
    taken.clear()
    assert pool.take(2).size == SIZES[2]  # what nobody has any more makes room


def test_trickled_bodies_are_seen_soon_and_hold_no_buffer_in_between(loop: str) -> None:
    bench = Bench(LimitedProtocol)
    seen: list[bytes] = []

    async def see(scope: Scope, body: RequestBody, send: Send) -> None:
        del scope
        while (piece := await body.read()) is not None:
            seen.append(bytes(piece))
        await answer(send)

    async def scenario() -> None:
        async with serving(bench, see):
            reader, writer = await bench.connect()
            writer.write(head(SMALL_BYTES * 4) + b"a")
            for count in range(1, 6):
                await until(lambda: len(b"".join(seen)) == count)  # noqa: B023
                writer.write(b"b")
            await until(lambda: len(b"".join(seen)) == 6)
            (connection,) = bench.state.connections
            assert connection._reader._buffer is None  # type: ignore[union-attr]
            writer.write(b"c" * (SMALL_BYTES * 4 - 6))
            assert await status(reader) == 204
            writer.close()

    run(loop, scenario)
    assert b"".join(seen) == b"abbbbb" + b"c" * (SMALL_BYTES * 4 - 6)


def test_after_an_early_answer_the_rest_is_dropped_and_the_connection_lives_on(
    bench: Bench, loop: str
) -> None:
    async def refuse(scope: Scope, body: RequestBody, send: Send) -> None:
        if int(dict(scope["headers"])[b"content-length"]) == len(BODY):
            await body.read()
            await body.read()
            await answer(send, 507)
        else:
            await bench.keep(scope, body, send)

    async def scenario() -> None:
        async with serving(bench, refuse):
            reader, writer = await bench.connect()
            writer.write(head(len(BODY)) + BODY[: LARGE_BYTES // 2])
            assert await status(reader) == 507
            writer.write(BODY[LARGE_BYTES // 2 :] + head(7) + b"7 bytes")
            writer.write(head(LARGE_BYTES) + BODY[:LARGE_BYTES])
            assert [await status(reader) for _ in range(2)] == [204, 204]
            writer.close()

    run(loop, scenario)
    assert bench.bodies == [b"7 bytes", BODY[:LARGE_BYTES]]


def test_who_leaves_in_the_middle_leaves_a_true_prefix(bench: Bench, loop: str) -> None:
    async def scenario() -> None:
        async with serving(bench):
            for leave in ("close", "abort"):
                _, writer = await bench.connect()
                writer.write(head(len(BODY)) + BODY[: 2 * LARGE_BYTES + 5])
                await writer.drain()
                await asyncio.sleep(0.1)
                (writer.close if leave == "close" else writer.transport.abort)()
                await until(lambda: len(bench.bodies) == (1 if leave == "close" else 2))  # noqa: B023

    run(loop, scenario)
    assert bench.bodies[0] == BODY[: 2 * LARGE_BYTES + 5]
    assert BODY.startswith(bench.bodies[1])


def test_clients_that_wait_for_continue_are_told_so_once(bench: Bench, loop: str) -> None:
    async def scenario() -> None:
        async with serving(bench):
            reader, writer = await bench.connect()
            writer.write(head(len(BODY), "Expect: 100-continue"))
            assert await status(reader) == 100
            writer.write(BODY)
            assert await status(reader) == 204
            writer.close()

    run(loop, scenario)
    assert bench.bodies == [BODY]


def test_chunked_bodies_go_through_the_parser(loop: str) -> None:
    bench = Bench(LimitedProtocol)

    async def scenario() -> None:
        async with serving(bench):
            reader, writer = await bench.connect()
            writer.write(head() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
            writer.write(head(3) + b"end")
            assert [await status(reader) for _ in range(2)] == [204, 204]
            writer.close()

    run(loop, scenario)
    assert bench.bodies == [BODY, b"end"]
    assert bench.kinds[0] == {bytes}


def test_a_read_that_is_given_up_loses_nothing(bench: Bench, loop: str) -> None:
    async def impatient(scope: Scope, body: RequestBody, send: Send) -> None:
        del scope
        kept = bytearray()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.003):
                    if (piece := await body.read()) is None:
                        break
                    kept += piece
        bench.bodies.append(bytes(kept))
        await answer(send)

    async def scenario() -> None:
        async with serving(bench, impatient):
            reader, writer = await bench.connect()
            writer.write(head(len(BODY)))
            for begin in range(0, len(BODY), len(BODY) // 9):
                writer.write(BODY[begin : begin + len(BODY) // 9])
                await asyncio.sleep(0.01)
            assert await status(reader) == 204
            writer.close()

    run(loop, scenario)
    assert bench.bodies == [BODY]


def test_a_drain_parks_the_body(bench: Bench, loop: str) -> None:
    async def scenario() -> None:
        async with serving(bench):
            reader, writer = await bench.connect()
            writer.write(head(len(BODY)) + BODY[:LARGE_BYTES])
            await until(lambda: bool(bench.state.tasks))
            await asyncio.sleep(0.1)
            (connection,) = bench.state.connections
            assert isinstance(connection, LimitedProtocol)
            assert connection.is_receiving
            assert connection.drain()
            await until(lambda: bool(bench.bodies))
            assert await reader.read() == b""
            writer.close()

    run(loop, scenario)
    assert bench.bodies == [BODY[:LARGE_BYTES]]
