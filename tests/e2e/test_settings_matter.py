"""Every setting at a value that is not its default, and what it then changes, seen from outside.

Few starts of the installed command, many settings each: every test says which ones it shows, and
one test holds that list against the tree.
"""

import fcntl
import json
import re
import shutil
import signal
import socket
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from app.domain.sweeps import SweepName
from app.settings import variables
from tests.e2e.frames import ffmpeg
from tests.e2e.harness import strace
from tests.e2e.wire import (
    TUS,
    SlowPatch,
    await_job,
    create,
    open_session,
    patch,
    problem,
    upload,
)
from tests.fakes.moodle_logs import as_csv, many_rows
from tests.fakes.paused import pause
from tests.runtime_process import Service, eventually, run_command, service

Test = TypeVar("Test", bound=Callable[..., Any])

SHOWN: dict[str, str] = {}
"""Setting, by the test that shows what it does."""
KEY = "a-key-for-the-tests-of-settings"
ALL_INTERVALS = (
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
EVERY_SECOND = {f"{name}_INTERVAL_SECONDS": "1" for name in ALL_INTERVALS}
A_MOMENT = f"{1.5 / 3600:.6f}"
"""Hours: gone with one of the next runs of a sweep that runs every second."""


def shows(*settings: str) -> Callable[[Test], Test]:
    """Say which settings a test gives a value of its own and sees at work."""

    def mark(test: Test) -> Test:
        SHOWN.update(dict.fromkeys(settings, test.__name__))
        return test

    return mark


@contextmanager
def serving(folder: Path, **settings: object) -> Iterator[tuple[Service, httpx.Client]]:
    """The installed command with these settings, and a client for it."""
    named = {f"TIDEMILL_{name}": str(value) for name, value in settings.items()}
    with (
        service(folder, variables=named) as running,
        httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client,
    ):
        yield running, client


def test_every_setting_is_seen_to_matter() -> None:
    assert set(SHOWN) == {each.bare for each in variables()}
    assert all(callable(globals()[name]) for name in SHOWN.values())


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def hours_from_now(text: str) -> float:
    return (at(text) - datetime.now(UTC)) / timedelta(hours=1)


def make_batch(client: httpx.Client, body: bytes) -> tuple[str, str]:
    """Upload a file that nothing was asked for; return its id and its batch's."""
    done = upload(client, body)
    return done.headers["tidemill-upload"], done.headers["tidemill-batch"]


def ask_for_trim(client: httpx.Client, batch_id: str, **more: object) -> httpx.Response:
    wish = {"operation": "trim", "batch_id": batch_id, "params": {"start": 0, "end": 1}}
    return client.post("/api/v1/jobs", json=wish | more)


def trim(client: httpx.Client, batch_id: str, **more: object) -> str:
    """Ask for a job and return its id."""
    answer = ask_for_trim(client, batch_id, **more)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def status_of(client: httpx.Client, path: str) -> int:
    return client.get(path).status_code


def rows(running: Service, query: str) -> list[tuple[Any, ...]]:
    uri = f"file:{running.folder / 'data' / 'tidemill.db'}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
        return connection.execute(query).fetchall()


# --- what is refused, and what is promised --------------------------------------------------------


@shows(
    *("MAX_UPLOAD_BYTES", "METADATA_MAX_BYTES", "MULTIPART_MAX_BYTES", "LOG_MAX_BYTES"),
    *("UPLOAD_EXPIRES_HOURS", "SESSION_MAX_AGE_HOURS", "BATCH_TTL_HOURS", "TTL_MAX_HOURS"),
    *("QUEUE_LIMIT", "JOB_TIMEOUT_MAX_SECONDS", "DATA_DIR", "DATABASE_URL"),
)
def test_limits_refuse_and_times_are_promised(tmp_path: Path, short_clip: Path) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    with serving(
        tmp_path,
        MAX_UPLOAD_BYTES="3MiB",
        METADATA_MAX_BYTES=300,
        MULTIPART_MAX_BYTES="1MiB",
        LOG_MAX_BYTES="256KiB",
        UPLOAD_EXPIRES_HOURS=2,
        SESSION_MAX_AGE_HOURS=3,
        BATCH_TTL_HOURS=5,
        TTL_MAX_HOURS=7,
        QUEUE_LIMIT=1,
        JOB_TIMEOUT_MAX_SECONDS=700,
        WORKERS=0,
        DATA_DIR="somewhere",
        DATABASE_URL=f"sqlite:///{elsewhere}",
    ) as (_, client):
        large = client.post("/files/", headers=TUS | {"Upload-Length": str(3 * 2**20 + 1)})
        problem(large, 413, "upload_too_large")
        headers = TUS | {"Upload-Length": "1", "Upload-Metadata": "filename " + "QUFB" * 75}
        problem(client.post("/files/", headers=headers), 400, "invalid_metadata")
        file = {"file": ("clip.mp4", bytes(2**20), "video/mp4")}
        assert client.post("/api/v1/upload", files=file).status_code == 413

        log = {"file": ("log.csv", as_csv(many_rows(2500)), "text/csv")}
        problem(client.post("/api/upload", files=log), 413, "log_too_large")

        made = client.post("/files/", headers=TUS | {"Upload-Length": "1"})
        expires = parsedate_to_datetime(made.headers["upload-expires"])
        assert hours_from_now(expires.isoformat()) == pytest.approx(2, abs=0.1)
        session = client.get(f"/api/v1/upload/{open_session(client)}").json()
        assert hours_from_now(session["expires_at"]) == pytest.approx(3, abs=0.1)

        _, batch_id = make_batch(client, short_clip.read_bytes())
        batch = f"/api/v1/batches/{batch_id}"
        assert hours_from_now(client.get(batch).json()["expires_at"]) == pytest.approx(5, abs=0.1)
        for hours, allowed in ((6.5, True), (7.5, False)):
            wanted = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
            moved = client.patch(batch, json={"expires_at": wanted})
            assert moved.is_success == allowed, moved.text

        assert ask_for_trim(client, batch_id, timeout_seconds=701).status_code == 422
        trim(client, batch_id, timeout_seconds=700)
        full = ask_for_trim(client, batch_id)
        problem(full, 429, "queue_full")
        assert int(full.headers["retry-after"]) > 0
    assert (tmp_path / "somewhere" / "instance.json").is_file()
    assert elsewhere.is_file()
    assert not (tmp_path / "somewhere" / "tidemill.db").exists()
    assert not (tmp_path / "data").exists()


@shows("DISK_RESERVE_BYTES", "CORS_ORIGINS")
def test_a_reserve_larger_than_the_disk_leaves_no_room_for_uploads(tmp_path: Path) -> None:
    origin = "https://app.example"
    with serving(tmp_path, DISK_RESERVE_BYTES="1000TiB", CORS_ORIGINS=origin) as (_, client):
        refused = client.post("/files/", headers=TUS | {"Upload-Length": "1"})
        assert problem(refused, 507, "no_space")["detail"]
        asked = {"Access-Control-Request-Method": "POST"}
        preflight = client.options("/api/v1/upload", headers=asked | {"Origin": origin})
        assert preflight.headers["access-control-allow-origin"] == origin
        # Pages of this machine may come in only unless others are named.
        local = client.get("/api/v1/jobs", headers={"Origin": "http://localhost:5173"})
        problem(local, 403, "origin_not_allowed")
        assert client.get("/api/v1/jobs", headers={"Origin": origin}).status_code == 200


# --- where it listens, and who may come in --------------------------------------------------------


@shows("HOST", "PORT", "LOG_FORMAT", "LOG_LEVEL")
def test_it_listens_and_talks_as_it_is_told(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.2", 0))) as probe:
        port = probe.getsockname()[1]
    variables_ = {
        "TIDEMILL_HOST": "127.0.0.2",
        "TIDEMILL_PORT": str(port),
        "TIDEMILL_LOG_FORMAT": "console",
        "TIDEMILL_LOG_LEVEL": "warning",
        "TIDEMILL_FFMPEG_PATH": "/nowhere/ffmpeg",
    }
    with service(tmp_path, wait=False, variables=variables_) as running:
        eventually(lambda: _answers("127.0.0.2", port), seconds=40, what="the service")
        assert not _answers("127.0.0.1", port)
        assert running.stop() == 0
        said = running.log_text()
    assert f"Tidemill is running on http://127.0.0.2:{port}" in said
    assert "ffmpeg.unusable" in said
    assert "service.started" not in said, "that is a line of the level info"
    assert '{"' not in said


def _answers(host: str, port: int) -> bool:
    try:
        return httpx.get(f"http://{host}:{port}/livez", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


@shows("PROCESSES")
def test_it_serves_in_as_many_processes_as_are_set(tmp_path: Path) -> None:
    with serving(tmp_path, PROCESSES=2) as (running, client):
        assert running.events("service.started")[0]["processes"] == 2
        assert len({line["pid"] for line in running.events("process.started")}) == 2
        assert client.get("/readyz").is_success


@shows("ROOT_PATH", "PUBLIC_URL", "TRUSTED_PROXIES", "ADMIN_KEY_FILE", "DRAIN_SECONDS")
def test_behind_a_proxy_it_knows_its_address_its_proxy_and_its_key(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    bearer = {"Authorization": f"Bearer {KEY}"}
    with serving(
        tmp_path,
        ROOT_PATH="/tide",
        PUBLIC_URL="https://video.example/tide",
        TRUSTED_PROXIES="127.0.0.2",
        ADMIN_KEY_FILE=key_file,
        DRAIN_SECONDS="0.5",
    ) as (running, client):
        problem(client.get("/api/v1/jobs"), 401, "credentials_required")
        client.headers.update(bearer)
        made = client.post("/files/", headers=TUS | {"Upload-Length": "1"})
        assert made.headers["location"].startswith("https://video.example/tide/files/")
        assert '"/tide/' in client.get("/docs").text.replace("'", '"')

        # The same site, if the proxy is believed that the page came by https.
        page = {
            "Host": "other.example",
            "Origin": "https://other.example:443",
            "X-Forwarded-Proto": "https",
        }
        assert client.get("/api/v1/jobs", headers=page).status_code == 403
        trusted = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(base_url=running.url, headers=bearer, transport=trusted) as proxy:
            assert proxy.get("/api/v1/jobs", headers=page).status_code == 200

        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 8, "the drain of ten seconds was not waited for"


# --- while bytes come in --------------------------------------------------------------------------


@shows("UPLOAD_READ_TIMEOUT_SECONDS", "LOCK_WAIT_SECONDS", "FSYNC")
def test_bodies_locks_and_syncs_go_by_their_settings(tmp_path: Path) -> None:
    with serving(
        tmp_path, UPLOAD_READ_TIMEOUT_SECONDS="0.5", LOCK_WAIT_SECONDS="0.2", FSYNC="patch"
    ) as (running, client):
        path = create(client, 1000)
        stored = running.folder / "data" / "uploads" / path.rpartition("/")[2]
        with SlowPatch(running.port, path, 0, 1000) as stalled:
            stalled.send(b"x" * 100)
            began = time.monotonic()
            assert stalled.answer() is None, "a stalled body is ended without an answer"
            assert time.monotonic() - began < 15
        eventually(lambda: stored.stat().st_size == 100, what="what came of it")

        with stored.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            began = time.monotonic()
            problem(patch(client, path, 100, b"y"), 423, "upload_locked")
            assert time.monotonic() - began < 4, "the default would wait for five seconds"

        trace = tmp_path / "trace"
        options = ("-y", "-e", "trace=fsync,fdatasync", "-o", str(trace))
        with strace(running.process.pid, *options, log=tmp_path / "strace.log"):
            assert patch(client, path, 100, b"y" * 100).status_code == 204
            synced = rf"f(data)?sync\(\d+<{re.escape(str(stored))}>"
            # With the default only a complete upload is synced.
            eventually(lambda: re.search(synced, trace.read_text()), what="the sync of the file")


# --- the sweeps -----------------------------------------------------------------------------------


@shows(
    *EVERY_SECOND,
    *("QUEUED_TTL_HOURS", "TOMBSTONE_DAYS", "WORKERS", "KEPT_CLIPS_HOURS", "KEPT_CLIPS_MAX_BYTES"),
)
def test_every_sweep_runs_again_and_again_and_takes_what_is_past_its_time(
    tmp_path: Path, short_clip: Path
) -> None:
    with serving(
        tmp_path,
        **EVERY_SECOND,
        QUEUED_TTL_HOURS=A_MOMENT,
        TOMBSTONE_DAYS=0,
        WORKERS=0,
        KEPT_CLIPS_HOURS=20 / 3600,
        KEPT_CLIPS_MAX_BYTES=100,
    ) as (running, client):
        older, newer = (_keep_clip(running, 60, used_seconds_ago=each) for each in (-50, -60))
        _, batch_id = make_batch(client, short_clip.read_bytes())
        job = f"/api/v1/jobs/{trim(client, batch_id)}"
        assert client.get(job).json()["status"] == "queued", "nobody runs it here"
        session = f"/api/v1/upload/{open_session(client)}"
        assert client.delete(session).status_code == 204

        eventually(lambda: not older.exists(), what="the end of a kept clip without room")
        idle = _keep_clip(running, 10, used_seconds_ago=30)
        eventually(lambda: not idle.exists(), what="the end of a kept clip that nobody uses")
        assert newer.exists()
        eventually(lambda: status_of(client, session) == 404, what="the tombstone's end")
        eventually(lambda: status_of(client, job) in {404, 410}, what="the queued job's end")
        eventually(
            lambda: all(len(_runs(running, sweep)) >= 2 for sweep in SweepName),
            what="two runs of every sweep",
        )


def _keep_clip(running: Service, size_bytes: int, *, used_seconds_ago: float) -> Path:
    """Keep a clip as a step of a job does; returns its file."""
    data, clip_id = running.folder / "data", uuid4().hex
    path = data / "cache" / clip_id
    path.write_bytes(b"z" * size_bytes)
    used = int((time.time() - used_seconds_ago) * 1_000_000)
    row = (clip_id, "owner", clip_id, clip_id, size_bytes, used, used)
    with closing(sqlite3.connect(data / "tidemill.db", timeout=10)) as connection, connection:
        connection.execute("INSERT INTO kept_clips VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    return path


def _runs(running: Service, name: SweepName) -> list[dict[str, Any]]:
    """The runs of a sweep that its interval brought, not the start."""
    found = [line for line in running.events("sweep.finished") if line["sweep"] == name]
    return [line for line in found if line["trigger"] != "start"]


@shows("KEEP_INPUTS_HOURS", "DELIVERY_GRACE_SECONDS", "TTL_COMPLETED_HOURS")
def test_what_has_served_goes_when_the_settings_say_so(tmp_path: Path, short_clip: Path) -> None:
    with serving(
        tmp_path,
        **EVERY_SECOND,
        KEEP_INPUTS_HOURS=0,
        DELIVERY_GRACE_SECONDS="0.5",
        TTL_COMPLETED_HOURS=f"{15 / 3600:.6f}",
    ) as (running, client):
        upload_id, batch_id = make_batch(client, short_clip.read_bytes())
        first = await_job(client, trim(client, batch_id, one_time=True))
        assert first["status"] == "completed", first
        stored = running.folder / "data" / "uploads" / upload_id
        eventually(lambda: not stored.exists(), what="the end of the input")
        lives = at(first["expires_at"]) - at(first["completed_at"])
        assert lives.total_seconds() == pytest.approx(15, abs=1)

        output = f"/api/v1/outputs/{first['outputs'][0]['id']}"
        got = client.get(output)
        assert len(got.content) == first["outputs"][0]["size_bytes"]
        gone = eventually(lambda: _gone(client, output), what="the end of what was delivered")
        assert gone["reason"] == "delivered"
        job = f"/api/v1/jobs/{first['id']}"
        eventually(lambda: _gone(client, job), seconds=30, what="the end of the job")


def _gone(client: httpx.Client, path: str) -> dict[str, Any] | None:
    answer = client.get(path)
    return dict(answer.json()) if answer.status_code == 410 else None


# --- jobs and FFmpeg ------------------------------------------------------------------------------


@pytest.fixture
def hanging_ffmpeg(tmp_path: Path) -> Path:
    """An FFmpeg that says what it can, and then does nothing for ever."""
    script = tmp_path / "ffmpeg-that-hangs"
    sleep = shutil.which("sleep")
    script.write_text(
        '#!/bin/sh\ncase "$*" in *-version*|*-encoders*|*-filters*) '
        f'exec {get_ffmpeg_exe()} "$@";; esac\nexec {sleep} 600\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


@shows(
    *("WORKERS", "JOB_TIMEOUT_SECONDS", "SYNC_TIMEOUT_SECONDS", "STALL_SECONDS", "FFMPEG_PATH"),
    *("SANDBOX", "TTL_FAILED_HOURS"),
)
def test_hanging_steps_end_by_the_limit_that_is_set_and_run_side_by_side(
    tmp_path: Path, short_clip: Path, hanging_ffmpeg: Path
) -> None:
    with serving(
        tmp_path,
        FFMPEG_PATH=hanging_ffmpeg,
        SANDBOX="off",
        WORKERS=3,
        JOB_TIMEOUT_SECONDS=2,
        SYNC_TIMEOUT_SECONDS=1,
        STALL_SECONDS=4,
        TTL_FAILED_HOURS=A_MOMENT,
        CLEANUP_INTERVAL_SECONDS=1,
    ) as (running, client):
        (found,) = running.events("ffmpeg.found")
        assert (found["source"], found["sandbox"]) == ("configured", "limits")
        _, batch_id = make_batch(client, short_clip.read_bytes())
        by_default = trim(client, batch_id)
        by_stall = [trim(client, batch_id, timeout_seconds=60) for _ in range(2)]
        late = client.post("/api/trim", files={"video": short_clip.read_bytes()}, data={"end": "1"})
        assert (late.status_code, late.json()["timeout_seconds"]) == (504, 1)

        eventually(lambda: _processing(client) == 3, what="three jobs at once")
        assert "stall" not in _error_of(running, by_default)
        for job_id in by_stall:
            assert "stall_seconds" in _error_of(running, job_id)
        paths = [f"/api/v1/jobs/{job_id}" for job_id in (by_default, *by_stall)]
        eventually(lambda: all(_gone(client, path) for path in paths), what="the failed jobs' end")


def _processing(client: httpx.Client) -> int:
    return len(client.get("/api/v1/jobs?status=processing").json()["items"])


def _error_of(running: Service, job_id: str) -> str:
    """The error of a job that fails and is soon gone."""

    def look() -> str | None:
        found = rows(running, f"SELECT error FROM jobs WHERE id = '{job_id}'")  # noqa: S608
        return str(found[0][0]) if found and "timeout" in str(found[0][0]) else None

    return str(eventually(look, seconds=30, what=f"the failure of job {job_id}"))


@shows("HEARTBEAT_SECONDS", "LEASE_SECONDS", "MAX_ATTEMPTS")
def test_a_silent_worker_is_lost_after_its_lease_and_has_only_its_attempts(
    tmp_path: Path, short_clip: Path, hanging_ffmpeg: Path
) -> None:
    settings = {"HEARTBEAT_SECONDS": "0.2", "LEASE_SECONDS": "1", "MAX_ATTEMPTS": "1"}
    with serving(tmp_path, **settings, FFMPEG_PATH=hanging_ffmpeg, SANDBOX="off", WORKERS=1) as (
        running,
        client,
    ):
        _, batch_id = make_batch(client, short_clip.read_bytes())
        job_id = trim(client, batch_id)
        beats: set[Any] = set()

        def beaten() -> bool:
            beats.update(
                rows(running, "SELECT heartbeat_at FROM jobs WHERE heartbeat_at IS NOT NULL")
            )
            return len(beats) >= 8

        began = time.monotonic()
        eventually(beaten, what="eight heartbeats")
        assert time.monotonic() - began < 12, "the default is one in two seconds"

        pause(running.process.pid, running.folder / "data" / "tidemill.db")
        try:
            stopped = time.monotonic()
            named = {f"TIDEMILL_{name}": value for name, value in settings.items()}
            done = eventually(
                lambda: _sweep_once(tmp_path, named, job_id, running), what="the loss"
            )
            assert time.monotonic() - stopped < 12, "the default lease is 15 seconds"
        finally:
            running.signal(signal.SIGCONT)
        assert done == ("failed", "worker_lost"), "three attempts are the default"


def _sweep_once(
    folder: Path, named: dict[str, str], job_id: str, running: Service
) -> tuple[str, str] | None:
    swept = run_command("sweep", "job_timeouts", folder=folder, TIDEMILL_DATA_DIR="data", **named)
    assert swept.returncode == 0, swept.stderr
    ((status, error),) = rows(running, f"SELECT status, error FROM jobs WHERE id = '{job_id}'")  # noqa: S608
    return (status, json.loads(error)["code"]) if status != "processing" else None


# --- what a clip may be ---------------------------------------------------------------------------


def make_clip(folder: Path, *, size: str, seconds: int, sounds: int, rate: int = 5) -> bytes:
    clip = folder / f"{size}-{seconds}-{sounds}.mp4"
    picture = ("-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}")
    sound = ("-f", "lavfi", "-i", f"sine=duration={seconds}")
    maps = [part for n in range(sounds + 1) for part in ("-map", str(n))]
    ffmpeg(*picture, *(sound * sounds), *maps, "-preset", "ultrafast", clip)
    return clip.read_bytes()


@shows("MEDIA_MAX_SECONDS", "MEDIA_MAX_PIXELS", "MEDIA_MAX_STREAMS")
@shows("MEDIA_MAX_FRAME_RATE", "MEDIA_MAX_GIGAPIXELS", "MEDIA_MAX_OUTPUT_BYTES", "CONCAT_MAX_CLIPS")
def test_clips_over_a_limit_are_refused_by_that_limit(tmp_path: Path) -> None:
    limits = {"SECONDS": "2.5", "PIXELS": 20_000, "STREAMS": 2, "FRAME_RATE": 24}
    limits |= {"GIGAPIXELS": "0.0003", "OUTPUT_BYTES": 3000}
    named = {f"MEDIA_MAX_{name}": each for name, each in limits.items()}
    with serving(tmp_path, CONCAT_MAX_CLIPS=2, **named) as (_, client):
        clip_id, batch_id = make_batch(
            client, make_clip(tmp_path, size="160x90", seconds=2, sounds=1)
        )
        inputs = [{"upload_id": clip_id, "order": order} for order in range(3)]
        wish = {"operation": "concatenate", "inputs": inputs, "params": {}}
        said = problem(client.post("/api/v1/jobs", json=wish), 422, "invalid_inputs")
        assert "1 to 2 clips, and 3 were given" in str(said)
        asked = ask_for_trim(client, batch_id)
        assert asked.status_code == 202
        failed = await_job(client, asked.json()["id"])
        assert "larger than a file may be" in failed["error"]["message"], failed
        for limit, size, seconds, sounds, rate in (
            ("seconds", "160x90", 4, 0, 5),
            ("pixels", "320x180", 2, 0, 5),
            ("streams", "160x90", 2, 2, 5),
            ("frame rate", "160x90", 2, 0, 25),
            ("gigapixels", "160x90", 2, 0, 12),
        ):
            clip = make_clip(tmp_path, size=size, seconds=seconds, sounds=sounds, rate=rate)
            _, batch_id = make_batch(client, clip)
            said = problem(ask_for_trim(client, batch_id), 422, "media_over_limits")
            assert re.search(limit, str(said)), said
