"""A real client through ``serve --workers 2`` while its processes are killed one after the other."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.harness import Server, wait_for
from tests.e2e.node import CLIENTS, finish, start_upload
from tests.e2e.proxy import Proxy

KIB = 1024
LENGTH = 3000 * KIB
KILLS = 3


def serving(server: Server) -> list[int]:
    """The processes that take connections, oldest first."""
    alive = {child.pid for child in psutil.Process(server.pid).children()}
    started = [line["pid"] for line in server.events("process.started")]
    return [pid for pid in started if pid in alive]


@pytest.mark.parametrize(
    "client", [CLIENTS[0], *(pytest.param(each, marks=pytest.mark.long) for each in CLIENTS[1:])]
)
def test_no_byte_is_lost_and_nothing_begun_anew_when_processes_are_killed_in_turn(
    client: str, make_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = make_server({"WORKERS": 0, "PROCESSES": 2}).start()
    wait_for(lambda: len(serving(server)) == 2, "both processes")
    body, file = os.urandom(LENGTH), tmp_path / "clip.bin"
    file.write_bytes(body)
    with Proxy(server.port, bytes_per_second=800 * KIB) as proxy:
        wish = {
            "client": client,
            "endpoint": f"{proxy.url}/files/",
            "file": str(file),
            "chunkSize": 400 * KIB,
            "retryDelays": [100] * 100,
        }
        with start_upload(wish) as running:
            steps = range(LENGTH // (KILLS + 2), LENGTH, LENGTH // (KILLS + 2))
            reached = [kill_oldest(server, least) for least in steps[:KILLS]]
            proxy.speed_up()
            told = finish(running)
    assert told.success
    assert len([e for e in told.of("request") if e["method"] == "POST"]) == 1
    assert told.patch_offsets == sorted(told.patch_offsets)
    assert told.patch_offsets.count(0) == 1
    (stored,) = (server.data / "uploads").iterdir()
    assert stored.read_bytes() == body
    assert reached == sorted(reached)
    assert len(server.events("process.died", exit_code=-signal.SIGKILL)) == KILLS


def kill_oldest(server: Server, least: int) -> int:
    """Kill one of two processes once ``least`` bytes are there; return how many there are then."""
    wait_for(lambda: size(server) >= least, f"{least} bytes", 30)
    gone = (wait_for(lambda: two(server), "two processes", 30) or [0])[0]
    os.kill(gone, signal.SIGKILL)
    wait_for(lambda: gone not in serving(server), "its end")
    return size(server)


def two(server: Server) -> list[int] | None:
    found = serving(server)
    return found if len(found) == 2 else None


def size(server: Server) -> int:
    return sum(path.stat().st_size for path in (server.data / "uploads").iterdir())
