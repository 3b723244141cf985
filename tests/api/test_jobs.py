"""Jobs over HTTP: asked for, listed, looked at, cancelled, removed."""

from typing import Any

import pytest

from tests.fakes.described import Described
from tests.fakes.served import Served

TRIM = {"operation": "trim", "params": {"end": 1}}


@pytest.fixture(scope="module")
def batch(served: Served, clip: bytes) -> dict[str, Any]:
    """A batch of two real clips."""
    return served.make_batch(clip, clip)


def start(served: Served, **wish: Any) -> dict[str, Any]:
    response = served.http.post("/api/v1/jobs", json={**TRIM, **wish})
    assert response.status_code == 202, response.text
    found: dict[str, Any] = response.json()
    return found


def test_a_job_is_accepted_and_says_where_to_look(
    served: Served, described: Described, batch: dict[str, Any]
) -> None:
    upload_id = batch["files"][0]["id"]
    wish = {**TRIM, "inputs": [{"upload_id": upload_id, "role": "clip"}], "priority": 5}
    response = served.http.post("/api/v1/jobs", json=wish)
    body = described.check(response)
    assert response.status_code == 202
    assert response.headers["location"] == f"/api/v1/jobs/{body['id']}"
    assert (body["status"], body["progress"], body["attempt"]) == ("queued", 0, 1)
    assert (body["operation"], body["params"], body["priority"]) == ("trim", {"end": 1}, 5)
    wanted = {"upload_id": upload_id, "output_id": None, "role": "clip", "order": 0}
    assert body["inputs"] == [wanted]
    assert (body["batch_id"], body["outputs"], body["error"]) == (batch["id"], [], None)
    assert described.check(served.http.get(response.headers["location"])) == body


def test_one_file_of_a_batch_can_be_meant(served: Served, batch: dict[str, Any]) -> None:
    wanted = batch["files"][1]["id"]
    body = start(served, batch_id=batch["id"], file_ids=[wanted])
    assert [item["upload_id"] for item in body["inputs"]] == [wanted]


@pytest.mark.parametrize(
    ("wish", "code", "loc"),
    [
        ({}, "invalid_request", "operation"),
        ({**TRIM, "one_time": 1}, "invalid_request", "one_time"),
        ({**TRIM, "one_tme": True}, "invalid_request", "one_tme"),
        ({**TRIM, "inputs": [{"upload_id": "0" * 32, "kind": "clip"}]}, "invalid_request", None),
        ({**TRIM, "inputs": [{"upload_id": "x"}]}, "upload_not_found", None),
        ({**TRIM, "inputs": [{"upload_id": "0" * 32}]}, "upload_not_found", None),
        ({**TRIM, "inputs": [{"output_id": "0" * 32}]}, "output_not_found", None),
        ({**TRIM, "inputs": [{}]}, "invalid_inputs", "inputs.0"),
        ({**TRIM, "inputs": [{"role": "hat"}]}, "invalid_request", "inputs.0.role"),
        ({**TRIM, "batch_id": "0" * 32}, "batch_not_found", None),
        ({**TRIM, "priority": 101}, "invalid_request", "priority"),
        ({**TRIM, "priority": "high"}, "invalid_request", "priority"),
        ({**TRIM, "timeout_seconds": 0}, "invalid_request", "timeout_seconds"),
        ({**TRIM, "timeout_seconds": 1e9}, "invalid_request", "timeout_seconds"),
        ({"operation": "trim", "params": {"end": "soon"}}, "invalid_params", "end"),
        ({"operation": "polish"}, "unknown_operation", None),
    ],
)
def test_a_wrong_wish_has_its_own_code_and_makes_no_job(
    served: Served, described: Described, wish: dict[str, Any], code: str, loc: str | None
) -> None:
    before = served.state()
    told = described.check(served.http.post("/api/v1/jobs", json=wish))
    assert told["code"] == code
    if loc is not None:
        assert told["errors"][0]["loc"].startswith(loc)
    assert served.state() == before


@pytest.mark.parametrize(
    "body",
    [
        b'{"operation": "trim", "params": {"end": NaN}}',
        b'{"operation": "trim", "params": {"end": 1e999}}',
        b'{"operation": "tr\\u0000im"}',
        b'{"operation": "\\ud800"}',
        b'{"operation": "\xff"}',
        b"[" * 100_000,
        b'{"a": 1' + b"0" * 5000 + b"}",
        b"nothing",
    ],
)
def test_a_body_that_is_no_json_is_malformed(
    served: Served, described: Described, body: bytes
) -> None:
    headers = {"content-type": "application/json"}
    response = served.http.post("/api/v1/jobs", content=body, headers=headers)
    assert described.check(response)["code"] == "malformed_request"
    assert response.status_code == 400


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_taken_for_json(served: Served, described: Described, media_type: str) -> None:
    response = served.http.post("/api/v1/jobs", content=b"{}", headers={"content-type": media_type})
    assert described.check(response)["code"] == "unsupported_media_type"


def test_a_large_body_without_a_length_is_cut_off(served: Served, described: Described) -> None:
    def endless() -> Any:
        for _ in range(64):
            yield b" " * 65536

    headers = {"content-type": "application/json"}
    response = served.http.post("/api/v1/jobs", content=endless(), headers=headers)
    assert described.check(response)["code"] == "request_too_large"


def test_jobs_are_listed_by_batch_status_and_operation(
    served: Served, described: Described, clip: bytes
) -> None:
    mine = served.make_batch(clip)
    jobs = [start(served, batch_id=mine["id"])["id"] for _ in range(3)]
    assert served.http.post(f"/api/v1/jobs/{jobs[1]}/cancel").status_code == 200
    for query, wanted in [
        ({}, jobs[::-1]),
        ({"status": "queued"}, [jobs[2], jobs[0]]),
        ({"status": "cancelled"}, [jobs[1]]),
        ({"operation": "trim"}, jobs[::-1]),
        ({"operation": "polish"}, []),
    ]:
        parameters = {"batch_id": mine["id"], **query}
        page = described.check(served.http.get("/api/v1/jobs", params=parameters))
        assert [job["id"] for job in page["items"]] == wanted
        assert page["next"] is None
    first = served.http.get("/api/v1/jobs", params={"batch_id": mine["id"], "limit": 2}).json()
    rest = served.http.get(
        "/api/v1/jobs", params={"batch_id": mine["id"], "limit": 2, "cursor": first["next"]}
    ).json()
    assert [job["id"] for job in first["items"] + rest["items"]] == jobs[::-1]


@pytest.mark.parametrize(
    "query", [{"status": "lost"}, {"batch_id": "x"}, {"state": "queued"}, {"operation": "x" * 65}]
)
def test_a_filter_that_cannot_match_is_refused(
    served: Served, described: Described, query: dict[str, str]
) -> None:
    told = described.check(served.http.get("/api/v1/jobs", params=query))
    assert (told["code"], told["errors"][0]["loc"]) == ("invalid_request", next(iter(query)))


def test_cancelling_twice_is_as_good_as_once(
    served: Served, described: Described, batch: dict[str, Any]
) -> None:
    job = start(served, batch_id=batch["id"], file_ids=[batch["files"][0]["id"]])
    for _ in range(2):
        response = served.http.post(f"/api/v1/jobs/{job['id']}/cancel")
        body = described.check(response)
        assert (response.status_code, body["status"]) == (200, "cancelled")
    refused = served.http.get(f"/api/v1/jobs/{job['id']}/output")
    assert (refused.status_code, refused.json()["job_status"]) == (409, "cancelled")


def test_a_waiting_job_goes_with_cancel_true_only(
    served: Served, described: Described, batch: dict[str, Any]
) -> None:
    job = start(served, batch_id=batch["id"], file_ids=[batch["files"][0]["id"]])
    path = f"/api/v1/jobs/{job['id']}"
    assert described.check(served.http.delete(path))["code"] == "job_running"
    assert served.http.delete(path, params={"cancel": "1"}).status_code == 204
    told = described.check(served.http.get(path))
    assert (told["code"], told["reason"]) == ("job_gone", "job_deleted")


def test_an_active_job_has_no_output_yet_and_says_when_to_ask(
    served: Served, described: Described, batch: dict[str, Any]
) -> None:
    job = start(served, batch_id=batch["id"], file_ids=[batch["files"][0]["id"]])
    response = served.http.get(f"/api/v1/jobs/{job['id']}/output")
    assert described.check(response)["code"] == "output_not_ready"
    assert int(response.headers["retry-after"]) >= 1


def test_every_operation_says_what_it_takes(served: Served, described: Described) -> None:
    body = described.check(served.http.get("/api/v1/operations"))
    (trim,) = [operation for operation in body["items"] if operation["name"] == "trim"]
    assert trim["inputs"] == [{"role": "clip", "minimum": 1, "maximum": 1}]
    assert {"start", "end"} <= set(trim["params"]["properties"])
    assert trim["params"]["additionalProperties"] is False
    assert len(trim["description"]) > 20
