"""One writer for each upload, the newest, when its requests meet in two processes on one folder."""

import os
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import TUS, SlowPatch, create, offset_of, patch

KIB = 1024
LENGTH = 300 * KIB
FIRST = 100 * KIB
Pair = tuple[Server, Server]


@pytest.fixture(scope="module")
def pair(make_own_server: Callable[..., Server]) -> Pair:
    """Two servers on one folder, for all tests of this module."""
    one, two = make_own_server({"WORKERS": 0}), make_own_server({"WORKERS": 0})
    two.data = one.data
    return one.start(), two.start()


def stored(server: Server, path: str) -> Path:
    return server.data / "uploads" / path.rsplit("/", 1)[1]


@contextmanager
def hanging(server: Server, body: bytes, path: str) -> Iterator[SlowPatch]:
    """A PATCH that has sent ``FIRST`` bytes and then says nothing more, as after a dead link."""
    file = stored(server, path)
    with SlowPatch(server.port, path, 0, len(body)) as dead:
        dead.send(body[:FIRST])
        wait_for(lambda: file.exists() and file.stat().st_size == FIRST, "the first bytes")
        yield dead


def test_a_retry_goes_on_at_once_while_another_process_holds_the_dead_link(pair: Pair) -> None:
    holder, other = pair
    took = []
    with other.client() as api:
        for turn in range(5):
            body = os.urandom(LENGTH)
            path = create(api, LENGTH)
            with hanging(holder, body, path) as dead:
                began = time.monotonic()
                # What a client does: ask where to go on, and go on there.
                answer = patch(api, path, offset_of(api, path), body[FIRST:])
                took.append(time.monotonic() - began)
                assert answer.status_code == 204, (turn, answer.text)
                told = dead.answer()
                assert told is None or told.status == 423
            assert stored(other, path).read_bytes() == body
    assert statistics.median(took) < 1, took


def test_readers_never_wait_for_a_writer_of_another_process(pair: Pair) -> None:
    holder, other = pair
    body, took = os.urandom(LENGTH), []
    with other.client() as api:
        path = create(api, LENGTH)
        with hanging(holder, body, path) as dead:
            for _ in range(5):
                began = time.monotonic()
                assert offset_of(api, path) == FIRST
                assert api.get(path).status_code == 409  # it is not whole yet
                took.append(time.monotonic() - began)
            dead.send(body[FIRST:])
            told = dead.answer()
            assert told is not None
            assert told.status == 204, "the readers stopped the writer"
        assert api.get(path).content == body
    assert statistics.median(took) < 1, took


def test_of_ten_contenders_in_two_processes_none_is_left_waiting(pair: Pair) -> None:
    body = os.urandom(4 * LENGTH)
    generator = random.Random(7)
    with pair[0].client() as api:
        path = create(api, len(body))
        start, over = threading.Barrier(10), threading.Event()

        def contend(number: int) -> int | None:
            """Send all from the same offset, in pieces; every third falls silent half way, until the
            others have ended: one of them may be the newest, and nobody takes it over then.
            """
            server, is_silent = pair[number % 2], number % 3 == 0
            sizes = [generator.randint(20, 60) * KIB for _ in range(100)]
            start.wait(20)
            with SlowPatch(server.port, path, 0, len(body)) as request:
                at = 0
                try:
                    for size in sizes:
                        if at >= len(body) or (is_silent and at > len(body) // 2):
                            break
                        request.send(body[at : at + size])
                        at += size
                        time.sleep(0.002)
                except OSError:
                    pass  # it was answered, or hung up on, before the end of its body
                if is_silent:
                    over.wait(30)
                    return None
                told = request.answer()
                return told.status if told else None

        with ThreadPoolExecutor(10) as pool:
            contenders = [pool.submit(contend, number) for number in range(10)]
            try:
                # SlowPatch gives up on an answer after 20 s: each of them came to its end before.
                ends = [each.result() for number, each in enumerate(contenders) if number % 3]
            finally:
                over.set()
        assert set(ends) <= {204, 409, 423, None}, ends
        offset = offset_of(api, path)
        assert stored(pair[0], path).read_bytes() == body[:offset]
        if offset < len(body):
            assert patch(api, path, offset, body[offset:]).status_code == 204
    assert stored(pair[0], path).read_bytes() == body


def test_a_deletion_stops_the_writer_of_another_process(pair: Pair) -> None:
    holder, other = pair
    with other.client() as api:
        path = create(api, LENGTH)
        with hanging(holder, os.urandom(LENGTH), path) as dead:
            assert api.delete(path, headers=TUS).status_code == 204
            told = dead.answer()
            assert told is None or told.status in {404, 410, 423}
        assert not stored(other, path).exists()
        assert api.head(path, headers=TUS).status_code in {404, 410}


@pytest.mark.parametrize("trouble", ["removed", "replaced", "deaf"])
def test_a_socket_that_nobody_reaches_any_more_costs_a_moment_and_no_answer(
    pair: Pair, trouble: str
) -> None:
    holder, other = pair
    body = os.urandom(LENGTH)
    run = holder.data / "run"
    with other.client() as api:
        path = create(api, LENGTH)
        with hanging(holder, body, path):
            before = {each.name for each in run.glob("locks-*.sock")}
            assert len(before) >= 2
            with impostors(run, before, trouble):
                answer = patch(api, path, FIRST, body[FIRST:])
        assert answer.status_code == 204, answer.text
        assert stored(other, path).read_bytes() == body
        wait_for(
            lambda: {each.name for each in run.glob("locks-*.sock")} == before, "sockets made anew"
        )


@contextmanager
def impostors(run: Path, names: set[str], trouble: str) -> Iterator[None]:
    """Take the sockets away; put in their place nothing, plain files, or sockets that are full."""
    opened = []
    for name in names:
        (run / name).unlink()
        if trouble == "replaced":
            (run / name).write_text("no socket")
        elif trouble == "deaf":
            folder = os.open(run, os.O_RDONLY)
            opened.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            opened[-1].bind(f"/proc/self/fd/{folder}/{name}")
            os.close(folder)
    try:
        yield
    finally:
        for each in opened:
            each.close()


def test_a_lock_and_a_socket_die_with_their_process(
    pair: Pair, make_own_server: Callable[..., Server]
) -> None:
    other = pair[1]
    doomed = make_own_server({"WORKERS": 0})
    doomed.data = other.data
    doomed.start()
    body = os.urandom(LENGTH)
    sockets = other.data / "run"
    assert len(list(sockets.glob(f"locks-{doomed.pid}-*"))) == 1
    with other.client() as api:
        path = create(api, LENGTH)
        with hanging(doomed, body, path):
            pid = doomed.pid
            doomed.kill()
            assert patch(api, path, FIRST, body[FIRST:]).status_code == 204
        assert stored(other, path).read_bytes() == body
        # Whoever has to ask next finds nobody there any more.
        path = create(api, LENGTH)
        with hanging(pair[0], body, path):
            assert patch(api, path, FIRST, body[FIRST:]).status_code == 204
    wait_for(lambda: not list(sockets.glob(f"locks-{pid}-*")), "the dead one's socket to go")


def test_the_newest_wins_also_within_one_service_of_several_processes(
    make_server: Callable[..., Server],
) -> None:
    server = make_server({"WORKERS": 0, "PROCESSES": 2}).start()
    took = []
    for _ in range(6):
        body = os.urandom(LENGTH)
        with server.client() as api:
            path = create(api, LENGTH)
        # Over connections of their own, which go to one process or to the other.
        with hanging(server, body, path), server.client() as api:
            began = time.monotonic()
            assert patch(api, path, FIRST, body[FIRST:]).status_code == 204
            took.append(time.monotonic() - began)
        assert stored(server, path).read_bytes() == body
    assert statistics.median(took) < 1, took
    taken = {line["pid"] for line in server.events("request.finished")}
    assert len(taken) == 2
    assert httpx.get(f"{server.url}/livez", trust_env=False).is_success
