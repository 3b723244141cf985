"""``tidemill serve --workers 2`` from outside: it starts as one, loses nobody for long, ends as one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.runtime_process import (
    Service,
    clean_environment,
    eventually,
    run_command,
    service,
)

TUS = {"Tus-Resumable": "1.0.0"}


def create_uploads(running: Service, count: int) -> None:
    """Each over a connection of its own."""
    for _ in range(count):
        headers = {**TUS, "Upload-Length": "3"}
        assert httpx.post(f"{running.url}/files/", headers=headers, timeout=20).status_code == 201


def created(running: Service) -> float:
    name = "tidemill_upload_created_total "
    lines = running.get("/metrics").text.splitlines()
    (value,) = (line.removeprefix(name) for line in lines if line.startswith(name))
    return float(value)


def serving(running: Service) -> set[int]:
    """The children that take connections now."""
    alive = {child.pid for child in psutil.Process(running.process.pid).children()}
    return alive & {line["pid"] for line in running.events("process.started")}


def both(running: Service, *, without: int = 0) -> list[int]:
    """Both children, once they serve; ``without`` is one that has gone."""

    def look() -> list[int] | None:
        found = serving(running) - {without}
        return sorted(found) if len(found) == 2 else None

    pids: list[int] = eventually(look, seconds=40, what="two children")
    return pids


def test_two_processes_are_one_service(tmp_path: Path) -> None:
    with service(tmp_path, "--workers", "2", variables={"TIDEMILL_WORKERS": "3"}) as running:
        (started,) = running.events("service.started")
        assert started["processes"] == 2
        assert started["pid"] == running.process.pid
        first, second = both(running)
        assert len(running.events("service.ready")) == 2
        assert all("pid" in line for line in running.events())
        assert running.get("/readyz").json()["status"] in {"ok", "degraded"}
        made = []

        def both_take_some() -> bool:
            create_uploads(running, 1)
            made.append(1)
            return {line["pid"] for line in running.events("request.finished")} == {first, second}

        eventually(both_take_some, what="a share of the connections for each")
        many = len(made)
        eventually(lambda: created(running) == many, what="the sum of both")
        # The one that answered may not have shown the other yet, and its last second dies with it.
        time.sleep(2.5)

        os.kill(first, signal.SIGKILL)
        create_uploads(running, 4)  # the other goes on
        (died,) = eventually(lambda: running.events("process.died"), what="the news of the death")
        assert (died["child"], died["exit_code"]) == (first, -signal.SIGKILL)
        third = sum(both(running, without=first)) - second

        os.kill(second, signal.SIGTERM)  # alone: it leaves in order, and is replaced as well
        create_uploads(running, 4)
        both(running, without=second)
        assert third in serving(running)
        assert [line["exit_code"] for line in running.events("process.died")][1:] == [0]
        eventually(lambda: created(running) == many + 8, what="the sum of all four")

        left = [*psutil.Process(running.process.pid).children(recursive=True)]
        assert running.stop() == 0
        assert running.events()[-1]["event"] == "service.ended"
        assert not [line for line in running.events() if line["level"] in {"error", "critical"}]
        assert psutil.wait_procs(left, timeout=10)[1] == []
    assert [entry.name for entry in (tmp_path / "data" / "run").iterdir()] == ["start.lock"]


def test_without_their_parent_they_end_by_themselves(tmp_path: Path) -> None:
    with service(tmp_path, "--workers", "2") as running:
        children = psutil.Process(running.process.pid).children(recursive=True)
        os.kill(running.process.pid, signal.SIGKILL)
        assert psutil.wait_procs(children, timeout=20)[1] == []
        with pytest.raises(ConnectionRefusedError):
            running.connect()
        assert len(running.events("service.stopped")) == 2  # in order


def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    with service(tmp_path, "--workers", "2") as running:
        children = psutil.Process(running.process.pid).children(recursive=True)
        for pid in both(running):
            os.kill(pid, signal.SIGSTOP)  # neither will ever end by itself
        running.signal()
        # The first signal must have arrived, or the two would be one.
        eventually(lambda: is_refused(running.port), what="the end of the listening")
        assert running.process.poll() is None
        running.signal(signal.SIGINT)
        assert running.wait() == 128 + signal.SIGINT
        assert psutil.wait_procs(children, timeout=10)[1] == []


def is_refused(port: int) -> bool:
    """Whether nobody but stopped processes holds the port: what is sent there is not answered."""
    found = [
        each.pid
        for each in psutil.net_connections("tcp4")
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port
    ]
    return all(pid and psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in found)


def run_script(folder: Path, script: str) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=clean_environment(
            TIDEMILL_PORT="0", TIDEMILL_LOG_FORMAT="json", TIDEMILL_PROCESSES="2"
        ),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return done.returncode, lines


def test_one_that_dies_again_and_again_is_the_failure_of_all(tmp_path: Path) -> None:
    script = """
import os, sys
import app.server.parent as parent
from app.server import serve
from app.server.child import ChildServer
from app.settings import Settings

async def die(self, counter):
    if self._post.seat.index == 1:
        os._exit(9)
    return self.should_exit

parent.DELAYS = (0.0, 0.1)
parent.STEADY_SECONDS = 60.0
ChildServer.on_tick = die
sys.exit(serve(Settings.load()))
"""
    code, lines = run_script(tmp_path, script)
    assert code == 1
    died = [line for line in lines if line["event"] == "process.died"]
    assert [line["replaced_in_seconds"] for line in died] == [0.0, 0.1]
    (failed,) = (line for line in lines if line["event"] == "service.failed")
    assert (failed["part"], failed["exit_code"]) == ("processes", 9)
    assert len([line for line in lines if line["event"] == "service.stopped"]) == 1


def test_what_keeps_one_from_starting_keeps_all_and_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    done = run_command("serve", "--workers", "3", "--port", "0", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("service.start_refused") == 1
    assert "thesis.txt" in done.stderr
    assert "Traceback" not in done.stderr
    assert "service.started" not in done.stderr

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_command("serve", "--workers", "2", "--port", port, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("already in use") == 1


def test_a_number_of_processes_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    done = run_command("serve", "--workers", "0", folder=tmp_path)
    assert done.returncode == 2
    assert "1 to 64" in done.stderr
    assert not (tmp_path / "data").exists()
