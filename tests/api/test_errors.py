"""Every error code is reached over HTTP; its body is as described; and nothing has changed."""

import base64
import dataclasses
import io
import json
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from app.api.error_guide import catalogue
from app.api.errors import STATUS
from app.domain.errors import AppError, ConflictingUpdate
from app.domain.ids import new_id
from app.domain.jobs import JobError, JobStatus
from app.domain.layout import output_path
from app.services.draining import Drain
from app.services.logs import LogLooks
from app.services.ports import Database, Transaction
from tests.factories import make_ended_job, make_output
from tests.fakes.described import Described
from tests.fakes.moodle_logs import ANNA, as_csv
from tests.fakes.served import OCTETS, TUS, Served

NOBODY = "0" * 32


@dataclass(frozen=True)
class Ask:
    """One request that is to be refused."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    json: Any = None

    def send(self, http: httpx.Client) -> httpx.Response:
        return http.request(
            self.method, self.path, headers=self.headers, content=self.content, json=self.json
        )


@dataclass
class Bench:
    """What a case may use: two services and files."""

    served: Served
    keyed: Served
    clip: bytes
    long_clip: bytes

    def batch_of(self, body: bytes, name: str = "clip.mp4") -> tuple[str, str]:
        """Return the ids of a new batch and of its one file."""
        batch = self.served.make_batch(body, name=name)
        return batch["id"], batch["files"][0]["id"]

    def trim(self, body: bytes, **params: Any) -> Ask:
        """A trim of a file that was probed before, so that its probe is no change any more."""
        batch_id, _ = self.batch_of(body)
        wish = {"operation": "trim", "batch_id": batch_id, "params": params or {"end": 1}}
        ask = Ask("POST", "/api/v1/jobs", json=wish)
        ask.send(self.served.http)
        return ask

    def queued_job(self, served: Served | None = None) -> str:
        served = served or self.served
        batch = served.make_batch(self.clip)
        wish = {"operation": "trim", "batch_id": batch["id"], "params": {"end": 1}}
        response = served.http.post("/api/v1/jobs", json=wish)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def ended_job(self, **changes: Any) -> str:
        """The row of a job that has ended, as its worker would have left it."""
        now = self.served.container.clock.now()
        times = {"created_at": now, "completed_at": now, "expires_at": now + timedelta(hours=1)}
        job = make_ended_job(inputs=(), **{**times, **changes})
        self.served.write(lambda tx: tx.jobs.insert(job))
        return job.id

    def output(self, data: bytes = b"output") -> tuple[str, Path]:
        """A stored output of an ended job, and where its bytes lie."""
        now = self.served.container.clock.now()
        output = make_output(job_id=self.ended_job(), created_at=now, size_bytes=len(data))
        self.served.write(lambda tx: tx.outputs.insert(output))
        path = self.served.data / output_path(output.id)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return output.id, path


Case = Callable[[Bench], Generator[Ask, None, None]]
CASES: dict[str, Case] = {}


def case(code: str) -> Callable[[Case], Case]:
    def keep(work: Case) -> Case:
        assert code not in CASES
        CASES[code] = work
        return work

    return keep


def simple(code: str, ask: Ask) -> None:
    def work(bench: Bench) -> Generator[Ask, None, None]:
        yield ask

    case(code)(work)


# --- the request itself ---------------------------------------------------------------------------

JSON = {"content-type": "application/json"}
simple("malformed_request", Ask("POST", "/api/v1/upload", JSON, b'{"expected_files": 1'))
simple("not_supported", Ask("POST", f"/api/v1/jobs/{NOBODY}/cancel", {"idempotency-key": "k"}))
simple("invalid_request", Ask("POST", "/api/v1/upload", json={"expected_files": 0}))
simple(
    "unsupported_media_type",
    Ask("POST", "/api/v1/upload", {"content-type": "application/xml"}, b"<files/>"),
)
simple("request_too_large", Ask("POST", "/api/v1/upload", JSON, b'"' + b"x" * 300_000 + b'"'))
simple("route_not_found", Ask("GET", "/api/v1/nothing"))
simple("method_not_allowed", Ask("PUT", "/api/v1/jobs"))
simple("host_not_allowed", Ask("POST", "/api/v1/upload", {"host": "evil.example"}))
simple("origin_not_allowed", Ask("POST", "/api/v1/upload", {"origin": "http://evil.example"}))
simple("unknown_operation", Ask("POST", "/api/v1/jobs", json={"operation": "nothing"}))
simple("session_not_found", Ask("GET", f"/api/v1/upload/{NOBODY}"))
simple("upload_not_found", Ask("GET", f"/api/v1/uploads/{NOBODY}"))
simple("batch_not_found", Ask("GET", f"/api/v1/batches/{NOBODY}"))
simple("job_not_found", Ask("GET", f"/api/v1/jobs/{NOBODY}"))
simple("output_not_found", Ask("GET", f"/api/v1/outputs/{NOBODY}"))
simple("tus_version_unsupported", Ask("POST", "/files/", {"Upload-Length": "5"}))
simple("invalid_header", Ask("POST", "/files/", {**TUS, "Upload-Length": "-5"}))
simple(
    "invalid_metadata",
    Ask("POST", "/files/", {**TUS, "Upload-Length": "5", "Upload-Metadata": "filename !!!"}),
)
simple(
    "checksum_algorithm_unsupported",
    Ask("POST", "/files/", {**TUS, "Upload-Length": "5", "Upload-Checksum": "sha3 YWJj"}),
)
simple("upload_too_large", Ask("POST", "/files/", {**TUS, "Upload-Length": str(2**51)}))
simple("no_space", Ask("POST", "/files/", {**TUS, "Upload-Length": str(2**49)}))


# --- access ---------------------------------------------------------------------------------------


@case("credentials_required")
def _no_key(bench: Bench) -> Generator[Ask, None, None]:
    del bench.keyed.http.headers["authorization"]
    yield Ask("POST", "/api/v1/upload")


@case("credentials_invalid")
def _wrong_key(bench: Bench) -> Generator[Ask, None, None]:
    yield Ask("POST", "/api/v1/upload", {"authorization": "Bearer wrong"})


@case("queue_full")
def _full_queue(bench: Bench) -> Generator[Ask, None, None]:
    if not bench.keyed.read(lambda tx: tx.jobs.count_queued()):
        bench.queued_job(bench.keyed)
    batch = bench.keyed.make_batch(bench.clip)
    wish = {"operation": "trim", "batch_id": batch["id"], "params": {"end": 1}}
    yield Ask("POST", "/api/v1/jobs", json=wish)


ON_KEYED = {"credentials_required", "credentials_invalid", "queue_full"}


# --- uploads --------------------------------------------------------------------------------------


@case("upload_gone")
def _deleted_upload(bench: Bench) -> Generator[Ask, None, None]:
    upload_id = bench.served.create_upload(5)
    assert bench.served.http.delete(f"/files/{upload_id}", headers=TUS).status_code == 204
    yield Ask("GET", f"/api/v1/uploads/{upload_id}")


@case("offset_mismatch")
def _wrong_offset(bench: Bench) -> Generator[Ask, None, None]:
    upload_id = bench.served.create_upload(5)
    assert bench.served.patch(upload_id, 0, b"ab").status_code == 204
    headers = {**TUS, **OCTETS, "Upload-Offset": "4"}
    yield Ask("PATCH", f"/files/{upload_id}", headers, b"x")


@case("checksum_mismatch")
def _wrong_checksum(bench: Bench) -> Generator[Ask, None, None]:
    upload_id = bench.served.create_upload(5)
    assert bench.served.patch(upload_id, 0, b"ab").status_code == 204
    digest = base64.b64encode(b"\0" * 20).decode()
    headers = {**TUS, **OCTETS, "Upload-Offset": "2", "Upload-Checksum": f"sha1 {digest}"}
    yield Ask("PATCH", f"/files/{upload_id}", headers, b"xyz")


@case("body_too_long")
def _too_long(bench: Bench) -> Generator[Ask, None, None]:
    upload_id = bench.served.create_upload(5)
    assert bench.served.patch(upload_id, 0, b"ab").status_code == 204
    headers = {**TUS, **OCTETS, "Upload-Offset": "2"}
    yield Ask("PATCH", f"/files/{upload_id}", headers, b"x" * 100)


@case("upload_is_final")
def _patch_of_a_final(bench: Bench) -> Generator[Ask, None, None]:
    http, size = bench.served.http, {"Upload-Length": "2"}
    part = http.post(
        "/files/", headers={**TUS, **OCTETS, **size, "Upload-Concat": "partial"}, content=b"ab"
    )
    named = {"Upload-Concat": f"final;{part.headers['location']}"}
    final = http.post("/files/", headers={**TUS, **named})
    assert final.status_code == 201, final.text
    yield Ask("PATCH", final.headers["location"], {**TUS, **OCTETS, "Upload-Offset": "2"}, b"c")


simple("invalid_parts", Ask("POST", "/files/", {**TUS, "Upload-Concat": f"final;/files/{NOBODY}"}))


@case("upload_locked")
def _locked(bench: Bench) -> Generator[Ask, None, None]:
    upload_id = bench.served.create_upload(5)
    assert bench.served.patch(upload_id, 0, b"ab").status_code == 204
    headers = {**TUS, **OCTETS, "Upload-Offset": "2"}
    with bench.served.held(upload_id):
        yield Ask("PATCH", f"/files/{upload_id}", headers, b"x")


@case("temporarily_unavailable")
def _not_started_for_tus(bench: Bench) -> Generator[Ask, None, None]:
    upload_id = bench.served.create_upload(5)
    with bench.served.exchanged(None):
        yield Ask("HEAD", f"/files/{upload_id}", TUS)


@case("upload_in_batch")
def _batched_upload(bench: Bench) -> Generator[Ask, None, None]:
    _, upload_id = bench.batch_of(b"abc")
    yield Ask("DELETE", f"/files/{upload_id}", TUS)


@case("upload_incomplete")
def _incomplete(bench: Bench) -> Generator[Ask, None, None]:
    yield Ask("GET", f"/files/{bench.served.create_upload(5)}")


@case("precondition_failed")
def _another_file(bench: Bench) -> Generator[Ask, None, None]:
    _, upload_id = bench.batch_of(b"abc")
    yield Ask("GET", f"/files/{upload_id}", {"if-match": '"another"'})


@case("range_not_satisfiable")
def _range(bench: Bench) -> Generator[Ask, None, None]:
    _, upload_id = bench.batch_of(b"abc")
    yield Ask("GET", f"/files/{upload_id}", {"range": "bytes=3-"})


@case("storage_failed")
def _broken_store(bench: Bench) -> Generator[Ask, None, None]:
    output_id, path = bench.output()
    path.unlink()
    path.symlink_to("/dev/null")
    yield Ask("GET", f"/api/v1/outputs/{output_id}")
    path.unlink()


# --- sessions and batches -------------------------------------------------------------------------


@case("session_gone")
def _deleted_session(bench: Bench) -> Generator[Ask, None, None]:
    session_id = bench.served.open_session()
    assert bench.served.http.delete(f"/api/v1/upload/{session_id}").status_code == 204
    yield Ask("DELETE", f"/api/v1/upload/{session_id}")


@case("session_closed")
def _closed_session(bench: Bench) -> Generator[Ask, None, None]:
    session_id = bench.served.open_session(expected_files=1)
    bench.served.upload(b"abc", session=session_id)
    metadata = f"session {base64.b64encode(session_id.encode()).decode()}"
    yield Ask("POST", "/files/", {**TUS, "Upload-Length": "3", "Upload-Metadata": metadata})


@case("session_batched")
def _batched_session(bench: Bench) -> Generator[Ask, None, None]:
    batch = bench.served.make_batch(b"abc")
    yield Ask("DELETE", f"/api/v1/upload/{batch['session_id']}")


@case("session_empty")
def _empty_session(bench: Bench) -> Generator[Ask, None, None]:
    yield Ask("POST", "/api/v1/batches", json={"session_id": bench.served.open_session()})


@case("uploads_unfinished")
def _unfinished(bench: Bench) -> Generator[Ask, None, None]:
    session_id = bench.served.open_session()
    upload_id = bench.served.create_upload(5, session=session_id)
    assert bench.served.patch(upload_id, 0, b"ab").status_code == 204
    yield Ask("POST", "/api/v1/batches", json={"session_id": session_id})


@case("batch_gone")
def _deleted_batch(bench: Bench) -> Generator[Ask, None, None]:
    batch_id, _ = bench.batch_of(b"abc")
    assert bench.served.http.delete(f"/api/v1/batches/{batch_id}").status_code == 204
    yield Ask("GET", f"/api/v1/batches/{batch_id}")


@case("inputs_deleted")
def _spent_input(bench: Bench) -> Generator[Ask, None, None]:
    _, upload_id = bench.batch_of(b"abc")
    past = bench.served.container.clock.now() - timedelta(hours=1)
    bench.served.write(lambda tx: tx.uploads.set_spent(upload_id, past))
    assert bench.served.http.post("/api/v1/sweeps/spent_inputs").json()["removed"] == 1
    wish = {"operation": "trim", "inputs": [{"upload_id": upload_id}], "params": {"end": 1}}
    yield Ask("POST", "/api/v1/jobs", json=wish)


# --- jobs and outputs -----------------------------------------------------------------------------


@case("invalid_params")
def _params(bench: Bench) -> Generator[Ask, None, None]:
    yield Ask("POST", "/api/v1/jobs", json={"operation": "trim", "params": {"begin": 1}})


@case("invalid_inputs")
def _inputs(bench: Bench) -> Generator[Ask, None, None]:
    yield Ask("POST", "/api/v1/jobs", json={"operation": "trim", "params": {"end": 1}})


@case("idempotency_key_reused")
def _other_body(bench: Bench) -> Generator[Ask, None, None]:
    batch_id, _ = bench.batch_of(bench.clip)
    wish = {"operation": "trim", "batch_id": batch_id, "params": {"end": 1}}
    key = {"idempotency-key": new_id()}
    assert bench.served.http.post("/api/v1/jobs", json=wish, headers=key).status_code == 202
    yield Ask("POST", "/api/v1/jobs", key, json={**wish, "params": {"end": 0.5}})


@case("would_exceed_timeout")
def _too_slow(bench: Bench) -> Generator[Ask, None, None]:
    batch_id, _ = bench.batch_of(bench.clip)
    wish = {"operation": "trim", "batch_id": batch_id, "params": {"end": 1}}
    assert bench.served.http.post("/api/v1/jobs", json=wish).status_code == 202
    now = bench.served.container.clock.now()
    bench.served.write(lambda tx: tx.rates.put("trim", seconds_per_unit=1e6, measured_at=now))
    yield Ask("POST", "/api/v1/jobs", json=wish)
    with closing(sqlite3.connect(bench.served.data / "tidemill.db")) as db, db:
        db.execute("DELETE FROM job_rates")


@case("job_gone")
def _deleted_job(bench: Bench) -> Generator[Ask, None, None]:
    job_id = bench.ended_job()
    assert bench.served.http.delete(f"/api/v1/jobs/{job_id}").status_code == 204
    yield Ask("GET", f"/api/v1/jobs/{job_id}")


@case("job_finished")
def _finished_job(bench: Bench) -> Generator[Ask, None, None]:
    yield Ask("POST", f"/api/v1/jobs/{bench.ended_job()}/cancel")


@case("job_running")
def _running_job(bench: Bench) -> Generator[Ask, None, None]:
    yield Ask("DELETE", f"/api/v1/jobs/{bench.queued_job()}")


@case("output_gone")
def _deleted_output(bench: Bench) -> Generator[Ask, None, None]:
    output_id, _ = bench.output()
    assert bench.served.http.delete(f"/api/v1/outputs/{output_id}").status_code == 204
    yield Ask("GET", f"/api/v1/outputs/{output_id}")


@case("output_not_ready")
def _early(bench: Bench) -> Generator[Ask, None, None]:
    yield Ask("GET", f"/api/v1/jobs/{bench.queued_job()}/output")


# --- media ----------------------------------------------------------------------------------------


@case("not_media")
def _text(bench: Bench) -> Generator[Ask, None, None]:
    yield bench.trim(b"This is not a video at all. " * 50)


@case("empty_file")
def _empty(bench: Bench) -> Generator[Ask, None, None]:
    yield bench.trim(b"")


@case("no_video_stream")
def _sound(bench: Bench) -> Generator[Ask, None, None]:
    yield bench.trim(_sound_only(bench.clip))


@case("media_over_limits")
def _long(bench: Bench) -> Generator[Ask, None, None]:
    yield bench.trim(bench.long_clip)


@case("trim_out_of_range")
def _outside(bench: Bench) -> Generator[Ask, None, None]:
    yield bench.trim(bench.clip, start=60, end=70)


@case("unsupported_characters")
def _lacking(bench: Bench) -> Generator[Ask, None, None]:
    wish = {"operation": "closing", "params": {"message": "\u6c34\u8eca"}}
    yield Ask("POST", "/api/v1/jobs", json=wish)


@case("not_an_image")
def _animated_logo(bench: Bench) -> Generator[Ask, None, None]:
    _, logo = bench.batch_of(b"GIF89a" + bytes(100), name="logo.png")
    wish = {
        "operation": "closing",
        "params": {"message": "Thank you"},
        "inputs": [{"upload_id": logo, "role": "logo"}],
    }
    yield Ask("POST", "/api/v1/jobs", json=wish)


@case("cannot_copy")
def _not_stored_for_copying(bench: Bench) -> Generator[Ask, None, None]:
    yield bench.trim(_as_transport_stream(bench.clip), start=0, mode="copy")


# --- logs -----------------------------------------------------------------------------------------


def form_of(data: bytes, **fields: str) -> Ask:
    """A log as a browser sends it."""
    request = httpx.Request(
        "POST",
        "http://127.0.0.1/api/upload",
        files={"file": ("log.csv", data, "text/csv")},
        data=fields,
    )
    content_type = {"content-type": request.headers["content-type"]}
    return Ask("POST", "/api/upload", content_type, request.read())


simple("log_not_text", form_of(bytes(5000), timezone="UTC"))
simple("log_header_missing", form_of(as_csv([ANNA], header=None), timezone="UTC"))
simple("log_header_unknown", form_of(b"id,name\n1,x\n", timezone="UTC"))
simple("log_delimiter_unknown", form_of(as_csv([ANNA], delimiter="|"), timezone="UTC"))
simple("log_without_events", form_of(as_csv([]), timezone="UTC"))
simple("timezone_required", form_of(as_csv([ANNA])))


@case("log_too_large")
def _large_log(bench: Bench) -> Generator[Ask, None, None]:
    container = bench.served.container
    logs = dataclasses.replace(container.logs, looks=LogLooks(container.files, 100))
    with bench.served.exchanged(dataclasses.replace(container, logs=logs)):
        yield form_of(as_csv([ANNA]), timezone="UTC")


def _sound_only(clip: bytes) -> bytes:
    """Return the sound of ``clip`` alone, in the same kind of container."""
    out = io.BytesIO()
    with av.open(io.BytesIO(clip), "r") as source, av.open(out, "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return out.getvalue()


def _as_transport_stream(clip: bytes) -> bytes:
    """Return the pictures of ``clip`` in a container that says nowhere where its keyframes are."""
    out = io.BytesIO()
    with av.open(io.BytesIO(clip), "r") as source, av.open(out, "w", format="mpegts") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return out.getvalue()


JOB_CODES = (
    *("input_damaged", "render_failed", "log_failed", "timeout", "worker_lost"),
    "render_cancelled",
)
"""Codes that only a job ends with; that runs end so is tested where they run."""


# --- inside ---------------------------------------------------------------------------------------


class MovedOn:
    """A database whose rows somebody else has always just changed."""

    def __init__(self, db: Database) -> None:
        self.read = db.read
        self.look = db.look
        self.check = db.check
        self.checkpoint = db.checkpoint

    async def write(self, work: Callable[[Transaction], Any]) -> Any:
        raise ConflictingUpdate("The row has moved on.")


@case("conflicting_update")
def _conflict(bench: Bench) -> Generator[Ask, None, None]:
    job_id, container = bench.queued_job(), bench.served.container
    jobs = dataclasses.replace(container.jobs, db=MovedOn(container.db))
    with bench.served.exchanged(dataclasses.replace(container, jobs=jobs)):
        yield Ask("POST", f"/api/v1/jobs/{job_id}/cancel")


@case("database_busy")
def _busy(bench: Bench) -> Generator[Ask, None, None]:
    other = sqlite3.connect(bench.served.data / "tidemill.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield Ask("POST", "/api/v1/upload")
    other.execute("ROLLBACK")
    other.close()


@case("not_ready")
def _starting(bench: Bench) -> Generator[Ask, None, None]:
    with bench.served.exchanged(None):
        yield Ask("POST", "/api/v1/upload")


@case("draining")
def _stopping(bench: Bench) -> Generator[Ask, None, None]:
    stopping = dataclasses.replace(bench.served.container, drain=Drain())
    stopping.drain.begin()
    with bench.served.exchanged(stopping):
        yield Ask("POST", "/api/v1/upload")


@case("sweep_running")
def _sweeping(bench: Bench) -> Generator[Ask, None, None]:
    now, ttl = bench.served.container.clock.now(), timedelta(minutes=5)
    lease = "sweep:stale_sessions"
    bench.served.write(lambda tx: tx.leases.acquire(lease, "another", now=now, ttl=ttl))
    yield Ask("POST", "/api/v1/sweeps/stale_sessions")
    bench.served.write(lambda tx: tx.leases.release(lease, "another"))


class Broken:
    """A part with a bug."""

    async def report(self) -> None:
        raise RuntimeError("a secret /path of the inside")


@case("internal_error")
def _bug(bench: Bench) -> Generator[Ask, None, None]:
    container = bench.served.container
    broken: Any = dataclasses.replace(container, storage=Broken())  # type: ignore[arg-type]
    with bench.served.exchanged(broken):
        yield Ask("GET", "/api/v1/storage")


# --- all of them ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(served: Served, keyed: Served, clip: bytes, long_clip: bytes) -> Bench:
    return Bench(served, keyed, clip, long_clip)


@contextmanager
def prepared(work: Case, bench: Bench) -> Iterator[Ask]:
    """Run a case up to its request, and clean up after it."""
    steps = work(bench)
    yield next(steps)
    with pytest.raises(StopIteration):
        next(steps)


BY_CODE = {error.code: error for error in catalogue()}


def test_every_code_there_is_has_its_case() -> None:
    assert set(CASES) | set(JOB_CODES) == set(BY_CODE)


@pytest.mark.parametrize("code", sorted(CASES))
def test_an_error_is_what_the_description_says_and_changes_nothing(
    bench: Bench, described: Described, code: str
) -> None:
    error: type[AppError] = BY_CODE[code]
    service = bench.keyed if code in ON_KEYED else bench.served
    headers = dict(service.http.headers)
    with prepared(CASES[code], bench) as ask:
        before = service.state()
        response = ask.send(service.http)
        after = service.state()
    service.http.headers.update(headers)
    assert response.status_code == STATUS[error.kind], response.text
    assert after == before
    assert response.headers["x-request-id"]
    if ask.path.startswith("/files"):
        assert response.headers["tus-resumable"] == "1.0.0"
    if ask.method == "HEAD":
        assert response.content == b""
        return
    assert response.headers["content-type"] == "application/problem+json"
    body = described.check(response)
    assert body["code"] == code
    assert body["type"] == f"/docs/errors#{code}"
    assert body["title"] == error.title
    assert body["status"] == response.status_code
    assert len(body["detail"]) > 10
    assert body["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("code", JOB_CODES)
def test_a_job_tells_the_code_it_failed_with(bench: Bench, described: Described, code: str) -> None:
    error = JobError(code=code, message="It went wrong.", detail={"a": 1})
    job_id = bench.ended_job(status=JobStatus.FAILED, error=error)
    response = bench.served.http.get(f"/api/v1/jobs/{job_id}")
    body = described.check(response)
    assert body["status"] == "failed"
    assert body["error"] == {"code": code, "message": "It went wrong.", "detail": {"a": 1}}
    refused = bench.served.http.get(f"/api/v1/jobs/{job_id}/output")
    told = described.check(refused)
    assert (refused.status_code, told["error_code"]) == (409, code)
    assert "retry-after" not in refused.headers


def test_a_bug_leaves_its_traceback_in_the_log_and_nothing_in_the_answer(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    with prepared(CASES["internal_error"], bench) as ask:
        asked = dataclasses.replace(
            ask, headers={"x-request-id": "find-me-1", "origin": "http://localhost:3000"}
        )
        response = asked.send(bench.served.http)
    assert response.json()["request_id"] == "find-me-1"
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "secret" not in response.text
    lines = capfd.readouterr()
    crashed = [line for line in (lines.out + lines.err).splitlines() if "request.crashed" in line]
    assert len(crashed) == 1
    told = json.loads(crashed[0])
    assert told["request_id"] == "find-me-1"
    assert "RuntimeError" in crashed[0]
    assert new_id() not in response.text


def test_an_error_in_a_page_of_another_site_can_be_read_where_that_site_is_allowed(
    served: Served,
) -> None:
    for path in ("/api/v1/jobs/x", "/nowhere", f"/files/{NOBODY}"):
        response = served.http.get(path, headers={"origin": "http://localhost:3000"})
        assert response.status_code == 404
        assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "X-Request-ID" in response.headers["access-control-expose-headers"]
