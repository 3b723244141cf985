"""Idempotency-Key: the same request makes one job, however often and however many times at once."""

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app.domain.ids import new_id
from app.domain.tombstones import Reason
from app.services.burial import bury_upload
from tests.fakes.described import Described
from tests.fakes.served import Served

NOBODY = "0" * 32


@pytest.fixture(scope="module")
def batch(served: Served, clip: bytes) -> dict[str, Any]:
    return served.make_batch(clip)


@pytest.fixture
def wish(batch: dict[str, Any]) -> dict[str, Any]:
    return {"operation": "trim", "batch_id": batch["id"], "params": {"end": 1}}


def ask(served: Served, wish: Any, key: str, **headers: str) -> httpx.Response:
    headers = {"Idempotency-Key": key, **headers}
    return served.http.post("/api/v1/jobs", json=wish, headers=headers)


def jobs_of(served: Served) -> list[str]:
    rows, _ = served.state()
    return [str(row[0]) for row in rows["jobs"]]


def at_once(served: Served, wish: Any, key: str, times: int = 8) -> Sequence[httpx.Response]:
    """Send the same request ``times`` times at the same moment, on connections of their own."""
    barrier = threading.Barrier(times)

    def one(_: int) -> httpx.Response:
        headers = {**served.http.headers, "Idempotency-Key": key}
        with httpx.Client(base_url=served.url, headers=headers, trust_env=False) as client:
            barrier.wait(10)
            return client.post("/api/v1/jobs", json=wish, timeout=30)

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(one, range(times)))


def test_the_same_request_again_answers_the_first_job_as_it_is_now(
    served: Served, described: Described, wish: dict[str, Any]
) -> None:
    key = new_id()
    first = ask(served, wish, key)
    made = described.check(first)
    assert first.status_code == 202
    assert "idempotency-replayed" not in first.headers
    before = jobs_of(served)
    assert served.http.post(f"/api/v1/jobs/{made['id']}/cancel").status_code == 200

    again = ask(served, wish, key)

    told = described.check(again)
    assert (again.status_code, again.headers["location"]) == (202, first.headers["location"])
    assert again.headers["idempotency-replayed"] == "true"
    assert (told["id"], told["status"]) == (made["id"], "cancelled")
    assert jobs_of(served) == before


def test_order_and_white_space_of_the_body_do_not_matter(
    served: Served, wish: dict[str, Any]
) -> None:
    key = new_id()
    first = ask(served, wish, key)
    turned = json.dumps(dict(reversed(wish.items())), indent=3)
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    again = served.http.post("/api/v1/jobs", content=turned, headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]


@pytest.mark.parametrize(
    "change", [{"params": {"end": 0.5}}, {"priority": 1}, {"operation": "nothing"}]
)
def test_another_body_under_the_same_key_is_refused(
    served: Served, described: Described, wish: dict[str, Any], change: dict[str, Any]
) -> None:
    key = new_id()
    assert ask(served, wish, key).status_code == 202
    before = served.state()
    response = ask(served, {**wish, **change}, key)
    told = described.check(response)
    assert (response.status_code, told["code"]) == (422, "idempotency_key_reused")
    assert told["first_used_at"].endswith("Z")
    assert served.state() == before


def test_another_key_makes_another_job(served: Served, wish: dict[str, Any]) -> None:
    one, two = ask(served, wish, "a-" + new_id()), ask(served, wish, "b-" + new_id())
    assert one.json()["id"] != two.json()["id"]


def test_a_refused_request_does_not_use_up_its_key(served: Served, wish: dict[str, Any]) -> None:
    key = new_id()
    assert ask(served, {**wish, "params": {"end": 60}}, key).status_code == 422
    response = ask(served, wish, key)
    assert response.status_code == 202
    assert "idempotency-replayed" not in response.headers


def test_eight_at_once_make_one_job(served: Served, wish: dict[str, Any]) -> None:
    before = len(jobs_of(served))
    answers = at_once(served, wish, new_id())
    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.json()["id"] for answer in answers}) == 1
    replays = [answer.headers.get("idempotency-replayed") for answer in answers]
    assert sorted(replays, key=str) == [None, *["true"] * 7]
    assert len(jobs_of(served)) == before + 1


def test_the_last_place_in_the_queue_is_enough_for_eight_at_once(
    keyed: Served, clip: bytes
) -> None:
    batch = keyed.make_batch(clip)
    wish = {"operation": "trim", "batch_id": batch["id"], "params": {"end": 1}}
    answers = at_once(keyed, wish, new_id())
    assert [answer.status_code for answer in answers] == [202] * 8
    full = keyed.http.post("/api/v1/jobs", json=wish)
    assert (full.status_code, full.json()["code"]) == (429, "queue_full")
    assert int(full.headers["retry-after"]) > 0
    assert (full.json()["queued"], full.json()["limit"]) == (1, 1)
    path = f"/api/v1/jobs/{answers[0].json()['id']}"
    assert keyed.http.delete(path, params={"cancel": "true"}).status_code == 204


def test_a_replay_asks_for_nothing_that_the_first_needed(served: Served, clip: bytes) -> None:
    batch = served.make_batch(clip)
    key = new_id()
    wish = {"operation": "trim", "batch_id": batch["id"], "params": {"end": 1}}
    first = ask(served, wish, key)
    now = served.container.clock.now()

    def lose(tx: Any) -> None:
        upload = tx.uploads.find(batch["files"][0]["id"])
        bury_upload(tx, upload, reason=Reason.SPENT, sweep=None, now=now)

    served.write(lose)
    assert ask(served, wish, new_id()).json()["code"] == "inputs_deleted"
    again = ask(served, wish, key)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


def test_what_the_first_made_and_was_removed_is_gone(
    served: Served, described: Described, wish: dict[str, Any]
) -> None:
    key = new_id()
    made = ask(served, wish, key).json()
    path = f"/api/v1/jobs/{made['id']}"
    assert served.http.delete(path, params={"cancel": "true"}).status_code == 204
    before = served.state()
    response = ask(served, wish, key)
    told = described.check(response)
    assert (response.status_code, told["code"]) == (410, "job_gone")
    assert told["reason"] == "job_deleted"
    assert served.state() == before


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "tab\there", "umläut"])
def test_a_key_is_visible_ascii_of_at_most_255_characters(
    served: Served, described: Described, wish: dict[str, Any], key: str
) -> None:
    before = served.state()
    headers = [(b"Idempotency-Key", key.encode())]
    response = served.http.post("/api/v1/jobs", json=wish, headers=headers)
    assert (response.status_code, described.check(response)["code"]) == (400, "invalid_header")
    assert served.state() == before


def test_the_longest_key_is_taken_and_two_are_not(served: Served, wish: dict[str, Any]) -> None:
    assert ask(served, wish, "~" * 255).status_code == 202
    twice = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    response = served.http.post("/api/v1/jobs", json=wish, headers=twice)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_header")


@pytest.mark.parametrize(
    "path",
    [
        f"/api/v1/jobs/{NOBODY}/cancel",
        f"/api/v1/jobs/{NOBODY}/retry",
        "/api/v1/sweeps/spent_inputs",
    ],
)
def test_a_call_that_does_not_honour_a_key_refuses_it(
    served: Served, described: Described, path: str
) -> None:
    before = served.state()
    response = served.http.post(path, headers={"Idempotency-Key": "k"})
    assert (response.status_code, described.check(response)["code"]) == (400, "not_supported")
    assert served.state() == before


def test_pages_of_other_sites_may_read_that_it_was_a_replay(
    served: Served, wish: dict[str, Any]
) -> None:
    response = ask(served, wish, new_id(), Origin="http://localhost:3000")
    assert "Idempotency-Replayed" in response.headers["access-control-expose-headers"]
