"""Asking for a batch: of what is finished only, with a key, and when a completion was lost."""

import dataclasses
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from app.domain.ids import new_id
from tests.fakes.described import Described
from tests.fakes.served import TUS, Served, wait_for

TRIM = {"operation": "trim", "params": {"end": 1}}


def ask(served: Served, session_id: str, key: str | None = None, **more: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    body = {"session_id": session_id, **more}
    return served.http.post("/api/v1/batches", json=body, headers=headers)


def superseded(served: Served) -> float:
    text = served.http.get("/metrics").text
    name = 'tidemill_upload_finished_total{outcome="superseded"} '
    return sum(float(line.removeprefix(name)) for line in text.splitlines() if name in line)


@contextmanager
def writer(served: Served, upload_id: str, length: int) -> Iterator[socket.socket]:
    """A client in the middle of a PATCH that it will never finish."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        head = (
            f"PATCH /files/{upload_id} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\n"
            "Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n"
            f"Content-Length: {length}\r\n\r\n"
        )
        connection.sendall(head.encode() + b"x" * (length // 2))
        wait_for(lambda: served.container.locks.is_held(upload_id))
        yield connection


# --- only_completed ------------------------------------------------------------------------------


def test_only_completed_takes_the_finished_and_ends_the_others(
    served: Served, described: Described
) -> None:
    session_id = served.open_session(expected_files=3, then=TRIM)
    done = served.upload(b"abc", session=session_id)
    begun = served.create_upload(10, session=session_id)
    served.patch(begun, 0, b"abcd")
    written = served.create_upload(1000, session=session_id)
    before = superseded(served)
    with writer(served, written, 1000) as connection:
        began = time.monotonic()
        response = ask(served, session_id, only_completed=True)
        assert time.monotonic() - began < 5
        batch = described.check(response)
        assert response.status_code == 201
        # Whoever was writing is told, and can do nothing more.
        assert b" 204 " not in connection.recv(65536)
    assert [file["id"] for file in batch["files"]] == [done]
    assert [job["operation"] for job in batch["jobs"]] == ["trim"]
    assert superseded(served) == before + 2
    for upload_id in (begun, written):
        assert not (served.data / "uploads" / upload_id).exists()
        assert served.http.head(f"/files/{upload_id}", headers=TUS).status_code == 410
        late = served.patch(upload_id, 4, b"efghij")
        assert (late.status_code, late.json()["reason"]) == (410, "superseded")
        told = described.check(served.http.get(f"/api/v1/uploads/{upload_id}"))
        assert (told["code"], told["reason"]) == ("upload_gone", "superseded")
    assert served.read(lambda tx: tx.cleanup.count()) == 0
    again = ask(served, session_id, only_completed=True)
    assert (again.status_code, again.json()["id"]) == (200, batch["id"])


def test_without_a_finished_upload_nothing_is_ended(served: Served, described: Described) -> None:
    session_id = served.open_session()
    empty = described.check(ask(served, session_id, only_completed=True))
    assert empty["code"] == "session_empty"
    upload_id = served.create_upload(10, session=session_id)
    served.patch(upload_id, 0, b"abcd")
    before = served.state()
    response = ask(served, session_id, only_completed=True)
    told = described.check(response)
    assert (response.status_code, told["code"], told["unfinished"]) == (409, "session_empty", 1)
    assert served.state() == before
    assert served.patch(upload_id, 4, b"efghij").status_code == 204


def test_only_completed_is_no_matter_where_all_are(served: Served) -> None:
    session_id = served.open_session()
    served.upload(b"abc", session=session_id)
    assert ask(served, session_id, only_completed=True).status_code == 201
    assert ask(served, session_id, only_completed=False).status_code == 200


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_only_completed_is_true_or_false(
    served: Served, described: Described, wrong: object
) -> None:
    session_id = served.open_session()
    told = described.check(ask(served, session_id, only_completed=wrong))
    assert [entry["loc"] for entry in told["errors"]] == ["only_completed"]


def test_a_writer_that_does_not_let_go_loses_its_bytes_later(served: Served) -> None:
    session_id = served.open_session()
    served.upload(b"abc", session=session_id)
    stuck = served.create_upload(10, session=session_id)
    served.patch(stuck, 0, b"abcd")
    with served.held(stuck):
        began = time.monotonic()
        assert ask(served, session_id, only_completed=True).status_code == 201
        assert time.monotonic() - began < 10
        assert served.read(lambda tx: tx.cleanup.count()) == 1
    assert served.http.post("/api/v1/sweeps/spent_inputs").json()["bytes_freed"] == 4
    assert not (served.data / "uploads" / stuck).exists()
    assert served.read(lambda tx: tx.cleanup.count()) == 0


@pytest.mark.parametrize("only_completed", [True, False])
def test_an_upload_that_lost_only_its_completion_counts_as_complete(
    served: Served, described: Described, only_completed: bool
) -> None:
    session_id = served.open_session()
    first = served.upload(b"abc", session=session_id)
    whole = served.create_upload(6, session=session_id)
    # All bytes came, and then the process died before it wrote so.
    (served.data / "uploads" / whole).write_bytes(b"abcdef")
    response = ask(served, session_id, only_completed=only_completed)
    batch = described.check(response)
    assert response.status_code == 201
    assert {file["id"] for file in batch["files"]} == {first, whole}


# --- Idempotency-Key -----------------------------------------------------------------------------


def test_the_same_request_is_answered_as_the_first_time(
    served: Served, described: Described
) -> None:
    session_id, key = served.open_session(), new_id()
    served.upload(b"abc", session=session_id)
    first, second = ask(served, session_id, key), ask(served, session_id, key)
    batch = described.check(first)
    assert described.check(second) == batch
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    plain = ask(served, session_id)
    assert (plain.status_code, "idempotency-replayed" in plain.headers) == (200, False)


def test_a_key_that_found_a_batch_goes_on_answering_200(served: Served) -> None:
    session_id, key = served.open_session(), new_id()
    served.upload(b"abc", session=session_id)
    assert ask(served, session_id).status_code == 201
    answers = [ask(served, session_id, key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].headers["idempotency-replayed"] == "true"


def test_a_key_belongs_to_its_body(served: Served, described: Described) -> None:
    session_id, key = served.open_session(), new_id()
    served.upload(b"abc", session=session_id)
    assert ask(served, session_id, key).status_code == 201
    response = ask(served, session_id, key, only_completed=True)
    told = described.check(response)
    assert (response.status_code, told["code"]) == (422, "idempotency_key_reused")
    # The same key of another call is another key.
    opened = served.http.post("/api/v1/upload", json={}, headers={"Idempotency-Key": key})
    assert opened.status_code == 201


def test_a_replay_of_what_is_gone_says_so(served: Served, described: Described) -> None:
    session_id, key = served.open_session(), new_id()
    served.upload(b"abc", session=session_id)
    batch = ask(served, session_id, key).json()
    assert served.http.delete(f"/api/v1/batches/{batch['id']}").status_code == 204
    response = ask(served, session_id, key)
    told = described.check(response)
    assert (response.status_code, told["code"]) == (410, "batch_gone")


def test_a_refused_request_leaves_its_key_free(served: Served) -> None:
    session_id, key = served.open_session(), new_id()
    assert ask(served, session_id, key).status_code == 409
    served.upload(b"abc", session=session_id)
    assert ask(served, session_id, key).status_code == 201


def test_eight_requests_of_one_key_at_once_make_one_batch(served: Served) -> None:
    session_id, key = served.open_session(then=TRIM), new_id()
    served.upload(b"abc", session=session_id)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(served, session_id, key), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    replays = [answer.headers.get("idempotency-replayed") for answer in answers]
    assert sorted(replays, key=str) == [None, *["true"] * 7]
    assert len(answers[0].json()["jobs"]) == 1


def test_a_session_is_opened_once_for_its_key(served: Served, described: Described) -> None:
    key, wish = new_id(), {"expected_files": 2, "then": TRIM, "keep_inputs_hours": 3}
    headers = {"Idempotency-Key": key}

    def open_it(body: dict[str, Any]) -> httpx.Response:
        return served.http.post("/api/v1/upload", json=body, headers=headers)

    first = open_it(wish)
    session_id = described.check(first)["session_id"]
    served.upload(b"abc", session=session_id)
    second = open_it(dict(reversed(wish.items())))
    now = described.check(second)
    assert (second.status_code, second.headers["location"]) == (201, first.headers["location"])
    assert (now["session_id"], len(now["uploads"])) == (session_id, 1)
    assert second.headers["idempotency-replayed"] == "true"
    assert described.check(open_it({}))["code"] == "idempotency_key_reused"
    served.upload(b"def", session=session_id)
    assert open_it(wish).json()["status"] == "batched"
    batch_id = open_it(wish).json()["batch_id"]
    path = f"/api/v1/batches/{batch_id}"
    assert served.http.delete(path, params={"cancel": "true"}).status_code == 204
    assert described.check(open_it(wish))["code"] == "session_gone"


# --- what a session promises ---------------------------------------------------------------------


def test_a_session_lasts_as_long_as_its_uploads_may_be_continued(served: Served) -> None:
    session_id = served.open_session()
    upload_id = served.create_upload(10, session=session_id)
    promised = served.http.get(f"/api/v1/uploads/{upload_id}").json()["expires_at"]
    container = served.container
    short = dataclasses.replace(container.sessions.policy, max_age=timedelta(hours=1))
    sessions = dataclasses.replace(container.sessions, policy=short)
    path = f"/api/v1/upload/{session_id}"
    with served.exchanged(dataclasses.replace(container, sessions=sessions)):
        assert served.http.get(path).json()["expires_at"] == promised
        served.patch(upload_id, 0, b"x" * 10)
        left = datetime.fromisoformat(served.http.get(path).json()["expires_at"])
    assert left - container.clock.now() <= timedelta(hours=1)
