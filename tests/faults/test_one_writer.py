"""One writer for each upload, the newest, when its requests meet in two processes on one folder."""

import os
import random
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import PATCH_TYPE, TUS, SlowPatch, create, offset_of, patch
from tests.fakes.measured import assert_all_within, timed

KIB = 1024
LENGTH = 300 * KIB
LONGEST_WAIT = 10.0
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

    def tries() -> list[float]:
        took: list[float] = []
        for turn in range(6):
            body = os.urandom(LENGTH)
            path = create(api, LENGTH)
            with hanging(holder, body, path) as dead:
                with timed(took):
                    # What a client does: ask where to go on, and go on there.
                    offset = offset_of(api, path)
                    answer = patch(api, path, offset, body[offset:])
                assert (offset, answer.status_code) == (FIRST, 204), (turn, answer.text)
                told = dead.answer()
                assert told is None or told.status == 423
            assert stored(other, path).read_bytes() == body
        return took

    with other.client() as api:
        assert_all_within(1, tries)


def test_a_link_that_dies_again_and_again_is_taken_over_by_either_process_each_time(
    pair: Pair,
) -> None:
    turns, piece = 10, LENGTH // 10

    def tries() -> list[float]:
        took: list[float] = []
        body = os.urandom(LENGTH)
        path = create(api, LENGTH)
        file = stored(pair[0], path)
        with ExitStack() as dead:
            links = []
            for turn in range(turns):
                at, end = turn * piece, (turn + 1) * piece
                server = pair[turn % 2]
                link = dead.enter_context(SlowPatch(server.port, path, at, LENGTH - at))
                with timed(took):
                    link.send(body[at:end])
                    wait_for(partial(_has, file, end), "bytes of the newest")
                links.append(link)
            last = links.pop().answer()
            assert last is not None
            assert last.status == 204
            for link in links:
                told = link.answer()
                assert told is None or told.status == 423
        assert file.read_bytes() == body
        return took

    with pair[0].client() as api:
        assert_all_within(1, tries)


def _has(file: Path, size: int) -> bool:
    return file.exists() and file.stat().st_size == size


@pytest.mark.parametrize("reader", [0, 1], ids=["the same process", "another process"])
def test_readers_never_wait_for_a_writer_that_hangs(pair: Pair, reader: int) -> None:
    def tries() -> list[float]:
        body = os.urandom(LENGTH)
        path = create(api, LENGTH)
        heads, gets, views = list[float](), list[float](), list[float]()
        with hanging(pair[0], body, path) as slow:
            for _ in range(9):
                with timed(heads):
                    assert offset_of(api, path) == FIRST
                with timed(gets):
                    assert api.get(path).status_code == 409  # it is not whole yet
                with timed(views):
                    view = api.get(f"/api/v1/uploads/{path.rsplit('/', 1)[1]}").json()
                assert (view["offset"], view["status"]) == (FIRST, "receiving")
            slow.send(body[FIRST:])
            told = slow.answer()
            assert told is not None
            assert told.status == 204, "the readers stopped the writer"
        assert api.get(path).content == body
        return [statistics.median(times) for times in (heads, gets, views)]

    with pair[reader].client() as api:
        assert_all_within(0.1, tries)


# --- ten contenders ------------------------------------------------------------------------------

CONTENDERS = 10
PIECE = 32 * KIB
SHARE = 5 * PIECE
"""How much each has to get through before all of them stop."""
PATTERN = os.urandom(1_000_003)


def pattern(offset: int, size: int) -> bytes:
    """What belongs at that place of an upload of any length."""
    begin = offset % len(PATTERN)
    return (PATTERN * (size // len(PATTERN) + 2))[begin : begin + size]


@dataclass
class Contender:
    """A client that wants the same upload as others do: it asks HEAD, sends the next piece, and comes
    again after a moment when it was refused. Each fifth of its lines dies in the middle of a piece.
    """

    server: Server
    path: str
    random: random.Random
    sent: int = 0
    answers: Counter[int | None] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)

    def contend(self, api: httpx.Client, over: threading.Event, dead: ExitStack) -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            with timed(self.waits):
                offset = offset_of(api, self.path)
            piece = pattern(offset, PIECE)
            request = SlowPatch(self.server.port, self.path, offset, PIECE)
            if turn % 5 == 0:
                dead.enter_context(request).send(piece[: PIECE // 2])
                continue
            with request, timed(self.waits):
                status = self._send(request, piece)
            self.answers[status] += 1
            if status == 204:
                self.sent += PIECE
            elif status != 409:
                over.wait(self.random.uniform(0.01, 0.05))

    def _send(self, request: SlowPatch, piece: bytes) -> int | None:
        with suppress(ConnectionError):  # it was answered, or hung up on, in the middle of its body
            request.send(piece[: PIECE // 2])
            time.sleep(0.001)
            request.send(piece[PIECE // 2 :])
        told = request.answer()
        return told.status if told else None


@pytest.mark.parametrize("processes", [1, 2])
def test_of_ten_contenders_that_come_again_each_gets_on(pair: Pair, processes: int) -> None:
    with pair[0].client() as api:
        created = api.post("/files/", headers=TUS | {"Upload-Defer-Length": "1"})
        path = created.headers["location"]
        all_of_them = [
            Contender(pair[number % processes], path, random.Random(number))
            for number in range(CONTENDERS)
        ]
        contend(all_of_them)
        told = [(each.sent, dict(each.answers)) for each in all_of_them]
        assert min(each.sent for each in all_of_them) >= SHARE, told
        # 409: another was quicker; 423 or an end of the line: a newer one took over.
        assert set().union(*(each.answers for each in all_of_them)) <= {204, 409, 423, None}, told
        # However busy the machine is: nobody is kept waiting for as long as a lock may be.
        assert max(wait for each in all_of_them for wait in each.waits) < LONGEST_WAIT
        offset = offset_of(api, path)
        assert offset >= sum(each.sent for each in all_of_them), "acknowledged bytes were lost"
        length = {"Upload-Length": str(offset), "Upload-Offset": str(offset)}
        ended = api.patch(path, headers=TUS | PATCH_TYPE | length)
        assert (ended.status_code, bool(ended.headers["tidemill-batch"])) == (204, True)
    assert stored(pair[0], path).read_bytes() == pattern(0, offset)


def contend(contenders: Sequence[Contender]) -> None:
    """Let them contend until each has its share, for a minute at the most."""
    over = threading.Event()
    with ExitStack() as dead, ThreadPoolExecutor(len(contenders)) as pool:
        try:
            running = [
                pool.submit(each.contend, dead.enter_context(each.server.client()), over, dead)
                for each in contenders
            ]
            until = time.monotonic() + 60
            while min(each.sent for each in contenders) < SHARE and time.monotonic() < until:
                assert not any(each.done() for each in running), [e.exception() for e in running]
                time.sleep(0.02)
        finally:
            over.set()
        for each in running:
            each.result(30)


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
    sockets = other.data / "run"
    pids = []

    def tries() -> list[float]:
        doomed.start()
        pids.append(doomed.pid)
        assert len(list(sockets.glob(f"locks-{doomed.pid}-*"))) == 1
        body, took = os.urandom(LENGTH), list[float]()
        path = create(api, LENGTH)
        with hanging(doomed, body, path):
            # It holds the upload and can let go of it in no other way than by its death.
            os.kill(doomed.pid, signal.SIGSTOP)
            with SlowPatch(other.port, path, FIRST, LENGTH - FIRST) as newcomer:
                newcomer.send(body[FIRST:])
                time.sleep(0.2)  # it may get the lock at no moment of this
                assert stored(other, path).stat().st_size == FIRST
                doomed.kill()
                with timed(took):
                    told = newcomer.answer()
            assert told is not None
            assert told.status == 204
        assert stored(other, path).read_bytes() == body
        return took

    with other.client() as api:
        assert_all_within(1, tries)
        # Whoever has to ask next finds nobody there any more.
        body, path = os.urandom(LENGTH), create(api, LENGTH)
        with hanging(pair[0], body, path):
            assert patch(api, path, FIRST, body[FIRST:]).status_code == 204
    for pid in pids:
        wait_for(partial(_is_gone, sockets, pid), "the dead one's socket to go")


def _is_gone(sockets: Path, pid: int) -> bool:
    return not list(sockets.glob(f"locks-{pid}-*"))


def test_the_newest_wins_also_within_one_service_of_several_processes(
    make_server: Callable[..., Server],
) -> None:
    server = make_server({"WORKERS": 0, "PROCESSES": 2}).start()
    wait_for(lambda: _answers_from_both(server), "both processes")
    paths: list[str] = []

    def take_over(took: list[float]) -> None:
        body = os.urandom(LENGTH)
        with server.client() as api:
            path = create(api, LENGTH)
        paths.append(path)
        # Over connections of their own, which go to one process or to the other.
        with hanging(server, body, path), server.client() as api:
            with timed(took):
                answer = patch(api, path, FIRST, body[FIRST:])
            assert answer.status_code == 204, answer.text
        assert stored(server, path).read_bytes() == body

    def tries() -> list[float]:
        took: list[float] = []
        for _ in range(6):
            take_over(took)
        return took

    assert_all_within(1, tries)
    for _ in range(30):
        if any(len(_pids(server, method="PATCH", path=path)) == 2 for path in paths):
            break
        take_over([])
    else:
        pytest.fail("in none of the tries the two requests met in two processes")
    assert httpx.get(f"{server.url}/livez", trust_env=False).is_success


def _answers_from_both(server: Server) -> bool:
    assert httpx.get(f"{server.url}/livez", trust_env=False).is_success
    return len(_pids(server)) == 2


def _pids(server: Server, **facts: object) -> set[int]:
    return {line["pid"] for line in server.events("request.finished", **facts)}
