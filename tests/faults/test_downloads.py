"""Downloads from the installed command: many and slow, broken off, back to back, and byte for byte."""

import hashlib
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import wire
from tests.e2e.harness import Server, wait_for
from tests.fakes.direct import Blunt

MIB = 1024 * 1024
SLOW = 500
ANSWER_SECONDS = 0.1
MOST_MEMORY = 64 * MIB
"""For all slow downloads together: some 100 KiB each for request, task and protocol."""


@pytest.fixture(scope="module")
def data() -> bytes:
    return os.urandom(16 * MIB + 4321)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server for tests that look only at what they made themselves."""
    server = Server(tmp_path_factory.mktemp("downloads") / "data", {"WORKERS": 0}).start()
    yield server
    server.close()
    assert_quiet(server)


@pytest.fixture(scope="module")
def path(shared_server: Server, data: bytes) -> str:
    """Where the shared server has ``data``."""
    with client_of(shared_server) as client:
        return store(client, data)


def client_of(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=30, trust_env=False)


def store(client: httpx.Client, data: bytes) -> str:
    session = wire.open_session(client)
    location = wire.create(client, len(data), session=session, filename="clip.mp4")
    assert wire.patch(client, location, 0, data).status_code == 204
    return location


def open_files(server: Server) -> int:
    return len(server.held())


def threads(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/task").iterdir()))


def finished(server: Server, path: str) -> list[dict[str, Any]]:
    """The lines of the access log for one address."""
    lines = [json.loads(line) for line in server.log_text().splitlines() if line.startswith("{")]
    return [each for each in lines if each.get("path") == path and each.get("method") == "GET"]


def assert_quiet(server: Server) -> None:
    """Nothing in the log says that a client's leaving is our bug."""
    assert "ASGI" not in server.log_text()
    assert "Traceback" not in server.log_text()


@contextmanager
def slow_readers(port: int, path: str, count: int) -> Iterator[list[int]]:
    """So many clients that each read 4 KB a second; yields how much each has got of its answer."""
    got, stop = [0] * count, threading.Event()
    with ExitStack() as stack:
        clients = [stack.enter_context(Blunt(port, buffer=32_000)) for _ in range(count)]
        for client in clients:
            client.ask(path)

        def read() -> None:
            while not stop.wait(0.5):
                for number, client in enumerate(clients):
                    got[number] += len(client.socket.recv(2048))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield got
        finally:
            stop.set()
            reader.join(30)


def slowest_of(client: httpx.Client, location: str, times: int) -> list[float]:
    """Seconds that each of so many HEADs took, sorted."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        assert client.head(location, headers=wire.TUS).status_code == 200
        taken.append(time.perf_counter() - began)
        time.sleep(0.01)
    return sorted(taken)


def test_five_hundred_slow_downloads_leave_the_service_as_quick_and_as_small(
    make_server: Callable[..., Server], data: bytes
) -> None:
    server = make_server({"WORKERS": 0}).start()
    with client_of(server) as client:
        path, other = store(client, data), wire.create(client, 1000)
        client.get(path, headers={"range": "bytes=0-9"})
        slowest_of(client, other, 5)
        before = (open_files(server), threads(server))
        server.reset_peak_memory()
        memory = server.peak_memory_bytes()
        with slow_readers(server.port, path, SLOW) as got:
            wait_for(lambda: all(got), "every download to begin", 30)
            rounds = [slowest_of(client, other, 30) for _ in range(3)]
            at_work = open_files(server) - before[0]
            assert threads(server) - before[1] < 32  # pools fill up; none is a download's
        best = min(rounds, key=max)
        grown = server.peak_memory_bytes() - memory
        sys.stdout.write(
            f"HEAD beside {SLOW} downloads: median {1000 * statistics.median(best):.1f} ms, slowest"
            f" {1000 * max(best):.1f} ms; memory grown by {grown / MIB:.1f} MiB\n"
        )
        # The machine may be busy with other things in one of the rounds, but not in all.
        assert max(best) < ANSWER_SECONDS, rounds
        assert at_work >= 2 * SLOW
        assert grown < MOST_MEMORY
        wait_for(lambda: open_files(server) <= before[0] + 2, "every descriptor to be closed")
        assert hashlib.sha256(client.get(path).content).digest() == hashlib.sha256(data).digest()
    assert_quiet(server)


@pytest.mark.parametrize(
    "part", ["0-0", "1-4095", "4095-4096", "1048575-3145729", "16777216-", "-1", "-5000000"]
)
def test_a_part_has_exactly_its_bytes(
    shared_server: Server, path: str, data: bytes, part: str
) -> None:
    first, _, last = part.partition("-")
    start = int(first) if first else len(data) - int(last)
    end = int(last) + 1 if first and last else len(data)
    with Blunt(shared_server.port) as client:
        client.ask(path, range=f"bytes={part}")
        status, headers = client.head()
        assert status == 206
        assert headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
        assert client.read(end - start) == data[start:end]


def test_conditions_and_refusals_are_as_without_sendfile(
    shared_server: Server, path: str, data: bytes
) -> None:
    with client_of(shared_server) as client:
        head = client.head(path, headers=wire.TUS)
        assert head.status_code == 200
        whole = client.get(path)
        tag = whole.headers["etag"]
        assert whole.headers["content-length"] == str(len(data))
        part = {"range": "bytes=5-9"}
        assert client.get(path, headers=part | {"if-range": tag}).content == data[5:10]
        other = client.get(path, headers=part | {"if-range": '"x"'})
        assert (other.status_code, len(other.content)) == (200, len(data))
        assert client.get(path, headers={"if-none-match": tag}).status_code == 304
        refused = client.get(path, headers={"range": f"bytes={len(data)}-"})
        assert (refused.status_code, refused.headers["content-range"]) == (
            416,
            f"bytes */{len(data)}",
        )


def test_ten_downloads_come_one_after_the_other_on_one_connection(
    shared_server: Server, path: str, data: bytes
) -> None:
    seen = len(finished(shared_server, path))
    with Blunt(shared_server.port) as client:
        for _ in range(10):
            assert client.fetch(path) == data
    # The line of an earlier test's request may come late, and be among them.
    lines = wait_for(
        lambda: found if len(found := finished(shared_server, path)[seen:]) >= 10 else None,
        "ten lines in the log",
    )
    assert [(line["status"], line["bytes"]) for line in lines].count((200, len(data))) >= 10


def test_requests_sent_at_once_are_answered_in_their_order(
    shared_server: Server, path: str, data: bytes
) -> None:
    with Blunt(shared_server.port, buffer=64_000) as client:
        client.ask(path)
        client.ask("/livez")
        client.ask(path, range="bytes=100-2000099")
        client.ask(path, "HEAD", tus_resumable="1.0.0")
        client.ask(path, range="bytes=99999999-")
        client.ask(path, range="bytes=-7")
        for status, body in (
            (200, data),
            (200, None),
            (206, data[100:2000100]),
            (200, b""),
            (416, None),
            (206, data[-7:]),
        ):
            answered, headers = client.head()
            assert answered == status
            got = client.read(int(headers["content-length"]) if body != b"" else 0)
            assert body is None or got == body
    assert_quiet(shared_server)


@pytest.mark.parametrize("way", ["reset", "close", "half"])
@pytest.mark.parametrize("is_asking", [False, True])
def test_a_client_that_leaves_in_the_middle_leaves_nothing_open(
    shared_server: Server, path: str, way: str, *, is_asking: bool
) -> None:
    before = open_files(shared_server)
    with ExitStack() as stack:
        clients = [stack.enter_context(Blunt(shared_server.port, buffer=64_000)) for _ in range(20)]
        for client in clients:
            client.ask(path)
            client.head()
            client.read(1000)
            if is_asking:
                client.ask("/livez")  # which the server will not read before the download is over
        assert open_files(shared_server) >= before + 50
        for client in clients:
            if way == "reset":
                client.reset()
            elif way == "close":
                client.socket.close()
            elif not is_asking:
                client.socket.shutdown(1)
        if not (way == "half" and is_asking):  # says no goodbye: those stay until they leave
            wait_for(lambda: open_files(shared_server) <= before, "every descriptor to be closed")
    wait_for(lambda: open_files(shared_server) <= before, "every descriptor to be closed")
    assert_quiet(shared_server)


def test_a_client_that_leaves_while_an_answer_waits_for_the_one_before_leaves_nothing_open(
    shared_server: Server, path: str
) -> None:
    before = open_files(shared_server)
    for part in (1_000_000, 2_000_000, 3_000_000, 5_000_000):
        with Blunt(shared_server.port, buffer=8_000) as client:
            for _ in range(4):
                client.ask(path, range=f"bytes=0-{part}")
            client.read(1000)
            time.sleep(0.2)
            client.reset()
    wait_for(lambda: open_files(shared_server) <= before, "every descriptor to be closed")
    assert_quiet(shared_server)


def test_what_was_sent_of_a_broken_download_is_in_the_log(
    shared_server: Server, path: str, data: bytes
) -> None:
    seen = len(finished(shared_server, path))
    with Blunt(shared_server.port, buffer=64_000) as client:
        client.ask(path)
        client.head()
        client.read(1000)
        client.reset()
    (line,) = wait_for(lambda: finished(shared_server, path)[seen:], "a line in the log")
    assert 0 < line["bytes"] < len(data)


def test_a_file_deleted_while_it_is_sent_comes_to_its_end(shared_server: Server) -> None:
    data = os.urandom(12 * MIB)
    with client_of(shared_server) as control, Blunt(shared_server.port, buffer=64_000) as client:
        path = store(control, data)
        client.ask(path)
        client.head()
        first = client.read(1000)
        assert control.delete(path, headers=wire.TUS).status_code == 204
        assert control.get(path).status_code == 404
        assert first + client.read(len(data) - 1000) == data


def test_a_file_that_is_only_on_the_disk_comes_whole(
    shared_server: Server, path: str, data: bytes
) -> None:
    stored = shared_server.data / "uploads" / path.rpartition("/")[2]
    descriptor = os.open(stored, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    with Blunt(shared_server.port) as client:
        assert client.fetch(path) == data


def make_one_time(client: httpx.Client, clip: Path) -> tuple[str, str]:
    """Have a clip trimmed into a one-time output; return the job's id and the output's address."""
    then = {"operation": "trim", "params": {"end": 1}, "one_time": True}
    session = wire.open_session(client, expected_files=1, then=then)
    done = wire.upload(client, clip.read_bytes(), session=session, filename="clip.mp4")
    job = wire.await_job(client, done.headers["tidemill-job"])
    (output,) = job["outputs"]
    assert (output["status"], output["one_time"]) == ("available", True)
    return job["id"], output["url"]


def test_a_one_time_output_is_downloaded_kept_for_its_grace_and_swept(
    make_server: Callable[..., Server], short_clip: Path
) -> None:
    server = make_server({"DELIVERY_GRACE_SECONDS": 4, "DELIVERED_INTERVAL_SECONDS": 1}).start()
    with client_of(server) as client:
        job_id, url = make_one_time(client, short_clip)
        with Blunt(server.port) as reader:
            got = reader.fetch(url)
        assert b"ftyp" in got[:32]

        def status() -> str | None:
            outputs = client.get(f"/api/v1/jobs/{job_id}").json()["outputs"]
            return outputs[0]["status"] if outputs else None

        wait_for(lambda: status() == "delivered", "the delivery")
        assert client.get(url).content == got
        wait_for(lambda: client.get(url).status_code == 410, "the sweep")
        gone = wire.problem(client.get(url), 410, "output_gone")
        assert (gone["reason"], gone["sweep"]) == ("delivered", "delivered_outputs")
        assert client.get(f"/api/v1/jobs/{job_id}").json()["status"] == "completed"
        assert not (server.data / "outputs" / url.rpartition("/")[2]).exists()


def test_what_a_killed_process_did_not_record_was_not_delivered(
    make_server: Callable[..., Server], short_clip: Path
) -> None:
    server = make_server({"DELIVERY_GRACE_SECONDS": 1, "DELIVERED_INTERVAL_SECONDS": 1}).start()
    with client_of(server) as client:
        _, url = make_one_time(client, short_clip)
    with Blunt(server.port) as reader:
        got = reader.fetch(url)  # and stays, so that for a while nothing is certain
        server.kill()
    server.start()
    with client_of(server) as client:
        assert server.rows("SELECT count(*) FROM delivered_spans") == [(0,)]
        assert server.rows("SELECT status FROM outputs") == [("available",)]
        time.sleep(2.5)  # two rounds of the sweep
        assert client.get(url).content == got
