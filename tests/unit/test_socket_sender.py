"""Sending a file to a socket: what a stalled client, a busy line and a slow disk do to it."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop
from uvicorn.protocols.http.flow_control import FlowControl

from app.api.connection import Connection, Wire
from app.api.socket_sender import (
    SLICE_BYTES,
    TAKEN_SECONDS,
    ClientGone,
    ClientStalled,
    SocketSender,
)
from app.api.source_file import SourceFile
from app.domain.delivery import ByteSpan

SIZE = 12 * 1024 * 1024


class Protocol(asyncio.Protocol):
    """The least of a server's protocol: flow control, and a wire that is told of the end."""

    def __init__(self, accepted: "asyncio.Queue[Protocol]") -> None:
        self._accepted = accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self.flow = FlowControl(self.transport)
        self.wire = Wire(self.transport, asyncio.Semaphore(1))
        self._accepted.put_nowait(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.flow.resume_writing()
        self.wire.note_loss(exc)

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()

    def sender(self, stall_seconds: float = 30.0) -> SocketSender:
        cycle: Any = SimpleNamespace(flow=self.flow)
        connection = Connection(self.wire, cycle)
        number = connection.socket_number
        assert number is not None
        return SocketSender(connection, socket.socket(fileno=os.dup(number)), stall_seconds)


@asynccontextmanager
async def connected(buffer: int = 64_000) -> AsyncIterator[tuple[Protocol, socket.socket]]:
    """A connection: its server's end, and the client's bare socket."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Queue[Protocol] = asyncio.Queue()
    server = await loop.create_server(lambda: Protocol(accepted), "127.0.0.1", 0)
    client = socket.socket()
    try:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.settimeout(0)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        protocol = await accepted.get()
        try:
            yield protocol, client
        finally:
            protocol.transport.abort()
    finally:
        client.close()
        server.close()
        await asyncio.sleep(0.01)  # in which the transports are told and close their sockets


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SourceFile]:
    path = tmp_path / "stored"
    path.write_bytes(os.urandom(SIZE))
    opened = SourceFile.open(path)
    yield opened
    opened.close()


async def read(client: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = await asyncio.get_running_loop().sock_recv(client, count - len(data))
        assert piece
        data += piece
    return bytes(data)


async def together(*work: Awaitable[Any]) -> list[Any]:
    async with asyncio.timeout(20):
        return list(await asyncio.gather(*work))


async def test_a_client_that_takes_nothing_is_given_up(source: SourceFile) -> None:
    async with connected() as (protocol, _client):
        with protocol.sender(0.3) as sender:
            with pytest.raises(ClientStalled):
                await sender.send(source, ByteSpan(0, SIZE), is_proved=False)
            assert 0 < sender.position < SIZE


async def test_a_client_that_takes_a_little_now_and_then_is_not(source: SourceFile) -> None:
    async with connected() as (protocol, client):

        async def sip() -> bytes:
            got = b""
            # Far too little for the kernel to call the socket writable again.
            for _ in range(8):
                await asyncio.sleep(0.2)
                got += await read(client, 100_000)
            return got + await read(client, SIZE - len(got))

        with protocol.sender(0.6) as sender:
            got, _ = await together(sip(), sender.send(source, ByteSpan(0, SIZE), is_proved=False))
        assert got == source.read(0, SIZE)


async def test_what_the_server_still_has_to_write_comes_first(source: SourceFile) -> None:
    before = bytes(8_000_000)
    async with connected() as (protocol, client):
        protocol.transport.write(before)
        assert protocol.transport.get_write_buffer_size() > 0
        with protocol.sender() as sender:
            got, _ = await together(
                read(client, len(before) + 5000),
                sender.send(source, ByteSpan(100, 5100), is_proved=False),
            )
        assert got == before + source.read(100, 5000)


def test_a_client_that_resets_while_the_server_still_has_to_write_is_gone(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        (tmp_path / "stored").write_bytes(bytes(1000))
        source = SourceFile.open(tmp_path / "stored")
        try:
            async with connected() as (protocol, client):
                protocol.transport.write(bytes(8_000_000))
                with protocol.sender() as sender:
                    sending = asyncio.ensure_future(
                        sender.send(source, ByteSpan(0, 1000), is_proved=True)
                    )
                    await asyncio.sleep(0.1)
                    linger = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    client.close()
                    with pytest.raises(ClientGone):
                        async with asyncio.timeout(5):
                            await sending
        finally:
            source.close()

    uvloop.run(scenario())  # whose transports refuse whatever is asked of them once they are closed


async def test_others_have_their_turn_while_a_fast_client_is_served(source: SourceFile) -> None:
    async with connected(buffer=4_000_000) as (protocol, client):
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        with protocol.sender() as sender:
            await together(
                read(client, SIZE), sender.send(source, ByteSpan(0, SIZE), is_proved=False)
            )
        counting.cancel()
        await asyncio.wait([counting])
        assert turns >= SIZE // SLICE_BYTES


async def test_all_that_was_confirmed_can_be_said_while_more_is_sent(source: SourceFile) -> None:
    async with connected() as (protocol, client):
        protocol.wire.note_request()
        with protocol.sender() as sender:
            _, _ = await together(
                read(client, 100_000), sender.send(source, ByteSpan(0, 100_000), is_proved=True)
            )
            protocol.transport.write(bytes(3_000_000))  # the next answer, which nobody reads
            protocol.wire.note_request()
            async with asyncio.timeout(TAKEN_SECONDS - 1):
                assert await sender.is_taken()


async def test_a_next_request_right_behind_the_last_byte_was_not_asked_for_before_it(
    source: SourceFile,
) -> None:
    async with connected() as (protocol, client):
        protocol.wire.note_request()
        with protocol.sender() as sender:
            # The client may be that quick: its request is there in the loop's next round.
            asyncio.get_running_loop().call_soon(protocol.wire.note_request)
            await sender.send(source, ByteSpan(0, 1000), is_proved=True)
            await read(client, 1000)
            async with asyncio.timeout(TAKEN_SECONDS - 1):
                assert await sender.is_taken()


async def test_a_client_that_is_gone_before_the_first_byte_gets_none(source: SourceFile) -> None:
    async with connected() as (protocol, client):
        with protocol.sender() as sender:
            client.close()
            await asyncio.sleep(0.1)
            with pytest.raises(ClientGone):
                await sender.send(source, ByteSpan(0, SIZE), is_proved=False)
        assert protocol.wire.is_lost


async def test_a_file_that_is_cut_under_our_hands_is_an_error(
    source: SourceFile, tmp_path: Path
) -> None:
    os.truncate(tmp_path / "stored", 1000)
    async with connected() as (protocol, _client):
        with protocol.sender() as sender:
            with pytest.raises(OSError, match="shorter"):
                await sender.send(source, ByteSpan(0, SIZE), is_proved=False)
            assert sender.position == 1000


async def test_a_line_without_a_plain_socket_is_refused() -> None:
    def make(extra: Callable[[str], Any]) -> Connection:
        transport: Any = SimpleNamespace(get_extra_info=extra, is_closing=lambda: False)
        cycle: Any = SimpleNamespace()
        return Connection(Wire(transport, asyncio.Semaphore(1)), cycle)

    assert SocketSender.take(None) is None
    assert SocketSender.take(make(lambda _: None)) is None
    encrypted = {"sslcontext": object(), "socket": SimpleNamespace(fileno=lambda: 0)}
    assert SocketSender.take(make(encrypted.get)) is None


async def test_a_file_that_is_not_in_memory_is_fetched_before_it_is_sent(
    source: SourceFile,
) -> None:
    os.fsync(source.descriptor)
    os.posix_fadvise(source.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    assert not source.is_at_hand(0, SLICE_BYTES)
    await source.fetch(0, SLICE_BYTES)
    assert source.is_at_hand(0, SLICE_BYTES)


async def test_a_file_system_that_cannot_say_what_is_in_memory_is_read_by_a_thread(
    source: SourceFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "RWF_NOWAIT", 1 << 20)  # a flag that no file system knows
    assert not source.is_at_hand(0, SLICE_BYTES)
    async with connected() as (protocol, client):
        with protocol.sender() as sender:
            got, _ = await together(
                read(client, SIZE), sender.send(source, ByteSpan(0, SIZE), is_proved=False)
            )
    assert got == source.read(0, SIZE)
