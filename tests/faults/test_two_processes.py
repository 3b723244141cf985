"""Two servers on one data folder: each job and each tick happens once, also when one is paused."""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from app.domain.sweeps import SweepName
from app.infrastructure.media.ffmpeg_locator import locate_ffmpeg
from tests.e2e.frames import assert_is_cut
from tests.e2e.harness import Server, strace, wait_for
from tests.e2e.wire import await_job, open_session, upload
from tests.fakes.paused import pause

TICKS = 60
TICK_SECONDS = 0.5
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
    "KEPT_CLIPS",
    "RECORDS",
)
TRIM = {"operation": "trim", "params": {"start": 0.5, "end": 1.5}}


def pair(
    make_server: Callable[..., Server], first: Mapping[str, object], second: Mapping[str, object]
) -> tuple[Server, Server]:
    """Two servers on the data folder of the first, not started yet."""
    one, two = make_server(first), make_server(second)
    two.data = one.data
    return one, two


def recording_ffmpeg(folder: Path, then: str = ":") -> tuple[Path, Path]:
    """An FFmpeg that first appends where it starts, one line each, and the file of those lines.

    ``then``: what it does between that and its work, as a command of the shell.
    """
    real, starts, script = locate_ffmpeg(None).path, folder / "starts", folder / "ffmpeg"
    script.write_text(
        "#!/bin/sh\n"
        f'case " $* " in *" -i "*) echo "$PWD" >> {starts}; {then};; esac\n'
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


@pytest.mark.parametrize("moment", ["in FFmpeg", "before the rename", "after the rename"])
def test_a_paused_worker_that_wakes_up_publishes_nothing_a_second_time(
    moment: str, make_server: Callable[..., Server], short_clip: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    script, starts = recording_ffmpeg(tmp_path, f"until [ -e {gate} ]; do sleep 0.05; done")
    settings = {"WORKERS": 1, "FFMPEG_PATH": script, "SANDBOX": "off", **SHORT_LEASES}
    sleeper, other = pair(make_server, settings, settings)
    delay = {"before the rename": "delay_enter", "after the rename": "delay_exit"}.get(moment)
    renames = f"inject=rename,renameat,renameat2:{delay}=6000000"
    sleeper.start()
    with sleeper.client() as hurried, other.client() as api:
        job_id = with_job(hurried, short_clip, TRIM)
        # Attached while FFmpeg waits: its own calls are not followed, which would take very long.
        wait_for(lambda: started_jobs(starts)[job_id], "the start of FFmpeg", 30)
        assert is_processing(sleeper, job_id)
        tracing = (
            strace(sleeper.pid, "-e", renames, log=tmp_path / "strace.log")
            if delay
            else nullcontext()
        )
        with tracing:
            if moment != "in FFmpeg":
                gate.touch()
            if moment == "before the rename":
                wait_for(
                    lambda: other.rows("SELECT 1 FROM outputs WHERE status = 'publishing'"),
                    "the row of the output",
                    60,
                )
            elif moment == "after the rename":
                wait_for(lambda: any((other.data / "outputs").iterdir()), "the rename", 60)
            pause(sleeper.pid, sleeper.data / "tidemill.db")
        try:
            # Nobody but another process can do the work now; what the sleeper began goes on to its end.
            gate.touch()
            other.start()
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
        assert_is_cut(tmp_path / "out.mp4", short_clip, start=0.5, end=1.5)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "tick_seconds",
    [
        pytest.param(TICK_SECONDS, id="half a second"),
        pytest.param(1.0, id="a second", marks=pytest.mark.long),
    ],
)
def test_two_servers_run_each_job_once_and_each_sweep_once_a_tick(
    make_server: Callable[..., Server], short_clip: Path, tmp_path: Path, tick_seconds: float
) -> None:
    script, starts = recording_ffmpeg(tmp_path)
    settings: dict[str, object] = {
        "WORKERS": 1,
        "FFMPEG_PATH": script,
        "SANDBOX": "off",
        **{f"{name}_INTERVAL_SECONDS": tick_seconds for name in INTERVALS},
    }
    servers = pair(make_server, settings, settings)
    for each in servers:
        each.start()
    began = datetime.now(UTC)
    with servers[0].client() as one, servers[1].client() as two:
        jobs = [with_job((one, two)[n % 2], short_clip, TRIM) for n in range(JOBS)]
        ended = [await_job(one, job_id, 120) for job_id in jobs]
        # On a busy machine ticks are missed, and the sixty take longer.
        wait_for(
            lambda: min(map(len, runs_since(servers[0], began).values())) > TICKS,
            "sixty ticks of each sweep",
            4 * TICKS * tick_seconds,
        )
    assert [job["status"] for job in ended] == ["completed"] * JOBS
    assert started_jobs(starts) == dict.fromkeys(jobs, 1)
    finished = [[event["job_id"] for event in server.events("job.completed")] for server in servers]
    assert Counter(finished[0] + finished[1]) == dict.fromkeys(jobs, 1)
    assert all(finished), "one of the two did nothing"
    published = {output["id"] for job in ended for output in job["outputs"]}
    assert {path.name for path in (servers[0].data / "outputs").iterdir()} == published
    assert_once_a_tick(servers[0], began, tick_seconds)


def runs_since(server: Server, began: datetime) -> dict[str, list[tuple[float, str]]]:
    """When each sweep ran by a clock (seconds after ``began``), and which process ran it."""
    reports = server.rows(
        "SELECT sweep, started_at, leader FROM sweep_reports"
        " WHERE \"trigger\" = 'interval' AND started_at >= ? ORDER BY started_at",
        int(began.timestamp() * 1_000_000),
    )
    runs: dict[str, list[tuple[float, str]]] = {name: [] for name in SweepName}
    for sweep, at, leader in reports:
        runs[sweep].append((at / 1_000_000 - began.timestamp(), leader))
    return runs


def assert_once_a_tick(server: Server, began: datetime, tick_seconds: float) -> None:
    for name, runs in runs_since(server, began).items():
        # A tick of one clock that came late is followed soon by its next one; but what one process
        # has just run the other does not run again.
        changes = [b[0] - a[0] for a, b in pairwise(runs) if a[1] != b[1]]
        assert min(changes, default=tick_seconds) > 0.85 * tick_seconds, (name, min(changes))
        ticks = runs[-1][0] / tick_seconds
        assert TICKS < len(runs) <= ticks + 5, (name, len(runs), ticks)
