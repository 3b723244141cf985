"""The server's protocol: what requests are told of a client that leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
import uvloop
from starlette.types import Message, Receive, Scope, Send

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
            async with asyncio.timeout(2):
                while not seen:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)

    uvloop.run(scenario())
    assert seen == ["/1"]  # the others were never begun
    assert not caplog.records
