"""``tidemill serve`` in its own process: it starts, says how it is, and stops without a trace."""

import base64
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import imageio_ffmpeg
import psutil
import pytest

from tests.runtime_process import (
    COMMAND,
    Service,
    clean_environment,
    eventually,
    run_command,
    service,
)

TUS = {"Tus-Resumable": "1.0.0"}


def create_upload(running: Service, length: int) -> str:
    answer = httpx.post(
        f"{running.url}/files/", headers={**TUS, "Upload-Length": str(length)}, timeout=10
    )
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def stored_upload(running: Service, content: bytes) -> str:
    path = create_upload(running, len(content))
    headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    sent = httpx.patch(running.url + path, content=content, headers=headers, timeout=30)
    assert sent.status_code == 204
    return path


def begin_patch(running: Service, path: str, *, length: int, first: bytes) -> socket.socket:
    """Send the head of a PATCH and the first bytes of its body, and leave it at that."""
    connection = running.connect()
    head = (
        f"PATCH {path} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nTus-Resumable: 1.0.0\r\n"
        f"Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    connection.sendall(head.encode() + first)
    return connection


def file_of(running: Service, path: str) -> Path:
    return running.folder / "data" / "uploads" / path.rsplit("/", 1)[1]


def test_it_serves_is_ready_and_stops_with_exit_code_0(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        assert running.get("/livez").json() == {"status": "ok"}
        ready = running.get("/readyz")
        assert ready.status_code == 200
        parts = {part["name"]: part["state"] for part in ready.json()["parts"]}
        assert parts.keys() >= {"database", "store", "engine", "ffmpeg", "scheduler"}
        assert set(parts.values()) == {"ok"}
        assert b"tidemill_jobs" in running.get("/metrics").content
        assert "server" not in running.get("/livez").headers

        assert running.stop() == 0

        assert [line["event"] for line in running.events()][-1] == "service.stopped"
        assert not [line for line in running.events() if line["level"] in {"error", "critical"}]
    left = {entry.name for entry in (tmp_path / "data").iterdir()}
    assert left == {"cache", "instance.json", "outputs", "run", "tidemill.db", "uploads", "work"}
    assert {entry.name for entry in (tmp_path / "data" / "run").iterdir()} == {"start.lock"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_either_signal_stops_it_promptly(tmp_path: Path, number: int) -> None:
    with service(tmp_path) as running:
        began = time.monotonic()
        running.signal(number)
        assert running.wait() == 0
        assert time.monotonic() - began < 9, "the drain of ten seconds was waited for"


@pytest.fixture
def slow_ffmpeg(tmp_path: Path) -> Path:
    """An FFmpeg that answers questions as the real one does, and then never ends."""
    script = tmp_path / "ffmpeg-slow"
    script.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *-version*|*-encoders*|*-filters*) exec {imageio_ffmpeg.get_ffmpeg_exe()} "$@";;'
        " esac\nexec sleep 600.25\n"
    )
    script.chmod(0o755)
    return script


def make_clip(path: Path) -> bytes:
    subprocess.run(
        [
            *(imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi"),
            *("-i", "testsrc=d=2:s=320x180:r=30", "-c:v", "libx264", "-pix_fmt", "yuv420p"),
            str(path),
        ],
        check=True,
        timeout=60,
    )
    return path.read_bytes()


def start_job(running: Service, clip: bytes) -> str:
    then = {"operation": "trim", "params": {"start": 0, "end": 1}}
    session = httpx.post(
        f"{running.url}/api/v1/upload", json={"expected_files": 1, "then": then}, timeout=10
    ).json()
    said = base64.b64encode(session["session_id"].encode()).decode()
    headers = {
        **TUS,
        "Upload-Length": str(len(clip)),
        "Upload-Metadata": f"session {said}",
        "Content-Type": "application/offset+octet-stream",
    }
    answer = httpx.post(f"{running.url}/files/", content=clip, headers=headers, timeout=20)
    assert answer.status_code == 201, answer.text
    return answer.headers["tidemill-job"]


def read_status(connection: socket.socket) -> int:
    """Read one whole answer, which may come in several pieces, and return its status."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def test_a_client_that_goes_on_sending_a_refused_body_is_hung_up_on(tmp_path: Path) -> None:
    # Browsers show an early answer only once the whole body is sent, or the connection has ended.
    with service(tmp_path) as running:
        path = create_upload(running, 10**9)
        head = (
            f"PATCH {path} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nTus-Resumable: 1.0.0\r\n"
            "Upload-Offset: 5\r\nContent-Type: application/offset+octet-stream\r\n"
            f"Content-Length: {10**9 - 5}\r\n\r\n"
        )
        with running.connect() as connection:
            connection.settimeout(10)
            connection.sendall(head.encode() + b"x" * 1000)
            assert read_status(connection) == 409
            began = time.monotonic()
            while time.monotonic() - began < 10:
                try:
                    connection.sendall(b"x" * 10_000)
                except OSError:  # reset or broken pipe, as it happens
                    break
                time.sleep(0.02)
            assert 1 < time.monotonic() - began < 9
        assert not file_of(running, path).exists()


def test_a_refused_body_that_soon_ends_leaves_the_connection_in_use(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        path = create_upload(running, 100)
        head = (
            f"PATCH {path} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nTus-Resumable: 1.0.0\r\n"
            "Upload-Offset: 5\r\nContent-Type: application/offset+octet-stream\r\n"
            "Content-Length: 95\r\n\r\n"
        )
        with running.connect() as connection:
            connection.settimeout(10)
            connection.sendall(head.encode() + b"x" * 50)
            assert read_status(connection) == 409
            connection.sendall(b"x" * 45)
            time.sleep(2.5)  # longer than it would linger
            head = f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n\r\n"
            connection.sendall(head.encode())
            assert read_status(connection) == 200


def children_of(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []  # it ended between the look and the question


@pytest.mark.parametrize("signals", [1, 2])
def test_no_child_survives_the_stop_and_the_job_runs_again_after_the_next_start(
    tmp_path: Path, slow_ffmpeg: Path, signals: int
) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    variables = {"TIDEMILL_FFMPEG_PATH": str(slow_ffmpeg)}
    variables["TIDEMILL_DRAIN_SECONDS"] = "0.5" if signals == 1 else "30"
    with service(tmp_path, variables=variables) as running:
        job = start_job(running, clip)
        children = eventually(
            lambda: [
                child for child in children_of(running.process) if "600.25" in command_of(child)
            ],
            what="the child",
        )
        assert children
        everyone = children_of(running.process)
        running.signal()
        if signals == 2:
            eventually(lambda: running.events("service.draining"), what="the drain")
            running.signal()
        code = running.wait()
        assert code == (0 if signals == 1 else 128 + signal.SIGTERM)
        _, alive = psutil.wait_procs(everyone, timeout=5)
        assert alive == []
    with service(tmp_path) as again:

        def done() -> dict[str, object] | None:
            shown: dict[str, object] = again.get(f"/api/v1/jobs/{job}").json()
            return shown if shown["status"] == "completed" else None

        shown = eventually(done, seconds=40, what="the job's end")
        assert shown["attempt"] == 2
        assert list((tmp_path / "data" / "work").rglob("*.mp4*")) == []


def test_a_loop_that_dies_stops_the_process_with_a_failure(tmp_path: Path) -> None:
    script = """
import sys
from app.infrastructure.worker.embedded import EmbeddedEngine
from app.server import serve
from app.settings import Settings

async def broken(self):
    raise RuntimeError("the claim loop broke")

EmbeddedEngine._claimable = broken
sys.exit(serve(Settings.load()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=clean_environment(TIDEMILL_PORT="0", TIDEMILL_LOG_FORMAT="json"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert done.returncode == 1, done.stderr
    failed = [line for line in lines if line["event"] == "service.failed"]
    assert failed[0]["part"] == "engine"
    assert "the claim loop broke" in failed[0]["reason"]
    assert lines[-1]["event"] == "service.stopped"


def test_a_head_without_end_is_refused(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        for head in (
            b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 200_000,
            b"GET /" + b"a" * 200_000,
            b"GET /livez HTTP/1.1\r\n" + b"".join(b"X-%d: b\r\n" % n for n in range(20_000)),
        ):
            with running.connect() as connection:
                connection.sendall(head)
                answer = b""
                while piece := connection.recv(4096):
                    answer += piece
                assert answer.startswith(b"HTTP/1.1 431 ")
        assert running.get("/livez", headers={"X-Long": "a" * 8000}).status_code == 200


def test_it_takes_as_many_open_files_as_it_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(before[1], 4096) if before[1] != resource.RLIM_INFINITY else 4096
    # Of the command only: it inherits what its starter has.
    starter = tmp_path / "starter"
    starter.write_text(f'#!/bin/sh\nulimit -Sn 256\nulimit -Hn {most}\nexec {COMMAND} "$@"\n')
    starter.chmod(0o755)
    monkeypatch.setattr("tests.runtime_process.COMMAND", starter)
    with service(tmp_path) as running:
        assert running.events("service.started")[0]["open_files"] == most
        limits = Path(f"/proc/{running.process.pid}/limits").read_text()
        (line,) = (each for each in limits.splitlines() if each.startswith("Max open files"))
        assert line.split()[3:5] == [str(most), str(most)]
        assert running.stop() == 0


def test_a_port_that_is_taken_is_a_clear_failure_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command("serve", "--port", str(port), folder=tmp_path)
    assert done.returncode == 1
    assert "already in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_the_console_says_what_to_try_next(tmp_path: Path) -> None:
    with service(tmp_path, wait=False, variables={"TIDEMILL_LOG_FORMAT": "console"}) as running:
        eventually(lambda: "Ctrl+C" in running.log_text(), seconds=40, what="the welcome")
        said = running.log_text()
        assert "Tidemill is running on http://127.0.0.1:" in said
        assert "/docs" in said
        assert "tidemill upload clip.mp4 --then trim --start 2 --end 7 -o out.mp4 --server" in said
        assert running.stop() == 0


def test_forwarded_headers_count_only_from_trusted_proxies(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32 + "\n")
    key.chmod(0o600)
    variables = {
        "TIDEMILL_ADMIN_KEY_FILE": str(key),
        "TIDEMILL_ROOT_PATH": "/tide",
        "TIDEMILL_TRUSTED_PROXIES": "127.0.0.1",
    }
    with service(tmp_path, variables=variables) as running:
        headers = {**TUS, "Upload-Length": "3", "Authorization": f"Bearer {'k' * 32}"}
        made = httpx.post(f"{running.url}/files/", headers=headers, timeout=10)
        assert made.status_code == 201
        assert made.headers["location"].startswith("/tide/files/")
        assert httpx.post(f"{running.url}/files/", headers=TUS, timeout=10).status_code == 401


def test_the_installed_command_is_there() -> None:
    assert COMMAND.is_file()


def upload_with_a_cut(url: str) -> None:
    """Send a file whose line is cut in the middle, go on at what HEAD tells, and fetch it."""
    body, sent = os.urandom(600_000), 400_000
    octets = {"Content-Type": "application/offset+octet-stream"}
    with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
        made = client.post("/files/", headers={**TUS, "Upload-Length": str(len(body))})
        path = made.headers["location"]
        headers = {"Host": "localhost", **TUS, **octets, "Upload-Offset": "0"}
        lines = [f"PATCH {path} HTTP/1.1", *(f"{name}: {told}" for name, told in headers.items())]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
        with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), 20) as line:
            line.sendall(head + body[:sent])

            def offset() -> int:
                return int(client.head(path, headers=TUS).headers["upload-offset"])

            eventually(lambda: offset() == sent, seconds=20, what="what was sent")
        headers = {**TUS, **octets, "Upload-Offset": str(sent)}
        done = client.patch(path, headers=headers, content=body[sent:])
        assert done.status_code == 204
        assert done.headers["tidemill-batch"]
        assert client.get(path).content == body


def test_it_runs_under_a_plain_uvicorn_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app"),
                *("--port", str(port), "--app-dir", str(Path(__file__).parents[2])),
            ],
            cwd=tmp_path,
            env=clean_environment(TIDEMILL_LOG_FORMAT="json"),
            stderr=log,
        )
    try:
        address = f"http://127.0.0.1:{port}/readyz"

        def ready() -> bool:
            try:
                return httpx.get(address, timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        eventually(ready, seconds=40, what="the start")
        made = httpx.post(
            f"http://127.0.0.1:{port}/files/",
            headers={
                **TUS,
                "Upload-Length": "3",
                "Content-Type": "application/offset+octet-stream",
            },
            content=b"abc",
            timeout=10,
        )
        assert made.status_code == 201
        assert made.headers["tidemill-batch"]
        upload_with_a_cut(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_start_that_plain_uvicorn_makes_is_refused_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", "0"),
            *("--app-dir", str(Path(__file__).parents[2])),
        ],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "thesis.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_interval_of_a_second_runs_its_sweeps_twice(tmp_path: Path) -> None:
    names = (*("UPLOAD_GC", "UNCLAIMED", "SESSION_SWEEP", "JOB_CHECK", "CLEANUP", "SPENT_INPUTS"),)
    variables = {f"TIDEMILL_{name}_INTERVAL_SECONDS": "1" for name in names}
    with service(tmp_path, variables=variables) as running:

        def counts() -> dict[str, int]:
            found: dict[str, int] = {}
            for line in running.events("sweep.finished"):
                if line["trigger"] == "interval":
                    found[line["sweep"]] = found.get(line["sweep"], 0) + 1
            return found

        eventually(
            lambda: len(counts()) == 8 and min(counts().values()) >= 2,
            seconds=30,
            what="two runs of each sweep",
        )
        assert running.stop() == 0


def test_a_scheduler_that_dies_stops_the_process_with_a_failure(tmp_path: Path) -> None:
    script = """
import sys
import app.main as main
from app.infrastructure.scheduler import CleanupScheduler
from app.server import serve
from app.settings import Settings

main.WATCH_SECONDS = 0.05
CleanupScheduler.is_alive = lambda self, now: False
sys.exit(serve(Settings.load()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=clean_environment(TIDEMILL_PORT="0", TIDEMILL_LOG_FORMAT="json"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert done.returncode == 1, done.stderr
    assert [line["part"] for line in lines if line["event"] == "service.failed"] == ["scheduler"]
