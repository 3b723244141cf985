"""Event streams on real sockets: of real jobs, through nginx and cut lines, hundreds at once."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.harness import Server, wait_for
from tests.e2e.nginx import Nginx
from tests.e2e.proxy import Proxy
from tests.e2e.wire import TUS, await_job, create, open_session, upload
from tests.fakes.event_source import Event, EventSource
from tests.fakes.measured import assert_all_within

STREAMS = 300
SOON_SECONDS = 3.0


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs no jobs: what waits changes only by a request."""
    server = Server(tmp_path_factory.mktemp("idle") / "data", {"WORKERS": 0}).start()
    yield server
    server.close()
    assert "Traceback" not in server.log_text(), server.log_text()[-8000:]


def make_batch(client: httpx.Client, clip: Path) -> dict[str, Any]:
    session_id = open_session(client)
    upload(client, clip.read_bytes(), session=session_id, filename="clip.mp4", filetype="video/mp4")
    response = client.post("/api/v1/batches", json={"session_id": session_id})
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


def start_job(client: httpx.Client, batch: dict[str, Any], **params: float) -> str:
    wish = {"operation": "trim", "params": params or {"end": 1}, "batch_id": batch["id"]}
    response = client.post("/api/v1/jobs", json=wish)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def events_of(job_id: str) -> str:
    return f"/api/v1/jobs/{job_id}/events"


def statuses(events: list[Event]) -> list[str]:
    return [json.loads(event.data)["status"] for event in events]


def test_a_job_and_its_batch_are_followed_from_the_start_to_their_end(
    shared_server: Server, clip: Path
) -> None:
    with shared_server.client() as api:
        batch = make_batch(api, clip)
        batch_path = f"/api/v1/batches/{batch['id']}/events"
        with EventSource(shared_server.port, batch_path).open() as whole:
            assert json.loads(whole.next().data) == batch
            job_id = start_job(api, batch, start=1, end=9)
            with EventSource(shared_server.port, events_of(job_id)).open() as stream:
                seen = list(stream.events())
            job = await_job(api, job_id)
            of_batch = list(whole.events())
        assert [event.name for event in seen] == ["state"] * (len(seen) - 1) + ["end"]
        assert json.loads(seen[-1].data) == job
        assert job["status"] == "completed", job
        assert "processing" in statuses(seen)
        told = [json.loads(event.data) for event in seen]
        progress = [each["progress"] for each in told]
        assert progress == sorted(progress)
        assert any(0 < each < 100 for each in progress), progress
        ids = [int(event.last_event_id) for event in seen]
        assert ids == sorted(set(ids))
        assert [event.name for event in of_batch][-1] == "end"
        assert statuses(of_batch)[-1] == "completed"
        assert json.loads(of_batch[-1].data) == api.get(f"/api/v1/batches/{batch['id']}").json()


@pytest.mark.parametrize("http_version", ["1.0", "1.1"])
def test_nginx_as_it_comes_passes_every_event_on_at_once(
    http_version: str, idle: Server, short_clip: Path, tmp_path: Path
) -> None:
    with idle.client() as api, Nginx(tmp_path, idle.port, http_version=http_version) as nginx:
        batch = make_batch(api, short_clip)
        jobs = [start_job(api, batch) for _ in range(2)]
        stream = EventSource(nginx.port, events_of(jobs[0]))
        whole = EventSource(nginx.port, f"/api/v1/batches/{batch['id']}/events")
        with stream, whole:
            for each in (stream, whole):
                begun = time.monotonic()
                each.open()
                assert each.next().at - begun < SOON_SECONDS
                assert each.headers["content-type"] == "text/event-stream; charset=utf-8"
                assert each.headers["transfer-encoding"] == "chunked"
                assert "content-encoding" not in each.headers
            begun = time.monotonic()
            assert api.post(f"/api/v1/jobs/{jobs[0]}/cancel").status_code == 200
            (end,) = stream.events()
            assert (end.name, statuses([end])) == ("end", ["cancelled"])
            assert end.at - begun < SOON_SECONDS
            change = whole.next()
            assert change.name == "state"
            assert change.at - begun < SOON_SECONDS
            # The same connection serves the next request, and the one after a 204.
            assert stream.open().status == 204
            stream.body()
            assert stream.open("1").status == 200
            assert [event.name for event in stream.events()] == ["end"]
            begun = time.monotonic()
            assert api.delete(f"/api/v1/batches/{batch['id']}?cancel=true").status_code == 204
            last = list(whole.events())
            assert last[-1].name in {"end", "gone"}
            assert last[-1].at - begun < SOON_SECONDS + 1
        wait_for(lambda: finished(idle, stream.path) == 3, "nginx to end the job's streams")
        wait_for(lambda: finished(idle, whole.path) == 1, "nginx to end the batch's stream")


def finished(server: Server, path: str) -> int:
    """How many requests for ``path`` are over, by the server's log."""
    return len(server.events("request.finished", path=path))


def test_a_client_that_leaves_nginx_leaves_the_service_too(
    idle: Server, short_clip: Path, tmp_path: Path
) -> None:
    with idle.client() as api, Nginx(tmp_path, idle.port) as nginx:
        job_id = start_job(api, make_batch(api, short_clip))
        streams = [EventSource(nginx.port, events_of(job_id)).open() for _ in range(20)]
        for stream in streams:
            stream.next()
        assert finished(idle, events_of(job_id)) == 0
        for stream in streams:
            stream.close()
        wait_for(lambda: finished(idle, events_of(job_id)) == 20, "the streams to end", 5)


def test_a_client_whose_line_was_cut_comes_back_and_misses_nothing(
    idle: Server, short_clip: Path
) -> None:
    with idle.client() as api, Proxy(idle.port) as line:
        batch = make_batch(api, short_clip)
        job_id = start_job(api, batch)
        with EventSource(line.port, events_of(job_id)).open() as stream:
            first = stream.next()
            line.cut_all()
            with pytest.raises(ConnectionError):
                list(stream.events())
            wait_for(lambda: finished(idle, events_of(job_id)) == 1, "the stream to end", 5)
            # As it was when it went: nothing to tell until something happens.
            stream.open()
            assert stream.last_event_id == first.last_event_id
            begun = time.monotonic()
            line.cut_all()
            with pytest.raises(ConnectionError):
                list(stream.events())
            assert api.post(f"/api/v1/jobs/{job_id}/cancel").status_code == 200
            stream.open()
            (end,) = stream.events()
            assert (end.name, statuses([end])) == ("end", ["cancelled"])
            assert end.at - begun < SOON_SECONDS + 1
            assert int(end.last_event_id) > int(first.last_event_id)
            assert stream.open().status == 204


def test_the_client_on_the_page_comes_back_by_itself_to_the_end(
    idle: Server, short_clip: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    (script,) = re.findall(r"```js\n(.*?)```", page, re.DOTALL)
    with idle.client() as api, Proxy(idle.port) as line:
        job_id = start_job(api, make_batch(api, short_clip))
        script += f"""
            const onEvent = (name, job) => console.log(name, job.id, job.status);
            await follow("{line.url}{events_of(job_id)}", {{ onEvent }});
            await follow("{line.url}/api/v1/jobs/{"0" * 32}/events", {{ onEvent }})
              .catch((problem) => console.log(JSON.parse(problem.message).code));
        """
        with subprocess.Popen(
            ["node", "--input-type=module", "--eval", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as node:
            try:
                assert node.stdout is not None
                told = [node.stdout.readline()]
                line.cut_all()
                assert api.post(f"/api/v1/jobs/{job_id}/cancel").status_code == 200
                told += node.communicate(timeout=20)[0].splitlines(keepends=True)
            finally:
                node.kill()
    assert told == [f"state {job_id} queued\n", f"end {job_id} cancelled\n", "job_not_found\n"]


def test_hundreds_of_open_streams_hold_up_nobody(idle: Server, short_clip: Path) -> None:
    with idle.client() as api, ExitStack() as stack:
        batch = make_batch(api, short_clip)
        jobs = [start_job(api, batch) for _ in range(3)]
        path = create(api, 1000, filename="later.mp4")
        memory = _memory_bytes(idle)
        streams = [
            stack.enter_context(EventSource(idle.port, events_of(jobs[n % 3])).open())
            for n in range(STREAMS)
        ]
        for stream in streams:
            stream.next()
        per_stream = (_memory_bytes(idle) - memory) / STREAMS
        left = list(range(3))

        def end_a_job() -> list[float]:
            took = [_head_seconds(api, path) for _ in range(40)]
            # A hundred of them read the end of the same job now.
            number = left.pop(0)
            assert api.post(f"/api/v1/jobs/{jobs[number]}/cancel").status_code == 200
            took += [_head_seconds(api, path) for _ in range(60)]
            ends = [event for stream in streams[number::3] for event in stream.events()]
            assert [event.name for event in ends] == ["end"] * (STREAMS // 3)
            return sorted(took)[:-3]  # a few may meet a busy machine

        assert_all_within(0.1, end_a_job)
        assert per_stream < 256 * 1024
    paths = {events_of(job_id) for job_id in jobs}
    wait_for(
        lambda: sum(finished(idle, path) for path in paths) == STREAMS, "the streams to end", 10
    )


def _head_seconds(api: httpx.Client, path: str) -> float:
    begun = time.monotonic()
    assert api.head(path, headers=TUS).status_code == 200
    return time.monotonic() - begun


def _memory_bytes(server: Server) -> int:
    return psutil.Process(server.pid).memory_info().rss


def test_a_stop_ends_streams_at_once_and_clients_find_everything_after_the_start(
    make_server: Callable[..., Server], short_clip: Path
) -> None:
    server = make_server({"WORKERS": 0, "DRAIN_SECONDS": 1}).start()
    with server.client() as api, ExitStack() as stack:
        batch = make_batch(api, short_clip)
        job_id = start_job(api, batch)
        paths = [events_of(job_id), f"/api/v1/batches/{batch['id']}/events"]
        streams = [stack.enter_context(EventSource(server.port, path)) for path in paths]
        for stream in streams:
            stream.open().next()
        begun = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        for stream in streams:
            assert list(stream.events()) == []
            assert stream.retry_ms == [3000, 2000]
        assert time.monotonic() - begun < SOON_SECONDS
        assert server._process is not None
        assert server._process.wait(10) == 0  # a second signal would cut the stop short
        for stream in streams:
            stream.close()
        server.start()
        assert api.post(f"/api/v1/jobs/{job_id}/cancel").status_code == 200
        for stream in streams:
            assert [event.name for event in stream.open().events()] == ["end"]
