"""Trying jobs again and keeping them longer, over HTTP; what is asked at once, once."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.domain.ids import new_id
from app.domain.jobs import JobError, JobStatus
from app.domain.layout import output_path
from app.domain.outputs import OutputStatus
from app.services.ports import Transaction
from tests.factories import make_ended_job, make_input, make_output
from tests.fakes.described import Described
from tests.fakes.served import Served, settings_for

NOBODY = "0" * 32
HOUR = timedelta(hours=1)
BOOM = JobError(code="render_failed", message="It broke.")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service whose queue takes two jobs and which runs none."""
    data = tmp_path_factory.mktemp("small") / "data"
    with Served(settings_for(data, jobs={"workers": 0, "queue_limit": 2})) as running:
        yield running


@pytest.fixture(scope="module")
def batch(served: Served) -> dict[str, Any]:
    return served.make_batch(b"not looked at")


def ended(served: Served, upload_id: str, status: JobStatus, **changes: Any) -> str:
    """The row of a job that has ended, as its worker would have left it."""
    now = served.container.clock.now()
    error = BOOM if status is JobStatus.FAILED else None
    facts = {
        "status": status,
        "error": error,
        "attempt": 3,
        "created_at": now,
        "completed_at": now,
        "expires_at": now + HOUR,
        "warnings": ("It smells.",),
        "inputs": (make_input(upload_id),),
    }
    job = make_ended_job(**{**facts, **changes})
    served.write(lambda tx: tx.jobs.insert(job))
    return job.id


def add_output(served: Served, job_id: str, **changes: Any) -> str:
    """Insert an output row of a job, with its file."""
    now = served.container.clock.now()
    facts = {"job_id": job_id, "created_at": now, "expires_at": now + HOUR, "size_bytes": 4}
    output = make_output(**{**facts, **changes})
    served.write(lambda tx: tx.outputs.insert(output))
    (served.data / output_path(output.id)).write_bytes(b"film")
    return output.id


def retry(served: Served, job_id: str) -> httpx.Response:
    return served.http.post(f"/api/v1/jobs/{job_id}/retry")


def empty_queue(served: Served) -> None:
    """Cancel whatever waits, since tests come in any order."""
    for job in served.http.get("/api/v1/jobs", params={"status": "queued"}).json()["items"]:
        assert served.http.post(f"/api/v1/jobs/{job['id']}/cancel").status_code == 200


def spend(served: Served, upload_id: str) -> None:
    """Let the sweep take an input."""
    past = served.container.clock.now() - HOUR
    served.write(lambda tx: tx.uploads.set_spent(upload_id, past))
    assert served.http.post("/api/v1/sweeps/spent_inputs").json()["removed"] >= 1


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_job_that_did_not_come_to_its_end_is_queued_again(
    served: Served, described: Described, batch: dict[str, Any], status: JobStatus
) -> None:
    job_id = ended(served, batch["files"][0]["id"], status, cancel_requested=True)
    response = retry(served, job_id)
    body = described.check(response)
    assert response.status_code == 202
    assert response.headers["location"] == f"/api/v1/jobs/{job_id}"
    assert (body["id"], body["status"], body["attempt"]) == (job_id, "queued", 4)
    assert (body["max_attempts"], body["progress"], body["cancel_requested"]) == (6, 0, False)
    assert (body["error"], body["result"], body["warnings"]) == (None, None, [])
    assert (body["started_at"], body["completed_at"], body["expires_at"]) == (None, None, None)
    seen = described.check(served.http.get(response.headers["location"]))
    assert seen == body
    cancelled = served.http.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")


def test_what_has_completed_or_goes_on_is_not_tried_again(
    served: Served, described: Described, batch: dict[str, Any]
) -> None:
    upload_id = batch["files"][0]["id"]
    completed = ended(served, upload_id, JobStatus.COMPLETED)
    queued = ended(served, upload_id, JobStatus.FAILED)
    assert retry(served, queued).status_code == 202
    running = ended(served, upload_id, JobStatus.PROCESSING, worker="w", expires_at=None)
    before = served.state()
    for job_id, code in [
        (completed, "job_finished"),
        (queued, "job_running"),
        (running, "job_running"),
    ]:
        response = retry(served, job_id)
        assert (response.status_code, described.check(response)["code"]) == (409, code)
    assert described.check(retry(served, NOBODY))["code"] == "job_not_found"
    assert served.state() == before


def test_a_removed_job_is_gone_for_a_retry(
    served: Served, described: Described, batch: dict[str, Any]
) -> None:
    job_id = ended(served, batch["files"][0]["id"], JobStatus.FAILED)
    assert served.http.delete(f"/api/v1/jobs/{job_id}").status_code == 204
    told = described.check(retry(served, job_id))
    assert (told["code"], told["reason"]) == ("job_gone", "job_deleted")


def test_a_retry_without_its_inputs_lists_those_that_are_gone(
    served: Served, described: Described
) -> None:
    mine = served.make_batch(b"one", b"two")
    one, two = (each["id"] for each in mine["files"])
    unknown = new_id()
    job_id = ended(
        served,
        one,
        JobStatus.FAILED,
        inputs=(make_input(one), make_input(two), make_input(output_id=unknown)),
    )
    spend(served, one)
    before = served.state()
    response = retry(served, job_id)
    told = described.check(response)
    assert (response.status_code, told["code"]) == (410, "inputs_deleted")
    spent, forgotten = told["inputs"]
    assert (spent["id"], spent["kind"], spent["reason"]) == (one, "upload", "spent")
    assert forgotten == {"id": unknown, "kind": "output"}
    assert "2 of 3" in told["detail"]
    assert served.state() == before


def test_a_retry_waits_for_a_place_in_the_queue(small: Served) -> None:
    empty_queue(small)
    upload_id = small.make_batch(b"clip")["files"][0]["id"]
    one, two, three = (ended(small, upload_id, JobStatus.FAILED) for _ in range(3))
    assert [retry(small, each).status_code for each in (one, two)] == [202, 202]
    before = small.state()
    full = retry(small, three)
    assert (full.status_code, full.json()["code"]) == (429, "queue_full")
    assert int(full.headers["retry-after"]) > 0
    assert small.state() == before
    for each in (one, two):
        assert small.http.post(f"/api/v1/jobs/{each}/cancel").status_code == 200
    assert retry(small, three).status_code == 202


def test_of_eight_retries_at_once_one_wins(served: Served, batch: dict[str, Any]) -> None:
    job_id = ended(served, batch["files"][0]["id"], JobStatus.FAILED)
    barrier = threading.Barrier(8)

    def one(_: int) -> httpx.Response:
        with httpx.Client(base_url=served.url, trust_env=False) as client:
            barrier.wait(10)
            return client.post(f"/api/v1/jobs/{job_id}/retry", timeout=30)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(8)))
    assert sorted(answer.status_code for answer in answers) == [202, *[409] * 7]
    codes = {answer.json()["code"] for answer in answers if answer.status_code == 409}
    assert codes == {"job_running"}
    assert served.http.get(f"/api/v1/jobs/{job_id}").json()["attempt"] == 4


def test_what_old_attempts_left_half_published_goes_with_a_retry(
    served: Served, batch: dict[str, Any]
) -> None:
    job_id = ended(served, batch["files"][0]["id"], JobStatus.FAILED)
    left = add_output(served, job_id, attempt=2, status=OutputStatus.PUBLISHING, expires_at=None)
    scratch = served.data / "work" / job_id / "3"
    scratch.mkdir(parents=True)
    (scratch / "half.mp4").write_bytes(b"half")
    assert retry(served, job_id).status_code == 202
    assert served.read(lambda tx: tx.outputs.find(left)) is None
    assert not (served.data / output_path(left)).exists()
    assert not scratch.exists()
    assert served.read(lambda tx: tx.cleanup.list_all(99)) == []


# --- keeping it longer, or shorter ----------------------------------------------------------------


def move(served: Served, job_id: str, expires_at: Any) -> httpx.Response:
    wish = expires_at if isinstance(expires_at, str) else expires_at.isoformat()
    return served.http.patch(f"/api/v1/jobs/{job_id}", json={"expires_at": wish})


@pytest.mark.parametrize("hours", [0.1, 48, 24 * 29])
def test_a_job_is_kept_with_all_its_outputs_as_long_as_its_owner_says(
    served: Served, described: Described, batch: dict[str, Any], hours: float
) -> None:
    job_id = ended(served, batch["files"][0]["id"], JobStatus.COMPLETED)
    ids = {add_output(served, job_id), add_output(served, job_id)}
    until = (datetime.now(UTC) + timedelta(hours=hours)).replace(microsecond=0)
    response = move(served, job_id, until)
    body = described.check(response)
    assert response.status_code == 200
    assert datetime.fromisoformat(body["expires_at"]) == until
    assert {each["id"] for each in body["outputs"]} == ids
    row = served.read(lambda tx: tx.jobs.find(job_id))
    assert row is not None
    assert row.expires_at == until
    outputs = served.read(lambda tx: tx.outputs.list_by_job(job_id))
    assert [each.expires_at for each in outputs] == [until, until]


def test_a_time_in_another_zone_is_the_same_moment(served: Served, batch: dict[str, Any]) -> None:
    job_id = ended(served, batch["files"][0]["id"], JobStatus.FAILED)
    until = (datetime.now(UTC) + 5 * HOUR).replace(microsecond=0)
    told = (until + 2 * HOUR).replace(tzinfo=None).isoformat() + "+02:00"
    answer = move(served, job_id, told).json()
    assert datetime.fromisoformat(answer["expires_at"]) == until
    assert answer["expires_at"].endswith("Z")


@pytest.mark.parametrize(
    "wish",
    [
        {"expires_at": "2001-01-01T00:00:00Z"},
        {"expires_at": "9999-12-31T23:59:59-23:59"},
        {"expires_at": "2031-01-01T00:00:00"},
        {"expires_at": 1893456000},
        {"expires_at": "1893456000"},
        {"expires_at": "soon"},
        {"expires_at": None},
        {},
        {"expires_at": "2031-01-01T00:00:00Z", "priority": 3},
    ],
)
def test_a_time_that_cannot_be_is_refused_and_nothing_moves(
    served: Served, described: Described, batch: dict[str, Any], wish: dict[str, Any]
) -> None:
    job_id = ended(served, batch["files"][0]["id"], JobStatus.COMPLETED)
    before = served.state()
    response = served.http.patch(f"/api/v1/jobs/{job_id}", json=wish)
    told = described.check(response)
    assert (response.status_code, told["code"]) == (422, "invalid_request")
    assert told["errors"][0]["loc"] in {"expires_at", "priority"}
    assert served.state() == before


def test_a_time_beyond_the_longest_is_refused_with_what_is_allowed(
    served: Served, batch: dict[str, Any]
) -> None:
    job_id = ended(served, batch["files"][0]["id"], JobStatus.COMPLETED)
    longest = served.container.retention.max_ttl
    told = move(served, job_id, datetime.now(UTC) + longest + HOUR).json()
    assert told["code"] == "invalid_request"
    assert "too far away" in told["detail"]


def test_an_active_job_has_no_end_that_could_be_moved(
    served: Served, described: Described, batch: dict[str, Any]
) -> None:
    job_id = ended(served, batch["files"][0]["id"], JobStatus.FAILED)
    assert retry(served, job_id).status_code == 202
    until = datetime.now(UTC) + HOUR
    response = move(served, job_id, until)
    assert (response.status_code, described.check(response)["code"]) == (409, "job_running")
    assert described.check(move(served, NOBODY, until))["code"] == "job_not_found"


def test_a_job_past_its_time_that_no_sweep_has_met_is_kept_after_all(
    served: Served, batch: dict[str, Any]
) -> None:
    past = datetime.now(UTC) - HOUR
    job_id = ended(served, batch["files"][0]["id"], JobStatus.FAILED, expires_at=past)
    assert move(served, job_id, datetime.now(UTC) + HOUR).status_code == 200
    assert served.http.post("/api/v1/sweeps/expired_jobs").status_code == 200
    assert served.http.get(f"/api/v1/jobs/{job_id}").status_code == 200


# --- one-time and limits of a wish ----------------------------------------------------------------


def test_a_job_remembers_that_its_outputs_are_for_one_time(
    served: Served, described: Described, clip: bytes
) -> None:
    mine = served.make_batch(clip)
    wish = {"operation": "trim", "batch_id": mine["id"], "params": {"end": 1}}
    for one_time in (True, False):
        response = served.http.post("/api/v1/jobs", json={**wish, "one_time": one_time})
        assert described.check(response)["one_time"] is one_time
    assert described.check(served.http.post("/api/v1/jobs", json=wish))["one_time"] is False


def test_a_wish_that_even_the_fastest_run_could_not_meet_is_refused_with_both_figures(
    small: Served, clip: bytes
) -> None:
    mine = small.make_batch(clip)
    wish = {"operation": "trim", "batch_id": mine["id"], "params": {"end": 1}}
    now = small.container.clock.now()
    empty_queue(small)
    # One second of 320x180 at 30 frames is 1.728 megapixels.

    def measure(tx: Transaction) -> None:
        for seconds, age in ((500.0, 1), (100.0, 2), (900.0, 3)):
            at = now - timedelta(seconds=age)
            tx.rates.put("trim", seconds_per_unit=seconds, measured_at=at)

    small.write(measure)
    before = small.state()
    response = small.http.post("/api/v1/jobs", json={**wish, "timeout_seconds": 60})
    told = response.json()
    assert (response.status_code, told["code"]) == (422, "would_exceed_timeout")
    assert (told["estimated_seconds"], told["timeout_seconds"]) == (173, 60)
    assert "173 s" in told["detail"]
    assert "60 s" in told["detail"]
    assert small.state()[0]["jobs"] == before[0]["jobs"]
    enough = small.http.post("/api/v1/jobs", json={**wish, "timeout_seconds": 174})
    assert enough.status_code == 202
