"""The server's protocol: what requests are told of a client that leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
import uvloop
from starlette.types import Message, Receive, Scope, Send

from app.api.connection import connection_of
from app.server.protocol import DrainingState, LimitedProtocol

REQUEST = b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
App = Callable[[Scope, Receive, Send], object]


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[int]:
    """Serve ``app`` by the protocol of the command; yields the port."""
    config = uvicorn.Config(app, http=LimitedProtocol, lifespan="off", log_config=None)
    config.load()
    state = DrainingState()

    def make() -> LimitedProtocol:
        return LimitedProtocol(config=config, server_state=state, app_state={})

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.sleep(0.01)


def test_a_request_with_others_behind_it_is_told_that_the_client_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await receive()
        seen.append(scope["path"])
        # Nobody to tell any more, which is no error of the application's.
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def scenario() -> None:
        async with serving(app) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST % 1 + REQUEST % 2 + REQUEST % 3)
            await asyncio.sleep(0.1)
            writer.transport.abort()
            async with asyncio.timeout(10):
                while not seen:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)

    uvloop.run(scenario())
    assert seen == ["/1"]  # the others were never begun
    assert not caplog.records


@pytest.mark.parametrize(
    "behind",
    [
        b"POST /2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc",
        b"GET /2 HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"x" * 200_000,
    ],
    ids=["a body that still comes", "a head that is too large"],
)
@pytest.mark.parametrize("is_last", [True, False], ids=["the last answer", "one of several"])
def test_what_comes_behind_a_request_neither_takes_its_answer_nor_breaks_it(
    behind: bytes, *, is_last: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The line may be half closed by then: who still sends shall hear that answer, and no other."""
    seen: list[str] = []
    ready = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])
        await ready.wait()
        headers = [(b"connection", b"close")] if is_last else []
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def scenario() -> bytes:
        async with serving(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST % 1 + behind)
            await asyncio.sleep(0.1)
            ready.set()
            async with asyncio.timeout(15):
                answer = await reader.read()
            writer.close()
            return answer

    answer = uvloop.run(scenario())
    assert answer.startswith(b"HTTP/1.1 204")
    if is_last or behind.startswith(b"GET"):
        assert answer.count(b"HTTP/1.1") == 1
        assert seen == ["/1"]
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("is_late", [True, False], ids=["says so late", "says so at once"])
def test_who_waits_for_a_file_is_gone_when_it_says_that_it_sends_no_more(*, is_late: bool) -> None:
    """Closing politely looks just like that; any other whole POST still gets its answer."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        assert connection is not None
        await asyncio.sleep(0.2 if is_late else 0)
        if scope["path"] == "/film":
            connection.leave_with_client()
        async with asyncio.timeout(2):
            while (await receive())["type"] != "http.disconnect":
                pass
        seen.append(scope["path"])

    async def told(port: int, path: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" % path.encode())
        await asyncio.sleep(0.1)
        writer.write_eof()
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()

    async def scenario() -> None:
        async with serving(app) as port:
            await told(port, "/other")
            await told(port, "/film")

    uvloop.run(scenario())
    assert seen == ["/film"]


def test_nobody_is_told_to_continue_with_a_body_that_was_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its answer is said and the line half closed by the time the application asks for the body."""
    seen: list[str] = []
    ready = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await ready.wait()
        seen.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def scenario() -> bytes:
        async with serving(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = b"POST /1 HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            writer.write(head + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n")
            await asyncio.sleep(0.1)
            ready.set()
            async with asyncio.timeout(15):
                answer = await reader.read()
                while not seen:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            writer.close()
            return answer

    answer = uvloop.run(scenario())
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1
    assert seen == ["http.disconnect"]
    assert not [record for record in caplog.records if record.exc_info]
