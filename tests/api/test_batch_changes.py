"""keep_inputs_hours over HTTP, and moving the end of a batch."""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from app.domain.jobs import InputRole, JobError, JobInput, JobStatus
from app.domain.sweeps import SweepName
from app.domain.tombstones import Reason, ThingKind
from tests.factories import insert_all, make_ended_job, make_tombstone
from tests.fakes.described import Described
from tests.fakes.served import TUS, Served, wait_for

HOUR = timedelta(hours=1)
CLOSE = timedelta(seconds=20)
TRIM = {"operation": "trim", "params": {"end": 1}}


def shown(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def change(served: Served, batch: dict[str, Any], **body: Any) -> httpx.Response:
    return served.http.patch(f"/api/v1/batches/{batch['id']}", json=body)


def get(served: Served, batch: dict[str, Any]) -> dict[str, Any]:
    response = served.http.get(f"/api/v1/batches/{batch['id']}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def until(body: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(body["expires_at"])


def ended_job(
    served: Served, batch: dict[str, Any], *, ago: timedelta, status: JobStatus, **more: Any
) -> str:
    """A job that read the batch's first file and ended some time ago, with its hold."""
    upload_id = batch["files"][0]["id"]
    at = served.container.clock.now() - ago
    job = make_ended_job(
        batch_id=batch["id"],
        inputs=(JobInput(role=InputRole.CLIP, upload_id=upload_id),),
        status=status,
        created_at=at,
        completed_at=at,
        expires_at=at + 24 * HOUR,
        **more,
    )
    served.write(lambda tx: insert_all(tx, job))
    served.write(lambda tx: tx.uploads.set_spent(upload_id, at + HOUR))
    return job.id


@pytest.mark.parametrize("hours", [0, 0.25, 48, 720])
def test_a_session_tells_its_batch_how_long_to_keep_files(
    served: Served, described: Described, hours: float
) -> None:
    response = served.http.post("/api/v1/upload", json={"keep_inputs_hours": hours})
    session = described.check(response)
    assert session["keep_inputs_hours"] == hours
    served.upload(b"abc", session=session["session_id"])
    ask = {"session_id": session["session_id"]}
    batch = described.check(served.http.post("/api/v1/batches", json=ask))
    assert batch["keep_inputs_hours"] == hours
    assert get(served, batch)["keep_inputs_hours"] == hours
    path = f"/api/v1/upload/{session['session_id']}"
    assert described.check(served.http.get(path))["keep_inputs_hours"] == hours


def test_the_end_of_a_batch_moves_forward_and_back(served: Served, described: Described) -> None:
    batch, now = served.make_batch(b"abc"), served.container.clock.now()
    for hours in (700, 2, 48):
        wished = now + hours * HOUR
        response = change(served, batch, expires_at=shown(wished))
        body = described.check(response)
        assert (response.status_code, until(body)) == (200, wished)
        row = served.read(lambda tx: tx.batches.find(batch["id"]))
        assert row is not None
        assert row.expires_at == wished
        # Looking does not move on what was asked for.
        assert until(get(served, batch)) == wished
        assert until(change(served, batch, keep_inputs_hours=1).json()) == wished
    there = (now + 30 * HOUR).astimezone(timezone(2 * HOUR)).isoformat()
    assert change(served, batch, expires_at=there).json()["expires_at"] == shown(now + 30 * HOUR)


def test_a_batch_that_was_given_less_time_goes_then(served: Served, described: Described) -> None:
    batch = served.make_batch(b"abc")
    soon = served.container.clock.now() + timedelta(milliseconds=400)
    assert change(served, batch, expires_at=shown(soon)).status_code == 200
    wait_for(lambda: served.container.clock.now() > soon)
    report = served.http.post(f"/api/v1/sweeps/{SweepName.EXPIRED_BATCHES}").json()
    assert batch["id"] in [victim["id"] for victim in report["victims"]]
    told = described.check(served.http.get(f"/api/v1/batches/{batch['id']}"))
    assert (told["code"], told["reason"]) == ("batch_gone", "batch_expired")


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59Z"}, "expires_at"),
        ({"expires_at": "2031-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "2031-01-01"}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"expires_at": "1924992000"}, "expires_at"),
        ({"expires_at": 1924992000}, "expires_at"),
        ({"keep_inputs_hours": -0.1}, "keep_inputs_hours"),
        ({"keep_inputs_hours": 721}, "keep_inputs_hours"),
        ({"keep_inputs_hours": "1"}, "keep_inputs_hours"),
        ({"keep_inputs_hours": True}, "keep_inputs_hours"),
        ({"keep_inputs_hours": 1, "ttl": 3}, "ttl"),
        ({"expires_at": None}, "expires_at"),
        ({}, "body"),
        ([], "body"),
        ("keep_inputs_hours", "body"),
    ],
)
def test_a_wrong_change_is_named_and_changes_nothing(
    served: Served, described: Described, body: Any, loc: str
) -> None:
    batch = served.make_batch(b"abc")
    before = served.state()
    response = served.http.patch(f"/api/v1/batches/{batch['id']}", json=body)
    told = described.check(response)
    assert (response.status_code, told["code"]) == (422, "invalid_request"), told
    assert [entry["loc"] for entry in told["errors"]] == [loc]
    assert served.state() == before


def test_what_is_gone_or_never_was_cannot_be_changed(served: Served, described: Described) -> None:
    batch = served.make_batch(b"abc")
    assert served.http.delete(f"/api/v1/batches/{batch['id']}").status_code == 204
    told = described.check(change(served, batch, keep_inputs_hours=1))
    assert told["code"] == "batch_gone"
    told = described.check(change(served, {"id": "0" * 32}, keep_inputs_hours=1))
    assert told["code"] == "batch_not_found"


def test_files_are_kept_longer_after_their_jobs_have_ended(
    served: Served, described: Described
) -> None:
    batch = served.make_batch(b"abc")
    ended_job(served, batch, ago=3 * HOUR, status=JobStatus.COMPLETED)
    body = described.check(change(served, batch, keep_inputs_hours=48))
    assert body["keep_inputs_hours"] == 48
    # The batch lasts at least as long as its files are promised.
    assert abs(until(body) - served.container.clock.now() - 45 * HOUR) < CLOSE
    assert served.http.post("/api/v1/sweeps/spent_inputs").json()["removed"] == 0
    body = change(served, batch, keep_inputs_hours=2).json()
    assert served.http.post("/api/v1/sweeps/spent_inputs").json()["removed"] == 1
    body = described.check(change(served, batch, keep_inputs_hours=48))
    assert (body["files"], len(body["deleted_files"])) == ([], 1)


def test_null_gives_the_service_its_say_back(served: Served) -> None:
    batch = served.make_batch(b"abc")
    ended_job(served, batch, ago=3 * HOUR, status=JobStatus.COMPLETED)
    assert change(served, batch, keep_inputs_hours=48).status_code == 200
    body = change(served, batch, keep_inputs_hours=None).json()
    assert body["keep_inputs_hours"] is None
    assert served.http.post("/api/v1/sweeps/spent_inputs").json()["removed"] == 1


def test_a_batch_never_ends_before_its_files_may_go(served: Served) -> None:
    batch = served.make_batch(b"abc")
    ended_job(served, batch, ago=timedelta(minutes=15), status=JobStatus.FAILED)
    now = served.container.clock.now()
    body = change(
        served, batch, keep_inputs_hours=0, expires_at=shown(now + timedelta(minutes=5))
    ).json()
    # A retry must find its file for an hour after the failure.
    assert abs(until(body) - now - timedelta(minutes=45)) < CLOSE


# --- several jobs on one batch -------------------------------------------------------------------


def test_several_jobs_use_one_batch_until_its_files_are_spent(
    served: Served, described: Described, clip: bytes
) -> None:
    batch = served.make_batch(clip)
    ask = {**TRIM, "batch_id": batch["id"]}
    ended_job(served, batch, ago=timedelta(minutes=30), status=JobStatus.COMPLETED)
    assert served.http.post("/api/v1/sweeps/spent_inputs").json()["removed"] == 0
    first = served.http.post("/api/v1/jobs", json=ask)
    second = served.http.post("/api/v1/jobs", json=ask)
    assert (first.status_code, second.status_code) == (202, 202)
    # The time is over, and yet a job that waits holds the file.
    past = served.container.clock.now() - HOUR
    upload_id = batch["files"][0]["id"]
    served.write(lambda tx: tx.uploads.plan_spent(upload_id, past))
    assert served.http.post("/api/v1/sweeps/spent_inputs").json()["removed"] == 0
    for response in (first, second):
        path = f"/api/v1/jobs/{response.json()['id']}"
        assert served.http.delete(path, params={"cancel": "true"}).status_code == 204
    served.write(lambda tx: tx.uploads.plan_spent(upload_id, past))
    assert served.http.post("/api/v1/sweeps/spent_inputs").json()["removed"] == 1
    third = served.http.post("/api/v1/jobs", json=ask)
    told = described.check(third)
    assert (third.status_code, told["code"]) == (410, "inputs_deleted")
    assert [(each["id"], each["reason"]) for each in told["inputs"]] == [(upload_id, "spent")]


# --- what a batch is when retention has been there -----------------------------------------------


@pytest.fixture
def emptied(served: Served) -> Iterator[dict[str, Any]]:
    """A batch whose file was spent and of whose jobs no row is left."""
    batch = served.make_batch(b"abc")
    past = served.container.clock.now() - HOUR
    served.write(lambda tx: tx.uploads.plan_spent(batch["files"][0]["id"], past))
    assert served.http.post("/api/v1/sweeps/spent_inputs").json()["removed"] == 1
    yield batch
    served.http.delete(f"/api/v1/batches/{batch['id']}", params={"cancel": "true"})


@pytest.mark.parametrize(
    ("reasons", "status"),
    [
        ([], "spent"),
        ([(Reason.RETENTION_FAILED, None)], "spent"),
        ([(Reason.JOB_DELETED, "timeout")], "spent"),
        ([(Reason.RETENTION_FAILED, "not_media")], "failed"),
        ([(Reason.RETENTION_COMPLETED, None)], "completed"),
        (
            [(Reason.RETENTION_COMPLETED, None), (Reason.RETENTION_FAILED, "timeout")],
            "partially_failed",
        ),
    ],
)
def test_a_batch_that_has_no_file_left_is_not_ready(
    served: Served,
    described: Described,
    emptied: dict[str, Any],
    reasons: list[tuple[Reason, str | None]],
    status: str,
) -> None:
    for reason, code in reasons:
        buried = make_tombstone(
            kind=ThingKind.JOB, reason=reason, error_code=code, parent_id=emptied["id"]
        )
        served.write(lambda tx, t=buried: tx.tombstones.put(t))  # type: ignore[misc]
    body = described.check(served.http.get(f"/api/v1/batches/{emptied['id']}"))
    assert (body["status"], body["files"]) == (status, [])
    ask = {**TRIM, "batch_id": emptied["id"]}
    told = described.check(served.http.post("/api/v1/jobs", json=ask))
    assert told["code"] == "inputs_deleted"


def test_a_batch_tells_how_then_ended_when_retention_took_job_and_file(
    served: Served, described: Described
) -> None:
    session_id = served.open_session(expected_files=1, then=TRIM)
    upload_id = served.upload(b"no clip at all", session=session_id)
    head = served.http.head(f"/files/{upload_id}", headers=TUS)
    batch_id, job_id = head.headers["tidemill-batch"], head.headers["tidemill-job"]
    past = served.container.clock.now() - HOUR
    failed = make_ended_job(
        id=job_id,
        batch_id=batch_id,
        inputs=(JobInput(role=InputRole.CLIP, upload_id=upload_id),),
        status=JobStatus.FAILED,
        from_then=True,
        error=JobError("not_media", "This is no clip."),
        completed_at=past,
        expires_at=past,
    )
    assert served.write(lambda tx: tx.jobs.delete(job_id))
    served.write(lambda tx: insert_all(tx, failed))
    served.write(lambda tx: tx.uploads.plan_spent(upload_id, past))
    for name in (SweepName.EXPIRED_JOBS, SweepName.SPENT_INPUTS):
        assert served.http.post(f"/api/v1/sweeps/{name}").json()["removed"] == 1
    body = described.check(served.http.get(f"/api/v1/batches/{batch_id}"))
    assert (body["status"], body["jobs"], body["files"]) == ("failed", [], [])
