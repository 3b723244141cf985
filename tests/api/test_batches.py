"""Batches over HTTP: made, listed, looked at, removed."""

import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.domain.jobs import InputRole, JobInput, JobStatus
from app.domain.tombstones import ThingKind
from tests.factories import insert_all, make_ended_job, make_job, make_output
from tests.fakes.described import Described
from tests.fakes.served import TUS, Served

TRIM = {"operation": "trim", "params": {"end": 1}}


def start_job(served: Served, batch: dict[str, Any]) -> str:
    response = served.http.post("/api/v1/jobs", json={**TRIM, "batch_id": batch["id"]})
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def test_a_session_becomes_a_batch_once(served: Served, described: Described) -> None:
    session_id = served.open_session()
    upload_id = served.upload(b"abc", session=session_id, filename="a.mp4", filetype="video/mp4")
    ask = {"session_id": session_id}
    first = served.http.post("/api/v1/batches", json=ask)
    again = served.http.post("/api/v1/batches", json=ask)
    assert (first.status_code, again.status_code) == (201, 200)
    batch = described.check(first)
    assert described.check(again) == batch
    for response in (first, again):
        assert response.headers["location"] == f"/api/v1/batches/{batch['id']}"
    file = {
        "id": upload_id,
        "filename": "a.mp4",
        "media_type": "video/mp4",
        "size_bytes": 3,
        "sha256": hashlib.sha256(b"abc").hexdigest(),
        "media": None,
    }
    assert batch["files"] == [file]
    assert (batch["session_id"], batch["status"], batch["jobs"]) == (session_id, "ready", [])
    head = served.http.head(f"/files/{upload_id}", headers=TUS)
    assert head.headers["tidemill-batch"] == batch["id"]


def test_eight_wishes_at_once_make_one_batch(served: Served) -> None:
    session_id = served.open_session(then=TRIM)
    served.upload(b"abc", session=session_id)
    with ThreadPoolExecutor(8) as pool:
        asks = [
            pool.submit(served.http.post, "/api/v1/batches", json={"session_id": session_id})
            for _ in range(8)
        ]
        answers = [ask.result() for ask in asks]
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(answers[0].json()["jobs"]) == 1


def test_unfinished_uploads_are_listed_with_what_is_missing(
    served: Served, described: Described
) -> None:
    session_id = served.open_session()
    served.upload(b"abc", session=session_id)
    waiting = served.create_upload(10, session=session_id)
    served.patch(waiting, 0, b"abcd")
    response = served.http.post("/api/v1/batches", json={"session_id": session_id})
    told = described.check(response)
    assert (response.status_code, told["code"]) == (409, "uploads_unfinished")
    assert told["uploads"] == [{"id": waiting, "offset": 4, "length": 10}]
    served.patch(waiting, 4, b"efghij")
    assert served.http.post("/api/v1/batches", json={"session_id": session_id}).status_code == 201


def test_fewer_files_than_expected_can_be_made_a_batch(served: Served) -> None:
    session_id = served.open_session(expected_files=3)
    served.upload(b"abc", session=session_id)
    response = served.http.post("/api/v1/batches", json={"session_id": session_id})
    assert response.status_code == 201
    assert len(response.json()["files"]) == 1


def test_batches_come_in_pages_newest_first_without_gap_or_double(
    served: Served, described: Described
) -> None:
    made = [served.make_batch(b"x")["id"] for _ in range(5)]
    seen: list[str] = []
    parameters: dict[str, Any] = {"limit": 2}
    while True:
        response = served.http.get("/api/v1/batches", params=parameters)
        page = described.check(response)
        assert len(page["items"]) <= 2
        seen += [batch["id"] for batch in page["items"]]
        if page["next"] is None:
            break
        parameters["cursor"] = page["next"]
        if len(seen) == 2:
            served.make_batch(b"newer, and no business of the pages that follow")
    assert len(seen) == len(set(seen))
    assert [batch for batch in seen if batch in made] == made[::-1]


@pytest.mark.parametrize(
    ("parameters", "loc"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": ""}, "cursor"),
        ({"cursor": "x" * 600}, "cursor"),
        ({"page": "2"}, "page"),
    ],
)
def test_a_wrong_page_is_refused_and_named(
    served: Served, described: Described, parameters: dict[str, str], loc: str
) -> None:
    for kind in ("batches", "jobs"):
        response = served.http.get(f"/api/v1/{kind}", params=parameters)
        told = described.check(response)
        assert (response.status_code, told["errors"][0]["loc"]) == (422, loc)


def test_using_a_batch_moves_its_end_on(served: Served) -> None:
    batch = served.make_batch(b"abc")
    container = served.container
    longer = dataclasses.replace(container.batches.policy, batch_ttl=timedelta(hours=48))
    batches = dataclasses.replace(container.batches, policy=longer)
    with served.exchanged(dataclasses.replace(container, batches=batches)):
        body = served.http.get(f"/api/v1/batches/{batch['id']}").json()
    left = datetime.fromisoformat(body["expires_at"]) - container.clock.now()
    assert timedelta(hours=47) < left <= timedelta(hours=48)
    row = served.read(lambda tx: tx.batches.find(batch["id"]))
    assert row is not None
    assert row.expires_at == datetime.fromisoformat(body["expires_at"])


def test_a_batch_with_a_waiting_job_goes_only_when_asked_twice(
    served: Served, described: Described, clip: bytes
) -> None:
    batch = served.make_batch(clip)
    job_id = start_job(served, batch)
    path = f"/api/v1/batches/{batch['id']}"
    before = served.state()
    refused = served.http.delete(path)
    told = described.check(refused)
    assert (refused.status_code, told["code"], told["jobs"]) == (409, "job_running", [job_id])
    assert served.state() == before
    assert served.http.delete(path, params={"cancel": "true"}).status_code == 204
    assert described.check(served.http.get(path))["code"] == "batch_gone"
    for address in (f"/api/v1/jobs/{job_id}", f"/api/v1/uploads/{batch['files'][0]['id']}"):
        assert described.check(served.http.get(address))["reason"] == "batch_deleted"
    assert described.check(served.http.delete(path))["code"] == "batch_gone"


def test_a_batch_takes_its_jobs_and_their_outputs_with_it(
    served: Served, described: Described
) -> None:
    batch = served.make_batch(b"abc")
    now = served.container.clock.now()
    job = make_ended_job(batch_id=batch["id"], inputs=(), created_at=now)
    output = make_output(job_id=job.id, created_at=now)
    served.write(lambda tx: insert_all(tx, job, output))
    stored = served.data / "outputs" / output.id
    stored.parent.mkdir(exist_ok=True)
    stored.write_bytes(b"output")
    assert served.http.get(f"/api/v1/batches/{batch['id']}").json()["status"] == "completed"
    assert served.http.delete(f"/api/v1/batches/{batch['id']}").status_code == 204
    assert not stored.exists()
    assert served.read(lambda tx: tx.cleanup.count()) == 0
    for kind, thing in ((ThingKind.JOB, job.id), (ThingKind.OUTPUT, output.id)):
        buried = served.read(lambda tx, k=kind, t=thing: tx.tombstones.find(k, t))  # type: ignore[misc]
        assert buried is not None
    assert described.check(served.http.get(f"/api/v1/outputs/{output.id}"))["code"] == "output_gone"


def test_a_job_elsewhere_that_still_reads_the_files_holds_them(
    served: Served, described: Described, clip: bytes
) -> None:
    batch, other = served.make_batch(clip), served.make_batch(clip)
    upload_id = batch["files"][0]["id"]
    ask = {**TRIM, "inputs": [{"upload_id": upload_id}]}
    job_id = served.http.post("/api/v1/jobs", json=ask).json()["id"]
    job = served.read(lambda tx: tx.jobs.find(job_id))
    assert job is not None
    told = described.check(served.http.delete(f"/api/v1/batches/{batch['id']}"))
    assert told["jobs"] == [job_id]
    assert served.http.delete(f"/api/v1/batches/{other['id']}").status_code == 204
    gone = served.http.delete(f"/api/v1/batches/{batch['id']}?cancel=true")
    assert gone.status_code == 204


def test_a_job_elsewhere_that_still_reads_an_output_of_the_batch_holds_it(
    served: Served, described: Described
) -> None:
    batch = served.make_batch(b"abc")
    now = served.container.clock.now()
    job = make_ended_job(batch_id=batch["id"], inputs=(), created_at=now)
    output = make_output(job_id=job.id, created_at=now)
    reads = JobInput(role=InputRole.CLIP, output_id=output.id)
    reader = make_job(inputs=(reads,), created_at=now)
    served.write(lambda tx: insert_all(tx, job, output, reader))
    path = f"/api/v1/batches/{batch['id']}"
    told = described.check(served.http.delete(path))
    assert (told["code"], told["jobs"]) == ("job_running", [reader.id])
    assert served.read(lambda tx: tx.outputs.find(output.id)) is not None
    assert served.http.delete(path, params={"cancel": "true"}).status_code == 204
    ended = served.read(lambda tx: tx.jobs.find(reader.id))
    assert ended is not None
    assert ended.status is JobStatus.CANCELLED


def test_a_file_that_was_spent_is_listed_as_deleted(served: Served, described: Described) -> None:
    batch = served.make_batch(b"abc", b"def")
    spent = batch["files"][0]["id"]
    past = served.container.clock.now() - timedelta(minutes=1)
    served.write(lambda tx: tx.uploads.set_spent(spent, past))
    assert served.http.post("/api/v1/sweeps/spent_inputs").json()["removed"] == 1
    body = described.check(served.http.get(f"/api/v1/batches/{batch['id']}"))
    assert [file["id"] for file in body["files"]] == [batch["files"][1]["id"]]
    assert [(file["id"], file["reason"]) for file in body["deleted_files"]] == [(spent, "spent")]
