"""kill -9 at the worst moments: nothing acknowledged is lost, nothing happens twice, nothing stays."""

import os
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.frames import assert_is_cut
from tests.e2e.harness import Server, start_command, strace, wait_for
from tests.e2e.wire import (
    TUS,
    SlowPatch,
    await_job,
    create,
    offset_of,
    open_session,
    patch,
    upload,
)

MIB = 1024 * 1024
THEN = {"operation": "trim", "params": {"start": 0.5, "end": 1.5}}


def _upload_file(server: Server, path: str) -> Path:
    return server.data / "uploads" / path.rsplit("/", 1)[-1]


def _finish(api: httpx.Client, path: str, body: bytes) -> httpx.Response:
    """Resume as a client does, from the offset the server names; 423 asks to come back."""
    wait_for(lambda: api.head(path, headers=TUS).status_code == 200, "an answer to HEAD")
    offset = offset_of(api, path)
    if offset < len(body):
        assert patch(api, path, offset, body[offset:]).status_code == 204
    return api.head(path, headers=TUS)


def _assert_dead(children: list[psutil.Process], server: Server) -> None:
    def all_gone() -> bool:
        # A zombie runs no more: who inherits the orphans here may not be quick to bury them.
        return (
            all(not c.is_running() or c.status() == psutil.STATUS_ZOMBIE for c in children)
            and not server.survivors()
        )

    wait_for(all_gone, f"the death of {children} and {server.survivors()}", 5)


def _remove_all(api: httpx.Client, server: Server, job_id: str, batch_id: str) -> None:
    assert api.delete(f"/api/v1/jobs/{job_id}").status_code == 204
    assert api.delete(f"/api/v1/batches/{batch_id}").status_code == 204
    assert server.leftovers() == []


def test_killed_in_the_middle_of_a_patch_it_goes_on_byte_for_byte(
    server: Server, clip: Path
) -> None:
    body = clip.read_bytes()
    half = len(body) // 2
    with server.client() as api:
        path = create(api, len(body), filename="clip.mp4")
        acknowledged = MIB
        assert patch(api, path, 0, body[:acknowledged]).status_code == 204
        with SlowPatch(server.port, path, acknowledged, len(body) - acknowledged) as under_way:
            under_way.send(body[acknowledged:half])
            stored = _upload_file(server, path)
            wait_for(lambda: stored.stat().st_size > 2 * acknowledged, "bytes of the second PATCH")
            children = server.kill()
    _assert_dead(children, server)
    server.start()
    with server.client() as api:
        offset = offset_of(api, path)
        assert offset == stored.stat().st_size
        assert acknowledged < offset <= half
        finished = _finish(api, path, body)
        assert api.get(path).content == body
        batch_id = finished.headers["tidemill-batch"]
        assert [b["id"] for b in api.get("/api/v1/batches").json()["items"]] == [batch_id]
        assert api.delete(f"/api/v1/batches/{batch_id}").status_code == 204
    assert server.leftovers() == []


@pytest.mark.parametrize("finisher", ["the start", "a client that asks again"])
def test_killed_between_the_last_byte_and_completion_the_batch_exists_once(
    finisher: str, server: Server, short_clip: Path, tmp_path: Path
) -> None:
    body = short_clip.read_bytes()
    with server.client() as api:
        session_id = open_session(api, expected_files=1, then=THEN)
        path = create(api, len(body), filename="clip.mp4", session=session_id)
        stored = _upload_file(server, path)
        slow_sync = "inject=fsync,fdatasync:delay_enter=20000000"
        with (
            strace(
                server.pid, "-P", str(stored), "-e", slow_sync, log=tmp_path / "strace.log"
            ) as tracer,
            SlowPatch(server.port, path, 0, len(body)) as under_way,
        ):
            under_way.send(body)
            wait_for(
                lambda: stored.exists() and stored.stat().st_size == len(body), "the last byte"
            )
            status = server.rows("SELECT status FROM uploads")
            children = server.kill(tracer)
        assert status == [("receiving",)], "it was completed before its last byte was safe"
    _assert_dead(children, server)
    server.start({"UNCLAIMED_INTERVAL_SECONDS": 3600})
    with server.client() as api:
        if finisher == "the start":
            # Killed in a sweep, the process took its lease along: that has to run out first.
            wait_for(
                lambda: api.get(f"/api/v1/upload/{session_id}").json()["batch_id"], "the batch", 45
            )
        head = _finish(api, path, body)
        batch_id, job_id = head.headers["tidemill-batch"], head.headers["tidemill-job"]
        assert await_job(api, job_id)["status"] == "completed"
        assert [b["id"] for b in api.get("/api/v1/batches").json()["items"]] == [batch_id]
        assert [j["id"] for j in api.get("/api/v1/jobs").json()["items"]] == [job_id]
        _remove_all(api, server, job_id, batch_id)


def _published_row(server: Server) -> bool:
    return bool(server.rows("SELECT 1 FROM outputs WHERE status = 'publishing'"))


def _published_file(server: Server) -> bool:
    return any((server.data / "outputs").glob("*"))


@pytest.mark.parametrize(
    ("delay", "reached"),
    [
        ("delay_enter", _published_row),
        ("delay_exit", _published_file),
    ],
    ids=["after the row", "after the rename"],
)
def test_killed_while_a_job_publishes_it_ends_once(
    delay: str,
    reached: Callable[[Server], bool],
    server: Server,
    clip: Path,
    tmp_path: Path,
) -> None:
    renames = f"inject=rename,renameat,renameat2:{delay}=5000000"
    with server.client() as api:
        then = {"operation": "trim", "params": {"start": 2, "end": 7}}
        session_id = open_session(api, expected_files=1, then=then)
        finished = upload(api, clip.read_bytes(), filename="clip.mp4", session=session_id)
        batch_id, job_id = finished.headers["tidemill-batch"], finished.headers["tidemill-job"]
        wait_for(
            lambda: api.get(f"/api/v1/jobs/{job_id}").json()["status"] == "processing", "a start"
        )
        # Attached while FFmpeg works: its own calls are not followed, the server's all are.
        with strace(server.pid, "-e", renames, log=tmp_path / "strace.log") as tracer:
            wait_for(lambda: reached(server), "the middle of publishing", 60)
            assert api.get(f"/api/v1/jobs/{job_id}").json()["status"] == "processing"
            children = server.kill(tracer)
    _assert_dead(children, server)
    server.start()
    _assert_job_ends_once(server, job_id, batch_id, clip, tmp_path)


def _half_made(server: Server) -> bool:
    """Whether FFmpeg has written some of its result."""
    made = (server.data / "work").rglob("*.part")
    return any(path.stat().st_size > MIB // 2 for path in made)


@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_killed_in_the_middle_of_ffmpeg_the_job_runs_again_and_no_child_survives(
    sandbox: str, make_server: Callable[..., Server], clip: Path, tmp_path: Path
) -> None:
    server = make_server({"SANDBOX": sandbox}).start()
    trim = ("--then", "trim", "--start", "2", "--end", "7", "-o", tmp_path / "fetched.mp4")
    upload = ("upload", clip, *trim, "--server", server.url)
    with start_command(*upload, home=tmp_path) as command, server.client() as api:
        wait_for(lambda: _half_made(server), "FFmpeg to be in the middle", 30)
        children = server.kill()
        assert children, "FFmpeg was not running"
        _assert_dead(children, server)
        assert _half_made(server), "nothing was in the middle of anything"
        server.start()
        (job,) = api.get("/api/v1/jobs").json()["items"]
        # The command that waits for the job notices no more than a pause.
        _, messages = command.communicate(timeout=60)
    assert command.returncode == 0, messages
    assert "The server is back." in messages
    assert_is_cut(tmp_path / "fetched.mp4", clip, start=2, end=7)
    _assert_job_ends_once(server, job["id"], job["batch_id"], clip, tmp_path)


def _assert_job_ends_once(
    server: Server, job_id: str, batch_id: str, clip: Path, tmp_path: Path
) -> None:
    with server.client() as api:
        job = await_job(api, job_id)
        assert job["status"] == "completed", job
        assert job["attempt"] == 2
        (output,) = job["outputs"]
        (tmp_path / "out.mp4").write_bytes(api.get(output["url"]).content)
        assert_is_cut(tmp_path / "out.mp4", clip, start=2, end=7)
        assert os.listdir(server.data / "outputs") == [output["id"]]  # noqa: PTH208 - names
        assert [p for p in (server.data / "work").rglob("*") if p.is_file()] == []
        assert len(api.get("/api/v1/jobs").json()["items"]) == 1
        _remove_all(api, server, job_id, batch_id)
