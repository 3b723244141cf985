"""Moodle logs over HTTP with the installed command: sizes, memory, kills, clients that leave."""

import csv
import io
import json
import os
import signal
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from app.domain.layout import UPLOADS, WORK
from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import TUS, await_job, create, open_session, problem, upload
from tests.fakes.measured import assert_all_within
from tests.fakes.moodle_logs import ANNA, as_csv, many_rows, row, write_log
from tests.fakes.served import Served, settings_for

PATHS = ("/api/upload", "/api/v1/logs")
BERLIN = {"timezone": "Europe/Berlin"}
FEW, SMALL, LARGE, MILLION = 8_000, 20_000, 100_000, 1_000_000
GROWTH_BYTES = 24 * 2**20
"""Of the child's peak from the small log to the larger: SQLite's caches, which have a size, fill."""
MOST_BYTES = 128 * 2**20
BOUNDARY = "log-form"


@pytest.fixture(scope="module")
def server(own_server: Server) -> Server:
    return own_server


@pytest.fixture
def api(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def send(
    client: httpx.Client, log: bytes | Path, path: str = PATHS[0], **fields: str
) -> httpx.Response:
    content = log if isinstance(log, bytes) else log.open("rb")
    file = {"file": ("logs_ALG_20260305.csv", content, "text/csv")}
    try:
        return client.post(path, files=file, data=fields)
    finally:
        if not isinstance(content, bytes):
            content.close()


def output_of(client: httpx.Client, job: dict[str, Any]) -> dict[str, bytes]:
    """The files in the ZIP of a completed job."""
    assert job["status"] == "completed", job
    (output,) = job["outputs"]
    response = client.get(output["url"])
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def children_of(server: Server) -> list[psutil.Process]:
    """The processes that work on a log."""
    found = []
    for child in psutil.Process(server.pid).children(recursive=True):
        with suppress(psutil.Error):
            words = child.cmdline()
            if words and "python" in words[0] and "/moodle/child.py" in " ".join(words[:5]):
                found.append(child)
    return found


class Peaks:
    """The largest resident size of any child that works on a log, looked at all the time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self.largest = 0
        self.seen: set[int] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for child in children_of(self._server):
                with suppress(OSError, psutil.Error):
                    status = Path(f"/proc/{child.pid}/status").read_text()
                    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
                    self.largest = max(self.largest, peak)
                    self.seen.add(child.pid)


def strays(server: Server) -> list[str]:
    """Every file of the data folder that no row tells of."""
    known = {f"uploads/{name}" for (name,) in server.rows("SELECT id FROM uploads")}
    known |= {f"outputs/{name}" for (name,) in server.rows("SELECT id FROM outputs")}
    return [path for path in server.leftovers() if path not in known]


def no_strays(server: Server) -> None:
    """Wait until nothing is left that no row tells of: deletions follow their rows at once."""
    wait_for(lambda: not strays(server), "a tidy folder")


@pytest.mark.parametrize("path", PATHS)
def test_a_log_sent_as_a_form_becomes_an_event_log(
    server: Server, api: httpx.Client, path: str
) -> None:
    answer = send(api, as_csv(many_rows(200)), path, **BERLIN, case="user", anonymise="true")
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["job_id"]
    assert answer.json() == {"job_id": job_id}
    assert answer.headers["location"] == f"/api/v1/jobs/{job_id}"
    assert answer.headers["tidemill-job"] == job_id
    job = await_job(api, job_id)
    assert job["params"] == {**BERLIN, "case": "user", "anonymise": True}
    files = output_of(api, job)
    assert list(files) == ["events.csv", "events.xes", "summary.json", "rejected.csv"]
    assert b"Student" not in b"".join(files.values())
    assert json.loads(files["summary.json"])["events"] == job["result"]["events"] == 200
    # The input has gone, and says so.
    upload_id = job["inputs"][0]["upload_id"]
    wait_for(lambda: not (server.data / UPLOADS / upload_id).exists(), "the input to go")
    assert problem(api.get(f"/api/v1/uploads/{upload_id}"), 410, "upload_gone")["reason"] == "spent"
    no_strays(server)


def test_a_log_uploaded_by_tus_becomes_one_by_then_or_by_a_job(api: httpx.Client) -> None:
    log = as_csv([*many_rows(50), row(user="=1+1")])
    session = open_session(
        api, expected_files=1, then={"operation": "moodle-log", "params": BERLIN}
    )
    done = upload(api, log, filename="log.csv", session=session)
    by_then = output_of(api, await_job(api, done.headers["tidemill-job"]))

    done = upload(api, log, filename="log.csv")
    upload_id = done.headers["tidemill-upload"]
    wish = {"operation": "moodle-log", "inputs": [{"upload_id": upload_id}]}
    problem(api.post("/api/v1/jobs", json=wish), 422, "timezone_required")
    made = api.post("/api/v1/jobs", json={**wish, "params": BERLIN})
    assert made.status_code == 202, made.text
    assert made.json()["inputs"][0]["role"] == "log"
    assert output_of(api, await_job(api, made.json()["id"])) == by_then
    cells = list(csv.reader(io.StringIO(by_then["events.csv"].decode(), newline="")))
    assert "'=1+1" in {cells[n][3] for n in range(len(cells))}
    problem(api.post("/api/v1/jobs", json={**wish, "params": BERLIN}), 410, "inputs_deleted")


def test_the_operation_is_listed_with_its_parameters(api: httpx.Client) -> None:
    listed = {each["name"]: each for each in api.get("/api/v1/operations").json()["items"]}
    operation = listed["moodle-log"]
    assert operation["inputs"] == [{"role": "log", "minimum": 1, "maximum": 1}]
    assert set(operation["params"]["properties"]) == {"case", "timezone", "anonymise", "date_order"}


@pytest.mark.parametrize(
    ("log", "fields", "status", "code"),
    [
        (b"", BERLIN, 422, "empty_file"),
        (bytes(100_000), BERLIN, 422, "log_not_text"),
        (as_csv([ANNA] * 3000, header=None), BERLIN, 422, "log_header_missing"),
        (as_csv([ANNA] * 3000, delimiter="|"), BERLIN, 422, "log_delimiter_unknown"),
        (b"id,name\n" + b"1,x\n" * 40_000, BERLIN, 422, "log_header_unknown"),
        (as_csv([]), BERLIN, 422, "log_without_events"),
        (as_csv([ANNA]), {}, 422, "timezone_required"),
        (as_csv([ANNA]), {"timezone": "Nowhere/Land"}, 422, "invalid_params"),
        (as_csv([ANNA]), {**BERLIN, "case": "planet"}, 422, "invalid_params"),
        (as_csv([ANNA]), {**BERLIN, "anonymise": "perhaps"}, 422, "invalid_params"),
        (as_csv([ANNA]), {**BERLIN, "colour": "red"}, 422, "invalid_request"),
        (as_csv([ANNA]), {**BERLIN, "timeout_seconds": "1e9"}, 422, "invalid_request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refused_form_leaves_nothing(
    server: Server, api: httpx.Client, log: bytes, fields: dict[str, str], status: int, code: str
) -> None:
    before = server.rows("SELECT count(*) FROM uploads"), server.rows("SELECT count(*) FROM jobs")
    problem(send(api, log, **fields), status, code)
    after = server.rows("SELECT count(*) FROM uploads"), server.rows("SELECT count(*) FROM jobs")
    assert before == after
    no_strays(server)


def test_a_form_of_another_shape_is_refused(api: httpx.Client) -> None:
    problem(api.post(PATHS[0], json={"file": "x"}), 415, "unsupported_media_type")
    problem(api.post(PATHS[0], files={"case": (None, "user")}), 422, "invalid_request")
    twice = [("file", ("a.csv", as_csv([ANNA]))), ("file", ("b.csv", as_csv([ANNA])))]
    problem(api.post(PATHS[0], files=twice, data=BERLIN), 422, "invalid_request")
    key = {"Idempotency-Key": "k"}
    file = {"file": ("a.csv", as_csv([ANNA]))}
    problem(api.post(PATHS[0], files=file, headers=key), 400, "not_supported")


class RawForm:
    """A form whose bytes are sent when the test says so."""

    def __init__(self, server: Server | Served, length: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), 20)
        self._socket.settimeout(30)
        self._socket.sendall(
            f"POST {PATHS[0]} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            f"Content-Length: {length}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
        )

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> bytes:
        """The response's head and body, of which no chunk is large."""
        received = b""
        while b"}" not in received and (data := self._socket.recv(65536)):
            received += data
        return received

    def close(self) -> None:
        self._socket.close()


OPENING = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="log.csv"\r\n\r\n'
).encode()


def test_a_head_that_is_no_log_is_refused_while_the_rest_has_not_been_sent(server: Server) -> None:
    form = RawForm(server, 500 * 2**20)
    try:
        form.send(OPENING + b"id,name,grade\n" + b"1,x,2\n" * 15_000)
        assert b" 422 " in form.answer().partition(b"\r\n")[0]
    finally:
        form.close()


def test_a_client_that_leaves_in_the_middle_leaves_nothing(
    server: Server, api: httpx.Client
) -> None:
    before = server.rows("SELECT count(*) FROM jobs")
    form = RawForm(server, 500 * 2**20)
    form.send(OPENING + as_csv(many_rows(5000)))
    work = server.data / WORK
    wait_for(lambda: [p for p in work.glob("*/*/*") if p.stat().st_size > 100_000], "bytes")
    form.close()
    wait_for(lambda: not list(work.glob("*/*/*")), "a tidy folder")
    assert server.rows("SELECT count(*) FROM jobs") == before
    no_strays(server)


def test_a_full_queue_and_a_full_disk_are_told_before_the_body_is_read(tmp_path: Path) -> None:
    def told(code: str) -> None:
        form = RawForm(served, 450 * 2**20)
        answer = form.answer()
        form.close()
        assert f'"code":"{code}"'.encode() in answer.replace(b'": "', b'":"'), answer

    settings = settings_for(tmp_path / "data", jobs={"workers": 0, "queue_limit": 1})
    with Served(settings) as served:
        container = served.container
        assert container.forms.uploads.reserve_bytes == 0
        full = replace(container.forms.uploads, reserve_bytes=2**50)
        logs = replace(container.logs, forms=replace(container.forms, uploads=full))
        with served.exchanged(replace(container, logs=logs)):
            told("no_space")
        assert send(served.http, as_csv([ANNA]), **BERLIN).status_code == 202
        told("queue_full")


def run_measured(server: Server, api: httpx.Client, log: Path) -> tuple[dict[str, Any], int]:
    """Process a log; returns its job and the peak memory of the children."""
    peaks = Peaks(server)
    with peaks.watching():
        answer = send(api, log, **BERLIN)
        assert answer.status_code == 202, answer.text
        job = await_job(api, answer.json()["job_id"], seconds=900)
    assert len(peaks.seen) >= 2, "the children were not seen"
    return job, peaks.largest


def test_memory_does_not_grow_with_the_log(
    server: Server, api: httpx.Client, tmp_path: Path
) -> None:
    peaks = {}
    for count in (SMALL, LARGE):
        log = write_log(tmp_path / f"{count}.csv", count)
        server.reset_peak_memory()
        before = server.peak_memory_bytes()
        job, peaks[count] = run_measured(server, api, log)
        assert job["result"]["events"] == count
        assert server.peak_memory_bytes() - before < 40 * 2**20
    assert peaks[LARGE] < MOST_BYTES, peaks
    assert peaks[LARGE] - peaks[SMALL] < GROWTH_BYTES, peaks
    no_strays(server)


@pytest.mark.long
def test_a_million_events_in_constant_memory_with_progress(
    server: Server, api: httpx.Client, tmp_path: Path
) -> None:
    small = write_log(tmp_path / "small.csv", LARGE)
    _, small_peak = run_measured(server, api, small)
    log = write_log(tmp_path / "million.csv", MILLION)
    peaks, seen = Peaks(server), []
    begun = time.monotonic()
    with peaks.watching():
        job_id = send(api, log, **BERLIN).json()["job_id"]
        queued = time.monotonic()
        while True:
            job = api.get(f"/api/v1/jobs/{job_id}").json()
            seen.append((time.monotonic() - queued, job["stage"], job["progress"]))
            if job["status"] not in {"queued", "processing"}:
                break
            time.sleep(0.1)
    assert job["status"] == "completed", job
    assert job["result"]["events"] == MILLION
    progress = [each for _, _, each in seen]
    assert progress == sorted(progress)
    assert len(set(progress)) > 20
    stages = list(dict.fromkeys(stage for _, stage, _ in seen if stage))
    assert [s for s in stages if s not in {"preparing", "publishing"}] == [
        *("reading", "sorting", "writing")
    ]
    size = log.stat().st_size
    print(  # noqa: T201 - the figures are what it is for
        f"{MILLION} events, {size / 2**20:.0f} MiB: {time.monotonic() - begun:.0f} s, children's peak"
        f" {peaks.largest / 2**20:.0f} MiB ({small_peak / 2**20:.0f} MiB with {LARGE})"
    )
    assert peaks.largest < MOST_BYTES
    assert peaks.largest - small_peak < GROWTH_BYTES


def test_what_is_killed_in_the_middle_loses_nothing_and_leaves_nothing(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = make_server().start()
    log = write_log(tmp_path / "log.csv", FEW)
    with server.client() as client:
        job_id = send(client, log, **BERLIN).json()["job_id"]
        wait_for(lambda: children_of(server), "a child")
    _, alive = psutil.wait_procs(server.kill(), timeout=5)
    assert not alive
    # The service comes back and goes on; the log goes when that has ended.
    server.start({"MAX_ATTEMPTS": 1})
    with server.client() as client:
        job = await_job(client, job_id)
        assert (job["status"], job["result"]["events"]) == ("completed", FEW)
        kept = [f"outputs/{job['outputs'][0]['id']}"]
        wait_for(lambda: server.leftovers() == kept, "a tidy folder")

        # A child that dies in a job's last attempt takes the log along.
        job_id = send(client, log, **BERLIN).json()["job_id"]
        found = wait_for(lambda: children_of(server), "a child")
        os.kill(found[-1].pid, signal.SIGKILL)
        job = await_job(client, job_id)
        assert (job["status"], job["error"]["code"]) == ("failed", "log_failed")
        wait_for(lambda: server.leftovers() == kept, "a tidy folder")


def test_a_cancelled_log_leaves_nothing(server: Server, api: httpx.Client, tmp_path: Path) -> None:
    before = server.leftovers()
    log = write_log(tmp_path / "log.csv", FEW)

    def cancel() -> list[float]:
        job_id = send(api, log, **BERLIN).json()["job_id"]
        wait_for(lambda: children_of(server), "a child")
        begun = time.monotonic()
        assert api.post(f"/api/v1/jobs/{job_id}/cancel").status_code == 200
        assert await_job(api, job_id)["status"] == "cancelled"
        return [time.monotonic() - begun]

    assert_all_within(3, cancel)
    wait_for(lambda: server.leftovers() == before, "a tidy folder")
    assert not children_of(server)


def test_hostile_rows_cost_bounded_memory_and_their_own_lines_alone(
    server: Server, api: httpx.Client, tmp_path: Path
) -> None:
    path = tmp_path / "hostile.csv"
    good = as_csv([ANNA], header=None)
    with path.open("wb") as file:
        file.write(as_csv([ANNA]))
        for _ in range(120):
            file.write(b"x" * 2**20)  # one line of 120 MiB
        file.write(b"\n" + good)
        file.write(b"x," * 100_000 + b"\n" + good)
        file.write(b"\x00\x01\x02" * 1000 + b"\n" + good)
        file.write(b'"' + b"open, and never closed\n" * 40_000)
        file.write(as_csv([row(user="Ågren")], header=None))
        file.write(as_csv([row(user="Ågren")], header=None, encoding="cp1252"))
        file.write(as_csv([row(user="=cmd|' /C calc'!A0")], header=None))
    job, peak = run_measured(server, api, path)
    files = output_of(api, job)
    assert peak < MOST_BYTES
    assert job["result"]["events"] == 6
    assert job["result"]["rejected_by_reason"] == {
        "not_in_the_encoding": 1,
        "quote_never_closed": 1,
        "too_few_fields": 40_000,
        "too_long": 1,
        "too_many_fields": 1,
    }
    assert b"'=cmd|" in files["events.csv"]
    assert len(files["rejected.csv"].splitlines()) == 40_005


def test_a_video_is_no_log_and_a_log_no_video(
    server: Server, api: httpx.Client, short_clip: Path
) -> None:
    problem(send(api, short_clip, **BERLIN), 422, "log_not_text")
    done = upload(api, as_csv([ANNA]), filename="log.csv")
    wish = {"operation": "trim", "batch_id": done.headers["tidemill-batch"], "params": {"end": 1}}
    problem(api.post("/api/v1/jobs", json=wish), 422, "not_media")
    done = upload(api, short_clip.read_bytes(), filename="log.csv")
    wish = {"operation": "moodle-log", "batch_id": done.headers["tidemill-batch"]}
    problem(api.post("/api/v1/jobs", json={**wish, "params": BERLIN}), 422, "log_not_text")
    assert api.head(create(api, 5), headers=TUS).status_code == 200
