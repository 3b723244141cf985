"""SIGTERM in the middle of everything: offsets stay true, clients go on, jobs are handed back."""

import fcntl
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.harness import Server, strace, wait_for
from tests.e2e.node import CLIENTS, finish, start_upload
from tests.e2e.proxy import Proxy
from tests.e2e.wire import (
    PATCH_TYPE,
    TUS,
    SlowPatch,
    await_job,
    create,
    offset_of,
    open_session,
    patch,
    problem,
    upload,
)

MIB = 1024 * 1024
FORM = (
    "POST /api/v1/upload HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    "Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: 100000000\r\n\r\n"
    '--edge\r\nContent-Disposition: form-data; name="files"; filename="clip.mp4"\r\n\r\n'
)
"""The beginning of a form whose end never comes."""
MakeServer = Callable[..., Server]


def _stored(server: Server, path: str) -> Path:
    return server.data / "uploads" / path.rsplit("/", 1)[-1]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _signal(server: Server, number: int = signal.SIGTERM) -> None:
    """Send the signal and wait until the service says that it drains."""
    seen = len(server.events("service.draining"))
    os.kill(server.pid, number)
    wait_for(lambda: len(server.events("service.draining")) > seen, "the drain")


@contextmanager
def _stuck_download(
    server: Server, path: str, header: str = "Accept: */*"
) -> Iterator[socket.socket]:
    """A download of which nothing is read but its first bytes."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.settimeout(20)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{header}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(300).startswith(b"HTTP/1.1 20")
        yield connection


def _big_upload(api: httpx.Client) -> str:
    """More than any socket buffers hold; returns its path."""
    body = bytes(24 * MIB)
    path = create(api, len(body))
    assert patch(api, path, 0, body).status_code == 204
    return path


@pytest.mark.parametrize("client", CLIENTS)
def test_a_real_client_goes_on_by_itself_where_the_stop_parked_it(
    client: str, make_server: MakeServer, clip: Path, tmp_path: Path
) -> None:
    server = make_server({"DRAIN_SECONDS": 1.5}).start()
    body = clip.read_bytes()
    slowly = len(body) / 4
    with server.client() as api, Proxy(server.port, bytes_per_second=slowly) as proxy:
        big = _big_upload(api)
        before = set((server.data / "uploads").iterdir())
        wish = {
            "client": client,
            "endpoint": f"{proxy.url}/files/",
            "file": str(clip),
            "retryDelays": [250] * 160,
        }
        with start_upload(wish) as running:
            stored = wait_for(
                lambda: next(
                    (
                        path
                        for path in set((server.data / "uploads").iterdir()) - before
                        if _size(path) > len(body) // 8
                    ),
                    None,
                ),
                "bytes of the upload",
            )
            # Something else keeps the service draining: meanwhile the client knocks in vain.
            with _stuck_download(server, big):
                assert server.stop() == 0
            acknowledged = _size(stored)
            assert 0 < acknowledged < len(body)
            proxy.speed_up()
            server.start()
            told = finish(running)
    refused = [e for e in told.of("response") if e["method"] == "PATCH" and e["status"] == 423]
    assert refused, "it never asked while the service drained"
    assert told.success["headers"]["Tidemill-Batch"]
    assert told.patch_offsets[0] == 0
    assert set(told.patch_offsets[1:]) == {acknowledged}, "bytes were sent again, or skipped"
    assert len([e for e in told.of("request") if e["method"] == "POST"]) == 1
    assert stored.read_bytes() == body


def test_what_was_read_of_a_body_is_on_the_disk_and_the_next_start_says_so(
    make_server: MakeServer,
) -> None:
    server = make_server({"DRAIN_SECONDS": 30}).start()
    body = os.urandom(3 * MIB)
    sent = MIB + 4711
    with server.client() as api:
        path = create(api, len(body))
        with (
            SlowPatch(server.port, path, 0, len(body)) as slow,
            socket.create_connection(("127.0.0.1", server.port), 10) as form,
        ):
            slow.send(body[:sent])
            wait_for(lambda: _size(_stored(server, path)) == sent, "the bytes in the file")
            form.sendall(FORM.encode() + bytes(MIB))
            wait_for(lambda: list((server.data / "work").rglob("*")), "the form's first bytes")
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 10, "a body is not waited for"
            assert slow.answer() is None
    assert server.events("service.draining")[0]["parked"] == 2
    assert list((server.data / "work").rglob("*")) == []
    assert server.rows("SELECT count(*) FROM uploads") == [(1,)]
    ((synced,),) = server.rows("SELECT synced_offset FROM uploads")
    assert synced == sent
    server.start()
    with server.client() as api:
        assert offset_of(api, path) == sent
        assert patch(api, path, sent, body[sent:]).status_code == 204
        assert api.get(path).content == body


def test_while_it_drains_it_reads_and_answers_but_begins_nothing(
    make_server: MakeServer, short_clip: Path
) -> None:
    server = make_server({"DRAIN_SECONDS": 20}).start()
    with server.client() as api:
        big = _big_upload(api)
        batch = upload(api, short_clip.read_bytes()).headers["tidemill-batch"]
        job = {"operation": "trim", "params": {"end": 1}, "batch_id": batch}
        made = api.post("/api/v1/jobs", json=job)
        assert made.status_code == 202, made.text
        job_path = f"/api/v1/jobs/{made.json()['id']}"
        await_job(api, made.json()["id"])
        unfinished = create(api, 1000)
        assert patch(api, unfinished, 0, b"x" * 100).status_code == 204
        session = open_session(api, expected_files=2)
        rows = server.rows("SELECT count(*) FROM sessions")
        with _stuck_download(server, big) as download:
            _signal(server)
            for path in ("/livez", "/metrics", job_path, f"/api/v1/upload/{session}", unfinished):
                method = "HEAD" if path == unfinished else "GET"
                answer = api.request(method, path, headers=TUS)
                assert answer.status_code == 200, (path, answer.text)
                assert answer.headers["connection"] == "close"
            assert offset_of(api, unfinished) == 100
            ready = api.get("/readyz")
            assert ready.status_code == 503
            assert "draining" in ready.text
            posts = ("upload", "jobs", f"upload/{session}/batch", f"{job_path[8:]}/retry")
            for path in posts:
                refused = api.post(f"/api/v1/{path}", json=job)
                problem(refused, 503, "draining")
                assert int(refused.headers["retry-after"]) > 0
            problem(api.post(f"{job_path}/cancel"), 409, "job_finished")
            for refused in (
                patch(api, unfinished, 100, b"x" * 100),
                api.post("/files/", headers=TUS | {"Upload-Length": "5"}),
                api.post(
                    "/files/", headers=TUS | PATCH_TYPE | {"Upload-Length": "5"}, content=b"12345"
                ),
            ):
                problem(refused, 423, "temporarily_unavailable")
                assert int(refused.headers["retry-after"]) > 0
                assert refused.headers["tus-resumable"] == "1.0.0"
            with SlowPatch(server.port, unfinished, 100, 900) as slow:
                slow.send(b"x" * 10)
                told = slow.answer()
                assert told is not None, "the client never saw why it was refused"
                assert told.status == 423
            assert offset_of(api, unfinished) == 100
            assert api.delete(unfinished, headers=TUS).status_code == 204
            assert server.rows("SELECT count(*) FROM sessions")[0][0] <= rows[0][0]
            assert server.is_running
            left = 24 * MIB
            while left > 0 and (piece := download.recv(MIB)):
                left -= len(piece)
            assert left < 4096, "the download was cut"
        wait_for(lambda: not server.is_running, "the end: nothing is under way any more", 10)
    (drained,) = server.events("service.drained")
    assert drained["requests_left"] == drained["jobs_left"] == 0


def test_downloads_that_nobody_takes_or_confirms_are_cut_at_the_limit(
    make_server: MakeServer, short_clip: Path
) -> None:
    server = make_server({"DRAIN_SECONDS": 1}).start()
    with server.client() as api:
        big = _big_upload(api)
        batch = upload(api, short_clip.read_bytes(), filename="clip.mp4").headers["tidemill-batch"]
        job = {"operation": "trim", "params": {"end": 1}, "batch_id": batch, "one_time": True}
        output = f"/api/v1/jobs/{await_job(api, _submit(api, job))['id']}/output"
    with (
        _stuck_download(server, big) as whole,
        _stuck_download(server, big, "Range: bytes=5-") as part,
        _stuck_download(server, output) as unconfirmed,
    ):
        # Every byte came, and its client might still say no.
        wait_for(lambda: b"mdat" in unconfirmed.recv(MIB), "the film")
        began = time.monotonic()
        assert server.stop() == 0
        assert 1 <= time.monotonic() - began < 8
        for connection in (whole, part):
            assert _take(connection) < 20 * MIB
    assert server.events("service.requests_cut")[0]["requests"] == 3


def _take(connection: socket.socket) -> int:
    """Read to the end, however that comes, and return how much there was."""
    taken = 0
    try:
        while piece := connection.recv(MIB):
            taken += len(piece)
    except ConnectionError:
        return taken
    return taken


def _start_jobs(api: httpx.Client, body: bytes, *ends: float) -> list[str]:
    """Cuts of a clip up to each of ``ends`` (seconds); returns the ids of their jobs."""
    batch = upload(api, body, filename="clip.mp4").headers["tidemill-batch"]
    jobs = [
        {"operation": "trim", "params": {"start": 0.5, "end": end}, "batch_id": batch}
        for end in ends
    ]
    return [_submit(api, job) for job in jobs]


def _submit(api: httpx.Client, job: dict[str, Any]) -> str:
    made = api.post("/api/v1/jobs", json=job)
    assert made.status_code == 202, made.text
    return str(made.json()["id"])


def _job(api: httpx.Client, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/api/v1/jobs/{job_id}").json()
    return found


def _await_running(server: Server, job_id: str) -> None:
    wait_for(
        lambda: server.rows("SELECT 1 FROM jobs WHERE id = ? AND progress > 0", job_id),
        "a job under way",
        30,
    )


def _tries_left(job: dict[str, Any]) -> int:
    return int(job["max_attempts"]) - int(job["attempt"])


def test_jobs_go_back_to_the_queue_unharmed_and_each_is_done_once(
    make_server: MakeServer, clip: Path
) -> None:
    server = make_server({"DRAIN_SECONDS": 0.2, "WORKERS": 1}).start()
    with server.client() as api:
        running, queued = _start_jobs(api, clip.read_bytes(), 9.5, 1.5)
        _await_running(server, running)
        before = {each: _tries_left(_job(api, each)) for each in (running, queued)}
        assert server.stop() == 0
    assert server.survivors() == []
    (handed_back,) = server.events("job.requeued")
    assert handed_back["job_id"] == running
    assert list((server.data / "work").glob("*/*")) == []
    server.start({"DRAIN_SECONDS": 20})
    with server.client() as api:
        for each in (running, queued):
            job = await_job(api, each)
            assert job["status"] == "completed"
            assert _tries_left(job) == before[each], "the stop used up an attempt"
            assert len(job["outputs"]) == 1
            assert len(server.events("job.completed", job_id=each)) == 1
    assert len(list((server.data / "outputs").iterdir())) == 2
    assert len(server.events("job.claimed")) == 3


def test_a_running_job_may_end_while_the_next_one_is_not_begun(
    make_server: MakeServer, clip: Path
) -> None:
    server = make_server({"DRAIN_SECONDS": 30, "WORKERS": 1}).start()
    with server.client() as api:
        running, queued = _start_jobs(api, clip.read_bytes(), 9.5, 1.5)
        _await_running(server, running)
    assert server.stop() == 0
    rows = dict(server.rows("SELECT id, status FROM jobs"))
    assert rows == {running: "completed", queued: "queued"}
    assert [event["job_id"] for event in server.events("job.claimed")] == [running]


def test_event_streams_end_with_a_word_on_when_to_come_back(
    make_server: MakeServer, clip: Path
) -> None:
    server = make_server({"DRAIN_SECONDS": 20, "WORKERS": 0}).start()
    with server.client() as api:
        (job,) = _start_jobs(api, clip.read_bytes(), 9.5)
        with api.stream("GET", f"/api/v1/jobs/{job}/events") as stream:
            lines = stream.iter_lines()
            assert any(line.startswith("data:") for line in lines)
            began = time.monotonic()
            os.kill(server.pid, signal.SIGTERM)
            last = [line for line in lines if line and not line.startswith(":")][-1]
        assert re.fullmatch(r"retry: ?\d+", last), last
    wait_for(lambda: not server.is_running, "the end")
    assert time.monotonic() - began < 10, "the drain of twenty seconds was waited for"


def test_a_second_signal_exits_at_once_and_the_next_start_has_everything(
    make_server: MakeServer, clip: Path
) -> None:
    server = make_server({"DRAIN_SECONDS": 60, "WORKERS": 1}).start()
    with server.client() as api:
        (job,) = _start_jobs(api, clip.read_bytes(), 5)
        path = create(api, 3 * MIB)
        with SlowPatch(server.port, path, 0, 3 * MIB) as slow:
            slow.send(bytes(MIB))
            wait_for(lambda: _size(_stored(server, path)) == MIB, "the bytes")
            _await_running(server, job)
            _signal(server, signal.SIGTERM)
            began = time.monotonic()
            os.kill(server.pid, signal.SIGINT)
            wait_for(lambda: not server.is_running, "the end", 10)
            assert time.monotonic() - began < 10
    assert server.stop() == 128 + signal.SIGINT
    wait_for(lambda: server.survivors() == [], "the death of the children", 5)
    server.start({"DRAIN_SECONDS": 1})
    with server.client() as api:
        assert offset_of(api, path) == MIB
        assert await_job(api, job)["status"] == "completed"
    assert len(list((server.data / "outputs").iterdir())) == 1


def test_an_idle_stop_is_quick_and_keeps_no_idle_connection(make_server: MakeServer) -> None:
    server = make_server({"DRAIN_SECONDS": 30}).start()
    with server.client() as api:
        assert api.get("/livez").status_code == 200
        with socket.create_connection(("127.0.0.1", server.port), 10):
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 10
    phases = [event["phase"] for event in server.events("stop.phase_ended")]
    assert [name for name in phases if name in {"scheduler", "jobs", "uploads", "database"}] == [
        *("scheduler", "jobs", "uploads", "database")
    ]
    assert phases[-1] == "database"


def test_behind_a_proxy_it_says_for_the_whole_drain_that_it_is_not_ready(
    make_server: MakeServer, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 40 + "\n")
    key.chmod(0o600)
    proxied = {"TRUSTED_PROXIES": "127.0.0.1", "ADMIN_KEY_FILE": key, "DRAIN_SECONDS": 1.5}
    server = make_server(proxied).start()
    began = time.monotonic()
    _signal(server)
    said = []
    while (status := _ready_status(server)) is not None:
        said.append(status)
        time.sleep(0.1)
    assert 1.3 < time.monotonic() - began < 15
    assert set(said) == {503}
    assert len(said) >= 3  # a busy machine asks seldom
    wait_for(lambda: not server.is_running, "the end")
    assert server.stop() == 0


def test_behind_a_proxy_a_client_that_knocks_uses_up_one_retry_and_not_all(
    make_server: MakeServer, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 40 + "\n")
    key.chmod(0o600)
    proxied = {"TRUSTED_PROXIES": "127.0.0.1", "ADMIN_KEY_FILE": key, "DRAIN_SECONDS": 2}
    server = make_server(proxied).start()
    with server.client(headers={"Authorization": "Bearer " + "k" * 40}) as api:
        path = create(api, 10)
        _signal(server)
        wait_for(lambda: server.events("service.draining"), "the drain")
        began = time.monotonic()
        headers = {**TUS, **PATCH_TYPE, "Upload-Offset": "0"}
        response = api.patch(path, headers=headers, content=b"12345")
        assert response.status_code == 423
        assert response.headers["retry-after"]
        assert time.monotonic() - began > 1
    wait_for(lambda: not server.is_running, "the end")
    server.start()
    with server.client(headers={"Authorization": "Bearer " + "k" * 40}) as api:
        assert offset_of(api, path) == 0


def _ready_status(server: Server) -> int | None:
    """None once nobody listens any more."""
    try:
        return httpx.get(f"{server.url}/readyz", timeout=5, trust_env=False).status_code
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("seconds", [0.3, 0.9])
def test_a_start_may_be_stopped_at_any_moment(seconds: float, make_server: MakeServer) -> None:
    server = make_server().start(ready=False)
    time.sleep(seconds)
    began = time.monotonic()
    # Before it takes signals at all there is nothing to put away.
    assert server.stop() in {0, -signal.SIGTERM}
    assert time.monotonic() - began < 10
    server.start()
    assert server.stop() == 0


def test_a_start_that_waits_for_another_one_is_not_waited_for(make_server: MakeServer) -> None:
    server = make_server().start()
    assert server.stop() == 0
    with (server.data / "run" / "start.lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server.start(ready=False)
        wait_for(lambda: len(server.events("service.starting")) == 2, "the start")
        began = time.monotonic()
        assert server.stop() == 128 + signal.SIGTERM
        assert time.monotonic() - began < 8


def test_a_disk_that_hangs_keeps_the_process_no_longer_than_the_limits(
    make_server: MakeServer, tmp_path: Path
) -> None:
    server = make_server({"DRAIN_SECONDS": 0.2}).start()
    with server.client() as api:
        path = create(api, 2 * MIB)
        assert patch(api, path, 0, os.urandom(MIB)).status_code == 204
    hang = "inject=fsync,fdatasync:delay_enter=60000000"
    options = ("-P", str(_stored(server, path)), "-e", hang)
    with strace(server.pid, *options, log=tmp_path / "strace.log") as tracer:
        began = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        # The last thing it says: from there on it is the tracer that keeps it from being dead.
        wait_for(lambda: server.events("service.stop_cut_short"), "the end", 25)
        assert time.monotonic() - began < 18
        tracer.kill()
        wait_for(lambda: not server.is_running, "the end", 5)
    late = [event["phase"] for event in server.events("stop.phase_late")]
    assert late == ["uploads", "upload_files"]
    assert [event["phase"] for event in server.events("stop.phase_ended")][-1] == "database"
    assert server.stop() == 0
    server.start()
    with server.client() as api:
        assert offset_of(api, path) == MIB
