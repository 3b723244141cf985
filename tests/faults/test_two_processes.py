"""Two servers on one data folder: each job and each tick happens once, also when one is paused."""

import os
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from app.infrastructure.media.ffmpeg_locator import locate_ffmpeg
from tests.e2e.frames import assert_is_cut
from tests.e2e.harness import Server, strace, wait_for
from tests.e2e.wire import await_job, open_session, upload

TICKS = 60
JOBS = 24
SHORT_LEASES = {"HEARTBEAT_SECONDS": 0.4, "LEASE_SECONDS": 1.5, "JOB_CHECK_INTERVAL_SECONDS": 0.5}
INTERVALS = (
    "UPLOAD_GC",
    "UNCLAIMED",
    "SESSION_SWEEP",
    "JOB_CHECK",
    "CLEANUP",
    "SPENT_INPUTS",
    "DELIVERED",
    "RECORDS",
)
TRIM = {"operation": "trim", "params": {"start": 0.5, "end": 1.5}}
LONG_TRIM = {"operation": "trim", "params": {"start": 2, "end": 7}}


def pair(
    make_server: Callable[..., Server], first: Mapping[str, object], second: Mapping[str, object]
) -> tuple[Server, Server]:
    """Two servers on the data folder of the first."""
    one, two = make_server(first), make_server(second)
    two.data = one.data
    return one.start(), two.start()


def recording_ffmpeg(folder: Path) -> tuple[Path, Path]:
    """An FFmpeg that first appends where it starts, one line each, and the file of those lines."""
    real, starts, script = locate_ffmpeg(None).path, folder / "starts", folder / "ffmpeg"
    script.write_text(
        "#!/bin/sh\n"
        f'case " $* " in *" -i "*) echo "$PWD" >> {starts};; esac\n'
        f'exec {shutil.which(str(real)) or real} "$@"\n'
    )
    script.chmod(0o755)
    starts.touch()
    return script, starts


def started_jobs(starts: Path) -> Counter[str]:
    """How often FFmpeg was started for each job: it works in ``work/<job>/<attempt>``."""
    return Counter(Path(line).parts[-2] for line in starts.read_text().splitlines())


def with_job(api: httpx.Client, clip: Path, then: Mapping[str, object]) -> str:
    """Upload a clip into a session with ``then`` and return the job."""
    session_id = open_session(api, expected_files=1, then=then)
    finished = upload(api, clip.read_bytes(), filename="clip.mp4", session=session_id)
    return finished.headers["tidemill-job"]


def is_processing(server: Server, job_id: str) -> bool:
    return bool(server.rows("SELECT 1 FROM jobs WHERE id = ? AND status = 'processing'", job_id))


def assert_not_in_a_transaction(server: Server) -> None:
    """A process that is stopped while it writes would stop every other writer of an SQLite file."""
    with closing(sqlite3.connect(server.data / "tidemill.db", timeout=0)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


def pause(server: Server) -> None:
    """Stop a server where it is, but not within a transaction."""
    for _ in range(50):
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert_not_in_a_transaction(server)
        except sqlite3.OperationalError:
            os.kill(server.pid, signal.SIGCONT)
            time.sleep(0.01)
        else:
            return
    raise AssertionError("it was always within a transaction")


@pytest.mark.parametrize("moment", ["in FFmpeg", "before the rename", "after the rename"])
def test_a_paused_worker_that_wakes_up_publishes_nothing_a_second_time(
    moment: str, make_server: Callable[..., Server], clip: Path, tmp_path: Path
) -> None:
    sleeper, other = pair(
        make_server, {"WORKERS": 1, **SHORT_LEASES}, {"WORKERS": 0, **SHORT_LEASES}
    )
    delay = {"before the rename": "delay_enter", "after the rename": "delay_exit"}.get(moment)
    renames = f"inject=rename,renameat,renameat2:{delay}=6000000"
    with other.client() as api:
        job_id = with_job(api, clip, LONG_TRIM)
        wait_for(lambda: is_processing(other, job_id), "the start of the job")
        tracing = (
            strace(sleeper.pid, "-e", renames, log=tmp_path / "strace.log")
            if delay
            else nullcontext()
        )
        with tracing:
            if moment == "in FFmpeg":
                wait_for(lambda: any((other.data / "work").rglob("*.part")), "FFmpeg's first bytes")
            elif moment == "before the rename":
                wait_for(
                    lambda: other.rows("SELECT 1 FROM outputs WHERE status = 'publishing'"),
                    "the row of the output",
                    60,
                )
            else:
                wait_for(lambda: any((other.data / "outputs").iterdir()), "the rename", 60)
            pause(sleeper)
        try:
            # Nobody but a third process can do the work now.
            other.stop()
            other.start({"WORKERS": 1})
            job = await_job(api, job_id, 90)
        finally:
            os.kill(sleeper.pid, signal.SIGCONT)
        wait_for(
            lambda: sleeper.events("job.lease_lost"), "the sleeper to see that it lost the job"
        )
        assert job["status"] == "completed"
        assert job["attempt"] == 2
        (output,) = job["outputs"]
        wait_for(lambda: not list((other.data / "work").rglob("*.*")), "the loser's scratch to go")
        assert [path.name for path in (other.data / "outputs").iterdir()] == [output["id"]]
        assert api.get(f"/api/v1/jobs/{job_id}").json()["outputs"] == [output]
        assert len(other.events("job.completed") + sleeper.events("job.completed")) == 1
        (tmp_path / "out.mp4").write_bytes(api.get(output["url"]).content)
        assert_is_cut(tmp_path / "out.mp4", clip, start=2, end=7)


def test_two_servers_run_each_job_once_and_each_sweep_once_a_tick(
    make_server: Callable[..., Server], short_clip: Path, tmp_path: Path
) -> None:
    script, starts = recording_ffmpeg(tmp_path)
    settings: dict[str, object] = {
        "WORKERS": 1,
        "FFMPEG_PATH": script,
        "SANDBOX": "off",
        **{f"{name}_INTERVAL_SECONDS": 1 for name in INTERVALS},
    }
    servers = pair(make_server, settings, settings)
    began = datetime.now(UTC)
    deadline = time.monotonic() + TICKS + 3
    with servers[0].client() as one, servers[1].client() as two:
        jobs = [with_job((one, two)[n % 2], short_clip, TRIM) for n in range(JOBS)]
        ended = [await_job(one, job_id, 120) for job_id in jobs]
        while time.monotonic() < deadline:
            time.sleep(0.2)
    assert [job["status"] for job in ended] == ["completed"] * JOBS
    assert started_jobs(starts) == dict.fromkeys(jobs, 1)
    finished = [[event["job_id"] for event in server.events("job.completed")] for server in servers]
    assert Counter(finished[0] + finished[1]) == dict.fromkeys(jobs, 1)
    assert all(finished), "one of the two did nothing"
    published = {output["id"] for job in ended for output in job["outputs"]}
    assert {path.name for path in (servers[0].data / "outputs").iterdir()} == published
    assert_once_a_tick(servers[0], began)


def assert_once_a_tick(server: Server, began: datetime) -> None:
    micros = int(began.timestamp() * 1_000_000)
    reports = server.rows(
        "SELECT sweep, started_at, leader FROM sweep_reports"
        " WHERE \"trigger\" = 'interval' AND started_at >= ? ORDER BY started_at",
        micros,
    )
    names = {sweep for sweep, _, _ in reports}
    assert len(names) == 10
    for name in names:
        runs = [(at / 1_000_000, leader) for sweep, at, leader in reports if sweep == name]
        # A tick of one clock that came late is followed soon by its next one; but what one process
        # has just run the other does not run again.
        changes = [b[0] - a[0] for a, b in pairwise(runs) if a[1] != b[1]]
        assert min(changes, default=1.0) > 0.85, (name, min(changes))
        # On a busy machine a tick may be missed, but not many.
        assert TICKS * 0.8 <= len(runs) <= TICKS + 5, (name, len(runs))
