"""Sweeps in a running server: each variable moves its own, abandoned sessions go, living ones stay."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import TUS, SlowPatch, create, open_session, patch

NEVER = 100000
INTERVALS = {
    "UPLOAD_GC_INTERVAL_SECONDS": {"gc_files"},
    "UNCLAIMED_INTERVAL_SECONDS": {"unclaimed_uploads"},
    "SESSION_SWEEP_INTERVAL_SECONDS": {"stale_sessions"},
    "JOB_CHECK_INTERVAL_SECONDS": {"job_timeouts", "undispatched_jobs"},
    "CLEANUP_INTERVAL_SECONDS": {"expired_jobs", "expired_batches"},
    "SPENT_INPUTS_INTERVAL_SECONDS": {"spent_inputs"},
}
AGE_HOURS = 2.5 / 3600


def _runs(server: Server, sweep: str) -> int:
    return len(server.events("sweep.finished", sweep=sweep, trigger="interval"))


def test_every_interval_of_one_second_runs_twice_in_good_time(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(dict.fromkeys(INTERVALS, 1)).start()
    wanted = set().union(*INTERVALS.values())
    wait_for(
        lambda: all(_runs(server, sweep) >= 2 for sweep in wanted),
        f"two runs each of {wanted}",
        20,
    )
    finished = server.events("sweep.finished")[-1]
    assert {"removed", "bytes_freed", "duration_seconds", "sweep", "trigger"} <= set(finished)
    assert _reported(server, wanted)


def _reported(server: Server, wanted: set[str]) -> bool:
    rows = server.rows("SELECT sweep, count(*) FROM sweep_reports GROUP BY sweep")
    return {sweep for sweep, count in rows if count >= 2} >= wanted


@pytest.mark.parametrize("variable", INTERVALS)
def test_an_interval_moves_its_own_sweeps_and_no_other(
    variable: str, make_server: Callable[..., Server]
) -> None:
    server = make_server(dict.fromkeys(INTERVALS, NEVER) | {variable: 1}).start()
    wait_for(
        lambda: all(_runs(server, sweep) >= 2 for sweep in INTERVALS[variable]),
        f"two runs of {INTERVALS[variable]}",
        20,
    )
    ran = {event["sweep"] for event in server.events("sweep.finished", trigger="interval")}
    assert ran == INTERVALS[variable]


def _abandon(server: Server) -> tuple[str, Path]:
    """Open a session, send half a file, and leave."""
    with server.client() as api:
        session_id = open_session(api, expected_files=1)
        path = create(api, 2000, session=session_id)
        assert patch(api, path, 0, bytes(1000)).status_code == 204
    return session_id, server.data / "uploads" / path.rsplit("/", 1)[-1]


def _is_gone(server: Server, session_id: str) -> bool:
    with server.client() as api:
        response = api.get(f"/api/v1/upload/{session_id}")
        return response.status_code == 410 and response.json()["reason"] == "session_expired"


def test_an_abandoned_session_goes_on_the_interval_and_one_that_receives_stays(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(
        {"SESSION_MAX_AGE_HOURS": AGE_HOURS, "SESSION_SWEEP_INTERVAL_SECONDS": 1}
    ).start()
    with server.client() as api:
        living = open_session(api, expected_files=1)
        path = create(api, 100, session=living)
    abandoned, stored = _abandon(server)
    with SlowPatch(server.port, path, 0, 100) as slow:
        deadline = time.monotonic() + 3 * AGE_HOURS * 3600
        sent = 0
        while time.monotonic() < deadline:
            slow.send(b"x")
            sent += 1
            time.sleep(0.2)
        # Nobody asks for it before: that would touch it, and it would live on.
        wait_for(lambda: not stored.exists(), "the end of the abandoned one")
        assert _is_gone(server, abandoned)
        slow.send(b"x" * (100 - sent))
        answer = slow.answer()
    assert answer is not None
    assert answer.status == 204
    with server.client() as api:
        assert api.head(path, headers=TUS).headers["upload-offset"] == "100"
        batch_id = answer.headers["tidemill-batch"]
        assert api.get(f"/api/v1/batches/{batch_id}").json()["session_id"] == living
    freeing = {"sweep": "stale_sessions", "removed": 1, "bytes_freed": 1000}
    wait_for(lambda: server.events("sweep.finished", **freeing), "the report")
    removed = [e for e in server.events("sweep.finished", sweep="stale_sessions") if e["removed"]]
    assert len(removed) == 1


def _is_over(server: Server, sweep: str) -> bool:
    """Whether the sweep of the start has come and let go: killed in it, it leaves a lease of 30 s,
    which the next start waits for.
    """
    held = server.rows("SELECT 1 FROM leases WHERE name = ?", f"sweep:{sweep}")
    return bool(server.events("sweep.finished", sweep=sweep, trigger="start")) and not held


def test_a_session_abandoned_before_a_stop_goes_at_the_start(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(
        {"SESSION_MAX_AGE_HOURS": AGE_HOURS, "SESSION_SWEEP_INTERVAL_SECONDS": NEVER}
    ).start()
    wait_for(lambda: _is_over(server, "stale_sessions"), "the first start's own sweep")
    abandoned, stored = _abandon(server)
    left_at = time.time()
    server.kill()
    assert stored.exists()
    wait_for(lambda: time.time() > left_at + AGE_HOURS * 3600 + 0.5, "its age")
    server.start()
    # Nobody asks for it before: that would touch it, and it would live on.
    wait_for(
        lambda: server.events("sweep.finished", sweep="stale_sessions", trigger="start", removed=1),
        "the sweep of the start",
    )
    assert _is_gone(server, abandoned)
    assert server.leftovers() == []
