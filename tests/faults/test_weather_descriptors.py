"""More connections than descriptors: the service lives, uploads go on, and it recovers by itself."""

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest

from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import SlowPatch, create, offset_of, patch

BODY = os.urandom(300_000)
HALF = 150_000
MakeServer = Callable[..., Server]


def _limited(make_server: MakeServer, descriptors: int) -> Server:
    limit = ("sh", "-c", f'ulimit -n {descriptors} && exec "$0" "$@"')
    return make_server(wrapper=limit).start()


def _crowd(server: Server, stack: ExitStack, count: int) -> list[socket.socket]:
    """Open so many connections that say nothing."""
    found = []
    for _ in range(count):
        line = socket.create_connection(("127.0.0.1", server.port), 10)
        line.settimeout(0)
        found.append(stack.enter_context(closing(line)))
    return found


def _is_ended(line: socket.socket) -> bool:
    try:
        return line.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def _weather_a_crowd(make_server: MakeServer, descriptors: int, count: int) -> None:
    server = _limited(make_server, descriptors)
    with server.client() as api, ExitStack() as stack:
        # What is opened once and kept, such as links to the database and a folder, is open by then.
        for _ in range(3):
            assert patch(api, create(api, 1), 0, b"x").status_code == 204
        path = create(api, len(BODY))
        assert offset_of(api, path) == 0
        before = len(server.held())
        with SlowPatch(server.port, path, 0, len(BODY)) as under_way:
            under_way.send(BODY[:HALF])
            wait_for(lambda: offset_of(api, path) == HALF, "the first half")
            crowd = _crowd(server, stack, count)
            wait_for(lambda: sum(map(_is_ended, crowd)) > count // 2, "refused connections")
            # What is under way has all it needs: to write, to sync, to look at files, to answer.
            assert offset_of(api, path) == HALF
            under_way.send(BODY[HALF:])
            answer = under_way.answer()
        assert answer is not None
        assert answer.status == 204
        assert answer.headers["tidemill-batch"]
        another = create(api, len(BODY))
        assert patch(api, another, 0, BODY).status_code == 204
        stack.close()
        wait_for(lambda: len(server.held()) <= before + 2, "closed connections")
        with server.client() as newcomer:
            assert newcomer.get("/readyz").status_code == 200
            assert newcomer.get(path).content == newcomer.get(another).content == BODY
    assert len(server.events("service.connections_refused")) == 1
    assert len(server.log_text().splitlines()) < 100


def test_a_crowd_that_takes_every_descriptor_stops_no_upload(make_server: MakeServer) -> None:
    _weather_a_crowd(make_server, 64, 200)


def test_idle_connections_make_room_for_those_who_come(make_server: MakeServer) -> None:
    """They may idle for more than a minute, but not while others are turned away."""
    server = _limited(make_server, 64)
    with ExitStack() as stack:
        held = 0
        while held < 100 and _says_livez(server, stack):
            held += 1
        assert 10 < held < 100
        wait_for(lambda: _says_livez(server, stack), "a place for a newcomer", 30)


def _says_livez(server: Server, stack: ExitStack) -> bool:
    """Ask over a new connection, which stays open if it is answered."""
    line = socket.create_connection(("127.0.0.1", server.port), 10)
    try:
        line.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        is_answered = line.recv(4096).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        is_answered = False
    if is_answered:
        stack.enter_context(closing(line))
    else:
        line.close()
    return is_answered


@pytest.mark.long
def test_a_thousand_connections_too_many_stop_no_upload(make_server: MakeServer) -> None:
    _weather_a_crowd(make_server, 256, 1000)
