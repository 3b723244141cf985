"""One writer per upload and the newest wins; bodies that stall or break off; disks that fail."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.domain.errors import DatabaseBusy
from app.domain.tombstones import Reason, ThingKind
from app.domain.uploads import FsyncMode, UploadStatus
from app.services.burial import bury_upload
from tests.fakes.measured import assert_all_within, timed
from tests.fakes.tus_client import (
    OFFSET_TYPE,
    VERSION,
    RawRequest,
    TusClient,
    code_of,
    encoded,
    id_of,
    problem_of,
    raw_patch,
    until,
)
from tests.fakes.tus_server import TusConfig, TusServer, tus_server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TusServer]:
    with tus_server(tmp_path / "data") as running:
        yield running


@pytest.fixture
def tus(server: TusServer) -> Iterator[TusClient]:
    with TusClient(server.url) as client:
        yield client


def size_of(server: TusServer, upload_id: str) -> int:
    file = server.file(upload_id)
    return file.stat().st_size if file.exists() else 0


@contextmanager
def process(root: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in a process of its own, and its port."""
    command = [sys.executable, "-m", "tests.fakes.tus_server", str(root), *more]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            port = int(running.stdout.readline())
            threading.Thread(target=running.stdout.read, daemon=True).start()
            url = f"http://127.0.0.1:{port}/livez"
            until(lambda: _answers(url), seconds=20, what="the server")
            yield running, port
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.TransportError:
        return False


# --- the newest wins -----------------------------------------------------------------------------


def test_a_retry_goes_on_within_a_second_while_the_old_patch_stalls(
    server: TusServer, tus: TusClient
) -> None:
    data = os.urandom(1_000_000)

    def tries() -> list[float]:
        took: list[float] = []
        for _ in range(3):
            upload_id = tus.new(len(data))
            with raw_patch(server.port, upload_id, 0, len(data)) as stalled:
                stalled.send(data[:400_000])
                until(partial(_has, server, upload_id, 400_000))
                with timed(took):
                    offset = tus.offset(upload_id)
                    response = tus.patch(upload_id, offset, data[offset:])
                assert (offset, response.status_code) == (400_000, 204)
                status, headers, body = stalled.answer()
                assert (status, headers["connection"]) == (423, "close")
                assert problem_of(body)["code"] == "upload_locked"
            assert server.file(upload_id).read_bytes() == data
        return took

    assert_all_within(1, tries)


def _has(server: TusServer, upload_id: str, size: int) -> bool:
    return size_of(server, upload_id) == size


def test_nobody_else_waits_while_a_retry_takes_a_stalled_upload_over(
    server: TusServer, tus: TusClient
) -> None:
    data, other = os.urandom(1_000_000), tus.new(10)

    def watched() -> list[float]:
        upload_id = tus.new(len(data))
        times, stop = list[float](), threading.Event()

        def watch() -> None:
            with TusClient(server.url) as client:
                while not stop.is_set():
                    with timed(times):
                        assert client.head(other).status_code == 200
                    with timed(times):
                        assert client.http.get("/livez").status_code == 200

        with (
            ThreadPoolExecutor(1) as pool,
            raw_patch(server.port, upload_id, 0, len(data)) as stalled,
        ):
            stalled.send(data[:400_000])
            until(partial(_has, server, upload_id, 400_000))
            watcher = pool.submit(watch)
            until(lambda: times)
            try:
                assert tus.patch(upload_id, 400_000, data[400_000:]).status_code == 204
            finally:
                stop.set()
            watcher.result(20)
        return times

    assert_all_within(0.1, watched)


def test_a_newcomer_at_an_old_offset_gets_409_and_asks_again(
    server: TusServer, tus: TusClient
) -> None:
    data = os.urandom(500_000)
    upload_id = tus.new(len(data))
    with raw_patch(server.port, upload_id, 0, len(data)) as stalled:
        stalled.send(data[:300_000])
        until(lambda: size_of(server, upload_id) == 300_000)
        response = tus.patch(upload_id, 0, data)
        assert (response.status_code, code_of(response)) == (409, "offset_mismatch")
        assert response.headers["upload-offset"] == "300000"
        assert tus.patch(upload_id, 300_000, data[300_000:]).status_code == 204
    assert server.file(upload_id).read_bytes() == data


def test_of_many_stalled_writers_the_newest_holds_the_upload(
    server: TusServer, tus: TusClient
) -> None:
    data = os.urandom(900_000)
    upload_id = tus.new(len(data))
    stalled: list[RawRequest] = []
    try:
        for turn in range(8):
            start = turn * 100_000
            request = raw_patch(server.port, upload_id, start, len(data) - start)
            stalled.append(request)
            request.send(data[start : start + 100_000])
            wanted = start + 100_000
            until(lambda wanted=wanted: size_of(server, upload_id) == wanted)  # type: ignore[misc]
        assert tus.patch(upload_id, 800_000, data[800_000:]).status_code == 204
        for request in stalled:
            assert request.answer()[0] == 423
    finally:
        for request in stalled:
            request.socket.close()
    assert server.file(upload_id).read_bytes() == data


def test_two_processes_contend_for_one_upload(tmp_path: Path) -> None:
    root = tmp_path / "data"
    data = os.urandom(800_000)
    with (
        process(root) as (_, first_port),
        process(root) as (_, second_port),
        TusClient(f"http://127.0.0.1:{first_port}") as first,
        TusClient(f"http://127.0.0.1:{second_port}") as second,
    ):

        def contend() -> list[float]:
            took: list[float] = []
            upload_id = first.new(len(data))
            file = root / "uploads" / upload_id
            with raw_patch(first_port, upload_id, 0, len(data)) as stalled:
                stalled.send(data[:300_000])
                until(lambda: file.exists() and file.stat().st_size == 300_000)
                with timed(took):
                    response = second.patch(upload_id, 300_000, data[300_000:500_000])
                assert response.status_code == 204
                assert stalled.answer()[0] == 423
            with raw_patch(second_port, upload_id, 500_000, 300_000) as stalled:
                stalled.send(data[500_000:600_000])
                until(lambda: file.stat().st_size == 600_000)
                assert file.read_bytes() == data[:600_000]
                with timed(took):
                    assert first.delete(upload_id).status_code == 204
                assert stalled.answer()[0] == 423
            assert second.head(upload_id).status_code == 404
            assert not file.exists()
            return took

        assert_all_within(1, contend)


def test_a_writer_that_does_not_let_go_makes_the_newcomer_wait_and_then_423(
    tmp_path: Path,
) -> None:
    with (
        tus_server(tmp_path / "data", TusConfig(lock_wait_seconds=0.4)) as server,
        TusClient(server.url) as tus,
    ):
        upload_id = tus.new(10)
        hold = server.parts.locks.hold(upload_id, wait_seconds=0)
        server.do(hold.__aenter__())
        began = time.perf_counter()
        response = tus.patch(upload_id, 0, b"hello")
        assert 0.3 < time.perf_counter() - began < 10
        assert (response.status_code, code_of(response)) == (423, "upload_locked")
        assert "retry-after" in response.headers
        # Readers never lock.
        assert_all_within(0.1, lambda: [_seconds_of_head(tus, upload_id) for _ in range(5)])
        server.do(hold.__aexit__(None, None, None))
        assert tus.patch(upload_id, 0, b"hello").status_code == 204


def _seconds_of_head(tus: TusClient, upload_id: str) -> float:
    took: list[float] = []
    with timed(took):
        assert tus.offset(upload_id) == 0
    return took[0]


def test_termination_stops_the_writer_and_nothing_comes_back(
    server: TusServer, tus: TusClient
) -> None:
    def terminate() -> list[float]:
        took: list[float] = []
        upload_id = tus.new(1_000_000)
        with raw_patch(server.port, upload_id, 0, 1_000_000) as stalled:
            stalled.send(b"x" * 200_000)
            until(lambda: size_of(server, upload_id) == 200_000)
            with timed(took):
                assert tus.delete(upload_id).status_code == 204
            assert stalled.answer()[0] == 423
        assert tus.head(upload_id).status_code == 404
        assert list((server.root / "uploads").iterdir()) == []
        assert server.read(lambda tx: tx.uploads.find(upload_id)) is None
        return took

    assert_all_within(1, terminate)


@pytest.mark.parametrize("size", [1_000, 2_000])
def test_a_body_whose_upload_was_superseded_meanwhile_is_410_and_no_success(
    server: TusServer, tus: TusClient, size: int
) -> None:
    upload_id = tus.new(2_000)
    row = server.read(lambda tx: tx.uploads.find(upload_id))
    with raw_patch(server.port, upload_id, 0, size) as overtaken:
        overtaken.send(b"x" * 500)
        until(lambda: size_of(server, upload_id) == 500)
        server.do(
            server.parts.db.write(
                lambda tx: bury_upload(
                    tx, row, reason=Reason.SUPERSEDED, sweep=None, now=datetime.now(UTC)
                )
            )
        )
        overtaken.send(b"x" * (size - 500))
        status, _, body = overtaken.answer()
    assert (status, problem_of(body)["reason"]) == (410, "superseded")
    assert tus.head(upload_id).status_code == 410


# --- bodies that break off -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("chunked", [False, True])
def test_what_arrived_before_the_client_left_is_kept(
    server: TusServer, tus: TusClient, how: str, *, chunked: bool
) -> None:
    data = os.urandom(600_000)
    upload_id = tus.new(len(data))
    with raw_patch(server.port, upload_id, 0, None if chunked else len(data)) as leaving:
        body = data[:250_000]
        leaving.send(b"3d090\r\n" + body if chunked else body)
        if how == "reset":
            until(lambda: size_of(server, upload_id) == len(body))
            linger = struct.pack("ii", 1, 0)
            leaving.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    until(lambda: size_of(server, upload_id) == len(body))
    offset = tus.offset(upload_id)
    assert offset == len(body)
    assert tus.patch(upload_id, offset, data[offset:]).status_code == 204
    assert server.file(upload_id).read_bytes() == data


def test_a_client_that_leaves_with_its_last_byte_has_finished(
    server: TusServer, tus: TusClient
) -> None:
    data = os.urandom(150_000)
    upload_id = tus.new(len(data))
    with raw_patch(server.port, upload_id, 0, len(data)) as leaving:
        leaving.send(data)
    until(
        lambda: server.read(lambda tx: tx.uploads.find(upload_id)).status is UploadStatus.COMPLETED
    )
    assert tus.head(upload_id).headers["tidemill-batch"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_stalls_is_hung_up_on_and_its_bytes_are_kept(
    tmp_path: Path, *, chunked: bool
) -> None:
    with (
        tus_server(tmp_path / "data", TusConfig(read_timeout_seconds=1.2)) as server,
        TusClient(server.url) as tus,
    ):
        upload_id = tus.new(10_000)
        with raw_patch(server.port, upload_id, 0, None if chunked else 10_000) as stalled:
            stalled.send(b"fa0\r\n" + b"x" * 4000 if chunked else b"x" * 4000)
            began = time.perf_counter()
            assert stalled.answer() == (0, {}, b"")
            assert 1 < time.perf_counter() - began < 10
        assert tus.offset(upload_id) == 4000
        row = server.read(lambda tx: tx.uploads.find(upload_id))
        assert row.recorded_offset == 4000
        # Slow is not stalled.
        with raw_patch(server.port, upload_id, 4000, 6000) as slow:
            for _ in range(6):
                slow.send(b"y" * 1000)
                time.sleep(0.3)
            assert slow.answer()[0] == 204


def test_a_server_that_cannot_hang_up_answers_423(tmp_path: Path) -> None:
    config = TusConfig(read_timeout_seconds=1)
    with (
        tus_server(tmp_path / "data", config, protocol=HttpToolsProtocol) as server,
        TusClient(server.url) as tus,
    ):
        upload_id = tus.new(10_000)
        with raw_patch(server.port, upload_id, 0, 10_000) as stalled:
            stalled.send(b"x" * 4000)
            status, headers, _ = stalled.answer()
            assert (status, headers["connection"]) == (423, "close")
        assert tus.offset(upload_id) == 4000


def test_a_zero_byte_creation_whose_body_stalls_leaves_nothing(tmp_path: Path) -> None:
    with tus_server(tmp_path / "data", TusConfig(read_timeout_seconds=0.3)) as server:
        headers = VERSION | OFFSET_TYPE | {"Upload-Length": "0", "Transfer-Encoding": "chunked"}
        with RawRequest(server.port, "POST", "/files/", headers) as stalled:
            assert stalled.answer()[0] == 0
        assert server.read(lambda tx: tx.uploads.totals()) == {}


@pytest.mark.parametrize("how", ["leaves", "stalls"])
def test_a_creation_whose_body_breaks_off_leaves_nothing(tmp_path: Path, how: str) -> None:
    # The client was never told an address, and each try would promise its whole length again.
    config = TusConfig(read_timeout_seconds=1.5 if how == "stalls" else 10)
    with tus_server(tmp_path / "data", config) as server:
        headers = VERSION | OFFSET_TYPE | {"Upload-Length": "2000000", "Content-Length": "2000000"}
        with RawRequest(server.port, "POST", "/files/", headers) as cut:
            cut.send(b"x" * 300_000)
            uploads = server.root / "uploads"
            until(lambda: [file.stat().st_size for file in uploads.iterdir()] == [300_000])
            if how == "stalls":
                assert cut.answer()[0] == 0
        until(lambda: server.read(lambda tx: tx.uploads.totals()) == {})
        until(lambda: list(uploads.iterdir()) == [])
        assert server.read(lambda tx: tx.uploads.unwritten_bytes()) == 0


def test_a_killed_server_loses_nothing_that_was_written(tmp_path: Path) -> None:
    root = tmp_path / "data"
    data = os.urandom(3_000_000)
    with process(root) as (running, port), TusClient(f"http://127.0.0.1:{port}") as tus:
        upload_id = tus.new(len(data), Upload_Metadata=encoded(filename="clip.mp4"))
        assert tus.patch(upload_id, 0, data[:100_000]).status_code == 204
        file = root / "uploads" / upload_id
        with raw_patch(port, upload_id, 100_000, len(data) - 100_000) as cut:
            cut.send(data[100_000:1_700_000])
            until(lambda: file.stat().st_size == 1_700_000)
            running.send_signal(signal.SIGKILL)
            running.wait()
    with process(root) as (_, port), TusClient(f"http://127.0.0.1:{port}") as tus:
        offset = tus.offset(upload_id)
        assert offset == 1_700_000
        response = tus.patch(upload_id, offset, data[offset:])
        assert response.status_code == 204
        assert response.headers["tidemill-batch"]
        assert file.read_bytes() == data
        # The dead process's socket is gone with the first one that starts.
        assert len(list((root / "run").glob("locks-*"))) == 1


def test_a_stopping_server_keeps_what_arrived(tmp_path: Path) -> None:
    data = os.urandom(500_000)
    with tus_server(tmp_path / "data") as server, TusClient(server.url) as tus:
        upload_id = tus.new(len(data))
        with raw_patch(server.port, upload_id, 0, len(data)) as cut:
            cut.send(data[:123_456])
            until(lambda: size_of(server, upload_id) > 0)
            server._server.should_exit = True
            server._thread.join(20)
    assert (tmp_path / "data" / "uploads" / upload_id).read_bytes() == data[:123_456]
    assert list((tmp_path / "data" / "run").glob("locks-*")) == []


# --- memory, disks, the row ----------------------------------------------------------------------


def test_a_creation_with_300_mb_takes_no_memory(tmp_path: Path) -> None:
    size = 300_000_000
    with process(tmp_path / "data") as (running, port):
        with TusClient(f"http://127.0.0.1:{port}") as tus:
            assert tus.create(1000, content=b"x" * 1000).status_code == 201
        before = _peak_kib(running.pid)
        headers = VERSION | OFFSET_TYPE
        headers |= {"Upload-Length": str(size), "Content-Length": str(size)}
        with RawRequest(port, "POST", "/files/", headers, timeout=60) as request:
            piece = b"p" * 1_000_000
            for _ in range(size // len(piece)):
                request.send(piece)
            status, answer, _ = request.answer()
        assert (status, answer["upload-offset"]) == (201, str(size))
        assert answer["tidemill-batch"]
        assert _peak_kib(running.pid) - before < 20 * 1024


def _peak_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of 4 MiB (or of what the test asks for), for real."""
    size = getattr(request, "param", "4m")
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.fail(f"this test needs the right to mount a tmpfs (root): {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def folder_without_database(small_disk: Path, elsewhere: Path) -> Path:
    """A data folder on the small disk whose database lies elsewhere, so that it is not what fails."""
    root = small_disk / "data"
    root.mkdir()
    (root / "tidemill.db").symlink_to(elsewhere / "tidemill.db")
    return root


@pytest.mark.parametrize("fsync", list(FsyncMode))
def test_a_full_disk_is_507_with_the_true_offset_and_the_upload_can_go_on(
    small_disk: Path, tmp_path: Path, fsync: FsyncMode
) -> None:
    root = folder_without_database(small_disk, tmp_path)
    with tus_server(root, TusConfig(fsync=fsync)) as server, TusClient(server.url) as tus:
        data = os.urandom(3_000_000)
        upload_id = tus.new(len(data))
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"b" * 2_500_000)
        response = tus.patch(upload_id, 0, data)
        assert (response.status_code, code_of(response)) == (507, "no_space")
        offset = int(response.headers["upload-offset"])
        assert 0 < offset < len(data)
        assert tus.offset(upload_id) == offset == size_of(server, upload_id)
        row = server.read(lambda tx: tx.uploads.find(upload_id))
        assert row.status is UploadStatus.RECEIVING
        ballast.unlink()
        assert tus.patch(upload_id, offset, data[offset:]).status_code == 204
        assert server.file(upload_id).read_bytes() == data


def test_a_creation_that_fills_the_disk_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    root = folder_without_database(small_disk, tmp_path)
    with tus_server(root) as server, TusClient(server.url) as tus:
        response = tus.create(6_000_000, content=b"x" * 6_000_000)
        assert (response.status_code, code_of(response)) == (507, "no_space")
        assert server.read(lambda tx: tx.uploads.totals()) == {}


@pytest.mark.parametrize("small_disk", ["64m"], indirect=True)
def test_bytes_that_are_there_are_not_promised_a_second_time(small_disk: Path) -> None:
    with tus_server(small_disk / "data") as server, TusClient(server.url) as tus:
        first = tus.new(40_000_000)
        with raw_patch(server.port, first, 0, 40_000_000) as running:
            running.send(b"x" * 35_000_000)
            until(lambda: size_of(server, first) == 35_000_000)
            # 5 MB are promised and some 30 MB free, though the row has not been told for a while.
            assert tus.create(10_000_000).status_code == 201
            deferred = tus.new()
            assert tus.patch(deferred, 0, b"", Upload_Length="5000000").status_code == 204
            refused = tus.create(20_000_000)
            assert refused.status_code == 507
            figures = refused.json()
            assert figures["promised_bytes"] == 5_000_000 + 10_000_000 + 5_000_000
            assert figures["required_bytes"] == 20_000_000


@contextmanager
def injected(running: subprocess.Popen[str], file: Path, fault: str) -> Iterator[None]:
    """Have the kernel's calls on one file of a running server delayed or refused."""
    with subprocess.Popen(
        ["strace", "-qq", "-f", "-o", "/dev/null", "-p", str(running.pid), "-P", str(file),
         "-e", f"inject={fault}"],
    ) as tracer:  # fmt: skip
        try:
            until(lambda: "TracerPid:\t0" not in Path(f"/proc/{running.pid}/status").read_text())
            yield
        finally:
            tracer.terminate()
            tracer.wait(10)


def test_a_slow_disk_delays_only_its_own_upload(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with process(root) as (running, port), TusClient(f"http://127.0.0.1:{port}") as tus:
        other = tus.new(10)

        def watch() -> list[float]:
            slow = tus.new(2_000_000)
            file = root / "uploads" / slow
            assert tus.patch(slow, 0, b"x" * 100).status_code == 204
            times, sizes = list[float](), []
            with raw_patch(port, slow, 100, 1_000_000) as request:
                sender = threading.Thread(target=request.send, args=(b"y" * 1_000_000,))
                with injected(running, file, "pwritev,pwritev2,pwrite64,write:delay_enter=700000"):
                    sender.start()
                    deadline = time.monotonic() + 2.5
                    while time.monotonic() < deadline:
                        with timed(times):
                            assert tus.head(other).status_code == 200
                        with timed(times):
                            assert tus.http.get("/livez").status_code == 200
                        sizes.append(file.stat().st_size)
                    assert sizes[0] < 1_000_100
                sender.join(20)
                assert request.answer()[0] == 204
            # Nine of ten: the machine does other things too, and a loop that stands still lets
            # hardly one through quickly.
            return sorted(times)[: len(times) * 9 // 10]

        assert_all_within(0.1, watch)


def test_a_disk_error_is_500_with_the_true_offset(tmp_path: Path) -> None:
    root = tmp_path / "data"
    data = os.urandom(1_000_000)
    with process(root) as (running, port), TusClient(f"http://127.0.0.1:{port}") as tus:
        upload_id = tus.new(len(data))
        file = root / "uploads" / upload_id
        assert tus.patch(upload_id, 0, data[:1000]).status_code == 204
        with injected(running, file, "pwritev,pwritev2,pwrite64,write:error=EIO:when=2+"):
            response = tus.patch(upload_id, 1000, data[1000:])
        assert (response.status_code, code_of(response)) == (500, "storage_failed")
        offset = int(response.headers["upload-offset"])
        assert 1000 <= offset == tus.offset(upload_id) == file.stat().st_size < len(data)
        # A sync that fails says nothing of what is in the file: no byte was received that no sync
        # before it has made durable.
        with injected(running, file, "fdatasync,fsync:error=EIO"):
            response = tus.patch(upload_id, offset, data[offset:])
        assert (response.status_code, code_of(response)) == (500, "storage_failed")
        assert int(response.headers["upload-offset"]) == 0 == tus.offset(upload_id)
        assert "tidemill-batch" not in tus.head(upload_id).headers
        response = tus.patch(upload_id, 0, data)
        assert (response.status_code, file.read_bytes()) == (204, data)
        assert response.headers["tidemill-batch"]


def test_head_says_423_while_the_database_is_busy(server: TusServer, tus: TusClient) -> None:
    upload_id = tus.new(10)
    database = server.parts.db
    read, look = database.read, database.look

    async def busy(work: Any) -> Any:
        raise DatabaseBusy

    database.read = database.look = busy  # type: ignore[method-assign]
    try:
        response = tus.head(upload_id)
        assert (response.status_code, response.content) == (423, b"")
        assert tus.patch(upload_id, 0, b"hello").status_code == 503
    finally:
        database.read, database.look = read, look  # type: ignore[method-assign]
    assert tus.offset(upload_id) == 0


def test_a_completion_that_fails_never_costs_the_client_its_204(
    server: TusServer, tus: TusClient
) -> None:
    upload_id = tus.new(5)
    database = server.parts.db
    write = database.write

    async def busy(work: Any) -> Any:
        raise DatabaseBusy

    database.write = busy  # type: ignore[method-assign]
    try:
        response = tus.patch(upload_id, 0, b"hello")
    finally:
        database.write = write  # type: ignore[method-assign]
    assert response.status_code == 204
    assert response.headers["tidemill-upload"] == upload_id
    row = server.read(lambda tx: tx.uploads.find(upload_id))
    assert row.status is UploadStatus.RECEIVING
    # What the sweep does.
    completion = server.do(server.parts.completion.complete(upload_id))
    assert tus.head(upload_id).headers["tidemill-batch"] == completion.batch_id


def test_the_row_is_told_of_activity(server: TusServer, tus: TusClient) -> None:
    upload_id = tus.new(10)
    row = server.read(lambda tx: tx.uploads.find(upload_id))
    past = datetime.now(UTC) - timedelta(hours=2)
    old = replace(row, active_at=past, expires_at=past + timedelta(hours=1), created_at=past)
    server.do(
        server.parts.db.write(lambda tx: tx.uploads.update(old, expected=UploadStatus.RECEIVING))
    )
    # Past its expiry and not swept: alive.
    assert tus.patch(upload_id, 0, b"hello").status_code == 204
    row = server.read(lambda tx: tx.uploads.find(upload_id))
    assert row.recorded_offset == 5
    assert row.active_at > past + timedelta(hours=1)
    assert row.expires_at > datetime.now(UTC) + timedelta(hours=20)


def test_after_a_boot_of_the_machine_only_what_was_synced_counts(tmp_path: Path) -> None:
    root = tmp_path / "data"
    config = TusConfig(fsync=FsyncMode.PATCH)
    with tus_server(root, config) as server, TusClient(server.url) as tus:
        kept, cut = tus.new(10), tus.new(10)
        assert tus.patch(kept, 0, b"hello").status_code == 204
        assert tus.patch(cut, 0, b"hel").status_code == 204
        with server.file(cut).open("ab") as file:
            file.write(b"\0\0\0\0")  # what a lost page may look like
    later = replace(config, boot_id="another boot")
    with tus_server(root, later) as server, TusClient(server.url) as tus:
        assert tus.offset(cut) == 3
        assert server.do(server.parts.uploads.recover_after_boot()) == 2
        assert server.file(cut).read_bytes() == b"hel"
        assert server.file(kept).read_bytes() == b"hello"
        assert server.do(server.parts.uploads.recover_after_boot()) == 0
        assert tus.patch(cut, 3, b"lo").status_code == 204
    later = replace(config, boot_id="a third")
    with tus_server(root, later) as server, TusClient(server.url) as tus:
        # A PATCH before the recovery finds it first.
        assert tus.patch(cut, 5, b"world").status_code == 204
        assert server.file(cut).read_bytes() == b"helloworld"


def test_with_fsync_off_a_boot_cuts_nothing(tmp_path: Path) -> None:
    root = tmp_path / "data"
    config = TusConfig(fsync=FsyncMode.OFF)
    with tus_server(root, config) as server, TusClient(server.url) as tus:
        upload_id = tus.new(10)
        tus.patch(upload_id, 0, b"hello")
    later = replace(config, boot_id="another")
    with tus_server(root, later) as server, TusClient(server.url) as tus:
        server.do(server.parts.uploads.recover_after_boot())
        assert tus.offset(upload_id) == 5


def test_the_metrics_count_what_happened(server: TusServer, tus: TusClient) -> None:
    upload_id = tus.new(1000)
    tus.patch(upload_id, 0, b"x" * 400)
    tus.create(10, content=b"y" * 10)
    tus.delete(upload_id)
    text = server.parts.metrics.render().decode()
    assert "tidemill_upload_created_total 2.0" in text
    assert "tidemill_upload_bytes_received_total 410.0" in text
    assert 'tidemill_upload_finished_total{outcome="completed"} 1.0' in text
    assert 'tidemill_upload_finished_total{outcome="terminated"} 1.0' in text
    assert "tidemill_uploads_open 0.0" in text


def test_a_writer_leaves_no_file_open(server: TusServer, tus: TusClient) -> None:
    def open_data_files() -> list[str]:
        folder = str(server.root / "uploads")
        return [f.path for f in psutil.Process().open_files() if f.path.startswith(folder)]

    upload_id = tus.new(100_000)
    for offset in range(5):
        with raw_patch(server.port, upload_id, offset * 10, 50_000) as leaving:
            leaving.send(b"0123456789")
            wanted = (offset + 1) * 10
            until(lambda wanted=wanted: size_of(server, upload_id) == wanted)  # type: ignore[misc]
    tus.patch(upload_id, 0, b"wrong")
    until(lambda: not open_data_files(), what="every file closed")
    assert server.read(lambda tx: tx.tombstones.find(ThingKind.UPLOAD, upload_id)) is None
    assert id_of(tus.create(1)) != upload_id


def test_head_of_an_upload_with_all_its_bytes_names_the_batch_though_a_writer_hangs(
    server: TusServer, tus: TusClient
) -> None:
    # All the bytes are there, and the end of the chunked body never comes: its client is gone, asks
    # HEAD, and must not be told that it is done without being told what its file became.
    def ask() -> list[float]:
        took: list[float] = []
        upload_id = tus.new(5)
        with raw_patch(server.port, upload_id, 0, None) as stalled:
            stalled.send(b"5\r\nhello\r\n")
            file = server.file(upload_id)
            until(lambda: file.exists() and file.stat().st_size == 5, what="the bytes")
            with timed(took):
                response = tus.head(upload_id)
            assert (response.status_code, response.headers["upload-offset"]) == (200, "5")
            row = server.read(lambda tx: tx.uploads.find(upload_id))
            assert response.headers["tidemill-batch"] == row.batch_id
            assert stalled.answer()[0] in {0, 204, 423}
        assert file.read_bytes() == b"hello"
        return took

    assert_all_within(1, ask)


def test_the_expiry_of_a_short_lived_upload_slides_with_its_patches(tmp_path: Path) -> None:
    config = TusConfig(expires_after=timedelta(seconds=20))
    with tus_server(tmp_path / "data", config) as server, TusClient(server.url) as tus:
        upload_id = tus.new(10)
        before = server.read(lambda tx: tx.uploads.find(upload_id)).expires_at
        time.sleep(1.1)  # more than a twentieth of its life
        assert tus.patch(upload_id, 0, b"hello").status_code == 204
        after = server.read(lambda tx: tx.uploads.find(upload_id)).expires_at
        assert after - before >= timedelta(seconds=1)
