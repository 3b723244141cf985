"""Sessions over HTTP: opened, filled, looked at, left."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.domain.tombstones import ThingKind
from tests.factories import make_session
from tests.fakes.described import Described
from tests.fakes.served import TUS, Served, wait_for

THEN = {"operation": "trim", "params": {"end": 1}}


def test_a_session_says_where_to_upload_and_how_to_name_it(
    served: Served, described: Described
) -> None:
    response = served.http.post("/api/v1/upload", json={"expected_files": 2, "then": THEN})
    body = described.check(response)
    assert response.status_code == 201
    session_id = body["session_id"]
    assert response.headers["location"] == f"/api/v1/upload/{session_id}"
    assert {key: body[key] for key in body if not key.endswith("_at")} == {
        "session_id": session_id,
        "status": "open",
        "expected_files": 2,
        "then": {**THEN, "timeout_seconds": None, "one_time": False},
        "keep_inputs_hours": None,
        "uploads": [],
        "batch_id": None,
        "tus": {"endpoint": "/files/", "metadata": {"session": session_id}},
    }
    lifetime = _time(body["expires_at"]) - _time(body["created_at"])
    assert lifetime == timedelta(hours=24)
    assert served.http.get(response.headers["location"]).json() == body


@pytest.mark.parametrize("content", [None, b"", b"{}", b"null"])
def test_a_session_needs_no_wishes(served: Served, content: bytes | None) -> None:
    headers = {"content-type": "application/json"} if content else {}
    response = served.http.post("/api/v1/upload", content=content, headers=headers)
    assert response.status_code == 201
    assert response.json()["expected_files"] is None


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"expected_files": 0}, "expected_files"),
        ({"expected_files": 1001}, "expected_files"),
        ({"expected_files": "3"}, "expected_files"),
        ({"expected_files": True}, "expected_files"),
        ({"expected_files": 1.5}, "expected_files"),
        ({"expected": 1}, "expected"),
        ({"one_time": True}, "one_time"),
        ({"then": {**THEN, "one_time": "yes"}}, "then.one_time"),
        ({"then": {**THEN, "one_time": None}}, "then.one_time"),
        ({"then": {**THEN, "priority": 1}}, "then.priority"),
        ({"keep_inputs_hours": -1}, "keep_inputs_hours"),
        ({"keep_inputs_hours": 720.1}, "keep_inputs_hours"),
        ({"keep_inputs_hours": "48"}, "keep_inputs_hours"),
        ({"keep_inputs_hours": True}, "keep_inputs_hours"),
        ({"then": {"params": {}}}, "then.operation"),
        ({"then": {"operation": "trim", "params": [1]}}, "then.params"),
        ({"then": {**THEN, "timeout_seconds": -1}}, "then.timeout_seconds"),
        ({"then": "trim"}, "then"),
        ([], "body"),
    ],
)
def test_a_wrong_wish_is_named_and_no_session_is_opened(
    served: Served, described: Described, body: Any, loc: str
) -> None:
    before = served.state()
    response = served.http.post("/api/v1/upload", json=body)
    told = described.check(response)
    assert (response.status_code, told["code"]) == (422, "invalid_request")
    assert [entry["loc"] for entry in told["errors"]] == [loc]
    assert loc in told["detail"]
    assert served.state() == before


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ({"operation": "polish", "params": {}}, "unknown_operation"),
        ({"operation": "trim", "params": {"end": "soon"}}, "invalid_params"),
        ({"operation": "trim", "params": {}}, "invalid_params"),
        ({"operation": "trim", "params": {"start": 5, "end": 2}}, "trim_out_of_range"),
        ({**THEN, "timeout_seconds": 1e6}, "invalid_request"),
    ],
)
def test_a_then_that_could_never_run_is_refused_before_anything_is_uploaded(
    served: Served, described: Described, then: dict[str, Any], code: str
) -> None:
    response = served.http.post("/api/v1/upload", json={"then": then})
    assert described.check(response)["code"] == code
    assert response.status_code == 422


def test_a_session_tells_of_its_uploads_as_they_are_now(
    served: Served, described: Described
) -> None:
    session_id = served.open_session()
    first = served.create_upload(5, session=session_id, filename="a b.mp4", filetype="video/mp4")
    served.patch(first, 0, b"abc")
    second = served.upload(b"xyz", session=session_id)
    body = described.check(served.http.get(f"/api/v1/upload/{session_id}"))
    one, two = body["uploads"]
    assert (one["id"], one["status"], one["offset"], one["length"]) == (first, "receiving", 3, 5)
    assert (one["filename"], one["media_type"]) == ("a b.mp4", "video/mp4")
    assert one["metadata"]["session"] == session_id
    assert one["expires_at"].endswith("Z")
    assert (two["id"], two["status"], two["offset"]) == (second, "completed", 3)
    assert two["filename"] == second
    assert two["completed_at"].endswith("Z")
    assert described.check(served.http.get(f"/api/v1/uploads/{first}")) == one


def test_a_full_session_is_a_batch_with_a_job_for_each_file(
    served: Served, described: Described
) -> None:
    session_id = served.open_session(expected_files=2, then=THEN)
    files = [served.upload(b"one", session=session_id), served.upload(b"two", session=session_id)]
    session = served.http.get(f"/api/v1/upload/{session_id}").json()
    batch = described.check(served.http.get(f"/api/v1/batches/{session['batch_id']}"))
    assert (session["status"], session["expires_at"]) == ("batched", batch["expires_at"])
    assert [file["id"] for file in batch["files"]] == files
    assert [job["operation"] for job in batch["jobs"]] == ["trim", "trim"]
    assert batch["status"] == "processing"
    jobs = served.http.get("/api/v1/jobs", params={"batch_id": batch["id"]}).json()["items"]
    assert {job["inputs"][0]["upload_id"] for job in jobs} == set(files)


def test_looking_at_a_session_keeps_it_alive(served: Served) -> None:
    session_id = served.open_session()
    old = served.container.clock.now() - timedelta(hours=23)
    served.write(lambda tx: tx.sessions.touch(session_id, old))
    body = served.http.get(f"/api/v1/upload/{session_id}").json()
    left = _time(body["expires_at"]) - served.container.clock.now()
    assert left > timedelta(hours=23)
    session = served.read(lambda tx: tx.sessions.find(session_id))
    assert session is not None
    assert session.active_at > old + timedelta(hours=22)


def test_a_session_is_left_with_everything_in_it(served: Served, described: Described) -> None:
    session_id = served.open_session()
    uploads = [
        served.upload(b"abc", session=session_id),
        served.create_upload(9, session=session_id),
    ]
    assert served.http.delete(f"/api/v1/upload/{session_id}").status_code == 204
    _, files = served.state()
    assert not any(upload in path for path in files for upload in uploads)
    assert served.read(lambda tx: tx.cleanup.count()) == 0
    gone = described.check(served.http.get(f"/api/v1/upload/{session_id}"))
    assert (gone["code"], gone["reason"], gone["sweep"]) == (
        "session_gone",
        "session_deleted",
        None,
    )
    assert gone["deleted_at"].endswith("Z")
    for upload in uploads:
        assert served.http.head(f"/files/{upload}", headers=TUS).status_code == 410
        told = described.check(served.http.get(f"/api/v1/uploads/{upload}"))
        assert told["reason"] == "session_deleted"


def test_leaving_a_session_stops_the_writer_and_nothing_comes_back(served: Served) -> None:
    session_id = served.open_session()
    upload_id = served.create_upload(1000, session=session_id)
    path = served.data / "uploads" / upload_id
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as writer:
        head = (
            f"PATCH /files/{upload_id} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\n"
            "Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n"
            "Content-Length: 1000\r\n\r\n"
        )
        writer.sendall(head.encode() + b"x" * 400)
        wait_for(lambda: served.container.locks.is_held(upload_id))
        began = time.monotonic()
        assert served.http.delete(f"/api/v1/upload/{session_id}").status_code == 204
        assert time.monotonic() - began < 5
        assert not path.exists()
        with suppress(OSError):
            writer.sendall(b"x" * 600)
        assert b"204 No Content" not in _rest(writer)
    assert not path.exists()
    assert served.read(lambda tx: tx.uploads.find(upload_id)) is None
    assert served.read(lambda tx: tx.tombstones.find(ThingKind.UPLOAD, upload_id)) is not None


def test_eight_clients_leaving_at_once_leave_once(served: Served) -> None:
    session_id = served.open_session()
    served.create_upload(9, session=session_id)
    with ThreadPoolExecutor(8) as pool:
        leaving = [
            pool.submit(served.http.delete, f"/api/v1/upload/{session_id}") for _ in range(8)
        ]
        answers = sorted(each.result().status_code for each in leaving)
    assert answers == [204, *[410] * 7]


def test_what_belongs_to_somebody_else_is_not_there(served: Served, described: Described) -> None:
    now = served.container.clock.now()
    theirs = make_session(owner="somebody-else", created_at=now, active_at=now)
    served.write(lambda tx: tx.sessions.insert(theirs))
    before = served.state()
    path = f"/api/v1/upload/{theirs.id}"
    for response in (served.http.get(path), served.http.delete(path)):
        assert described.check(response)["code"] == "session_not_found"
    answer = served.http.post("/api/v1/batches", json={"session_id": theirs.id})
    assert described.check(answer)["code"] == "session_not_found"
    assert served.state() == before


@pytest.mark.parametrize("bad", ["x", "0" * 31, "0" * 33, "A" * 32, "..", "%00", "0" * 31 + "%0A"])
def test_an_id_that_is_none_is_not_found(served: Served, bad: str) -> None:
    for kind in ("upload", "uploads", "batches", "jobs", "outputs"):
        response = served.http.get(f"/api/v1/{kind}/{bad}")
        assert response.status_code == 404, kind
        assert response.json()["code"].endswith("_not_found")


def _time(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def _rest(connection: socket.socket) -> bytes:
    """Whatever still comes, up to the end of the connection."""
    found = b""
    with suppress(ConnectionError):
        while b"\r\n\r\n" not in found and (piece := connection.recv(65536)):
            found += piece
    return found
