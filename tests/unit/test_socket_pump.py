"""The turns in which a file goes to a socket: long for one alone, short among many, never blocking."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.api import source_file
from app.api.connection import Wire
from app.api.socket_pump import LEAST_BYTES, SLICE_BYTES, ClientGone, SocketPump
from app.api.source_file import SourceFile

MIB = 1024 * 1024
SIZE = 48 * MIB


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SourceFile]:
    path = tmp_path / "stored"
    path.write_bytes(os.urandom(MIB) * (SIZE // MIB))
    opened = SourceFile.open(path)
    yield opened
    opened.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: the end that sends, not blocking, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        sending, _ = listener.accept()
    sending.settimeout(0)
    with client, sending:
        yield sending, client


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each call of the system was to send."""
    found: list[int] = []
    send = os.sendfile

    def watched(out: int, into: int, offset: int, count: int) -> int:
        found.append(count)
        return send(out, into, offset, count)

    monkeypatch.setattr(os, "sendfile", watched)
    return found


def make_wire() -> Wire:
    transport: Any = SimpleNamespace(is_closing=lambda: False)
    return Wire(transport, asyncio.Semaphore(1))


def make_pump(sending: socket.socket, wire: Wire | None = None) -> SocketPump:
    return SocketPump(wire or make_wire(), sending, stall_seconds=30)


def drained(client: socket.socket, count: int) -> threading.Thread:
    """Read so many bytes in a thread."""

    def read() -> None:
        left = count
        while left > 0:
            left -= len(client.recv(min(MIB, left)))

    thread = threading.Thread(target=read)
    thread.start()
    return thread


async def test_who_is_alone_sends_much_at_a_go(
    source: SourceFile, ends: tuple[socket.socket, socket.socket], counts: list[int]
) -> None:
    sending, client = ends
    sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
    for _ in range(5):  # the machine may pause for longer than a turn may take
        counts.clear()
        pump, reader = make_pump(sending), drained(client, SIZE)
        async with asyncio.timeout(30):
            await pump.send(source, SIZE)
        await asyncio.to_thread(reader.join)
        assert pump.position == SIZE
        assert max(counts) <= SLICE_BYTES
        if max(counts) > MIB:
            return
    pytest.fail(f"never more than {max(counts)} bytes in one turn")


async def test_beside_others_that_take_long_each_turn_is_small(
    source: SourceFile, ends: tuple[socket.socket, socket.socket], counts: list[int]
) -> None:
    sending, client = ends
    sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)

    async def crowd() -> None:
        while True:
            time.sleep(0.004)  # noqa: ASYNC251 - blocks the loop, as many downloads together do
            await asyncio.sleep(0)

    others, reader = asyncio.ensure_future(crowd()), drained(client, SIZE)
    try:
        async with asyncio.timeout(30):
            await make_pump(sending).send(source, SIZE)
    finally:
        others.cancel()
        with suppress(asyncio.CancelledError):
            await others
        await asyncio.to_thread(reader.join)
    assert max(counts) <= MIB
    assert LEAST_BYTES in counts


async def test_a_connection_that_is_lost_ends_the_waiting(
    source: SourceFile, ends: tuple[socket.socket, socket.socket]
) -> None:
    sending, _ = ends
    wire = make_wire()
    sent = asyncio.ensure_future(make_pump(sending, wire).send(source, SIZE))
    await asyncio.sleep(0.05)
    wire.note_request()  # says nothing of the end
    await asyncio.sleep(0.01)
    assert not sent.done()
    wire.note_loss(None)
    with pytest.raises(ClientGone):
        async with asyncio.timeout(15):
            await sent


async def test_a_cancelled_download_watches_the_socket_no_more(
    source: SourceFile, ends: tuple[socket.socket, socket.socket]
) -> None:
    sending, _ = ends
    pump = make_pump(sending)
    sent = asyncio.ensure_future(pump.send(source, SIZE))
    await asyncio.sleep(0.05)
    sent.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sent
    assert 0 < pump.position < SIZE
    assert not asyncio.get_running_loop().remove_writer(sending.fileno())


async def test_a_hole_in_what_the_memory_holds_is_seen_from_the_middle_of_a_turn(
    source: SourceFile,
) -> None:
    os.fsync(source.descriptor)
    os.posix_fadvise(source.descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no more than is asked for
    for _ in range(50):  # what another processor is still filing away stays in the memory at first
        os.posix_fadvise(source.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        for place in (0, SLICE_BYTES - 1):
            os.pread(source.descriptor, 1, place)
            assert source.is_at_hand(place, 1)
        if not source.is_at_hand(0, SLICE_BYTES):
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the hole was not seen")
    await source.fetch(0, SLICE_BYTES)
    assert source.is_at_hand(0, SLICE_BYTES)


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_file_opens_whether_or_not_the_system_can_say_that_it_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_known: bool
) -> None:
    if not is_known:  # an older system, or a container that forbids the call
        monkeypatch.setattr(source_file, "_OPENAT2", 100_000)
    (tmp_path / "stored").write_bytes(b"found")
    (tmp_path / "link").symlink_to(tmp_path / "stored")
    os.mkfifo(tmp_path / "pipe")
    opened = await SourceFile.at(tmp_path / "stored")
    assert opened.read(0, 100) == b"found"
    assert not os.get_inheritable(opened.descriptor)
    opened.close()
    with pytest.raises(FileNotFoundError):
        await SourceFile.at(tmp_path / "absent")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match=r"symbolic links|regular"):
            await SourceFile.at(tmp_path / name)
