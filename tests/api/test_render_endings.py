"""How synchronous renders end when they do not end well, and that nothing of them stays."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from app.domain.requests import OpenRequest
from tests.factories import make_ended_job
from tests.fakes.clock import NOON
from tests.fakes.described import Described
from tests.fakes.false_ffmpeg import Ending, put_false_ffmpeg, with_ending
from tests.fakes.render_calls import Caller, Part, form
from tests.fakes.served import Served, settings_for, wait_for

TABLES = ("sessions", "batches", "uploads", "jobs", "outputs", "cleanup_pending", "requests")
CANCEL_SECONDS = 3.0
TRIM = {"start": "0.5", "end": "1.5"}


def serve(folder: Path, **jobs: float) -> Served:
    script = put_false_ffmpeg(folder / "false-ffmpeg", get_ffmpeg_exe())
    media = {"ffmpeg_path": script, "sandbox": "off"}
    return Served(settings_for(folder / "data", jobs={"workers": 2, **jobs}, media=media))


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("patient"), max_attempts=1) as running:
        yield running


def request(clip: bytes, ending: Ending) -> Any:
    return form("/api/trim", TRIM, [Part("video", "clip.mp4", with_ending(clip, ending))])


def post(served: Served, clip: bytes, ending: Ending) -> httpx.Response:
    files = {"video": ("clip.mp4", with_ending(clip, ending), "video/mp4")}
    return served.http.post("/api/trim", files=files, data=TRIM)


def left(served: Served) -> tuple[dict[str, Any], dict[str, int]]:
    rows, files = served.state()
    return {name: rows[name] for name in TABLES if rows[name]}, files


def is_tidy(served: Served) -> bool:
    return left(served) == ({}, {})


def encoders(served: Served) -> list[psutil.Process]:
    """The processes that work for this service now."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if str(served.data) in child.cwd():
                found.append(child)
        except psutil.Error:
            continue
    return found


def running_job(served: Served) -> dict[str, Any]:
    """Wait until a job is being encoded."""

    def look() -> dict[str, Any] | None:
        jobs = served.http.get("/api/v1/jobs?status=processing").json()["items"]
        begun = [job for job in jobs if encoders(served)]
        return begun[0] if begun else None

    return wait_for(look)


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    told: dict[str, Any] = response.json()
    assert (response.status_code, told["code"]) == (status, code), told
    return told


@pytest.mark.parametrize("leave", [Caller.reset, Caller.hang_up])
def test_a_client_that_leaves_takes_its_render_along(
    patient: Served, clip: bytes, leave: Callable[[Caller], None]
) -> None:
    with Caller(patient.port, request(clip, Ending.SLEEPS)) as caller:
        caller.send()
        job_id = running_job(patient)["id"]
        began = time.monotonic()
        leave(caller)
        wait_for(lambda: not encoders(patient))
        # Twice the promise: the machine may be busy with something else for a while.
        assert time.monotonic() - began < 2 * CANCEL_SECONDS
    wait_for(lambda: is_tidy(patient))
    gone = problem(patient.http.get(f"/api/v1/jobs/{job_id}"), 410, "job_gone")
    assert gone["reason"] == "request_ended"


def test_a_client_that_leaves_in_its_upload_or_its_download_leaves_nothing(
    patient: Served, clip: bytes
) -> None:
    with Caller(patient.port, request(clip, Ending.REAL)) as caller:
        caller.send_half()
        wait_for(lambda: patient.read(lambda tx: tx.requests.list_all(10)))
        caller.reset()
    wait_for(lambda: is_tidy(patient))

    with Caller(patient.port, request(clip, Ending.BIG)) as caller:
        caller.send()
        answer = caller.answer(64 * 1024)
        assert answer is not None
        assert answer.status == 200
        # Nobody can ask for it a second time: it is gone while it is still being sent.
        wait_for(lambda: is_tidy(patient))
        caller.reset()
    wait_for(lambda: is_tidy(patient))


@pytest.mark.parametrize(
    ("ending", "code"), [(Ending.FAILS, "render_failed"), (Ending.NOTHING, "render_failed")]
)
def test_a_render_that_fails_says_so(
    patient: Served, described: Described, clip: bytes, ending: Ending, code: str
) -> None:
    answer = post(patient, clip, ending)
    described.check(answer)
    told = problem(answer, 500, code)
    assert problem(patient.http.get(f"/api/v1/jobs/{told['job_id']}"), 410, "job_gone")
    wait_for(lambda: is_tidy(patient))


def test_somebody_else_may_cancel_the_job(
    patient: Served, described: Described, clip: bytes
) -> None:
    answers: list[httpx.Response] = []
    call = threading.Thread(target=lambda: answers.append(post(patient, clip, Ending.SLEEPS)))
    call.start()
    job_id = running_job(patient)["id"]
    httpx.post(f"{patient.url}/api/v1/jobs/{job_id}/cancel", trust_env=False, timeout=30)
    call.join(30)
    described.check(answers[0])
    assert problem(answers[0], 409, "render_cancelled")["job_id"] == job_id
    wait_for(lambda: is_tidy(patient))


def test_the_sweep_of_expired_jobs_leaves_a_job_to_the_request_that_holds_it(
    patient: Served,
) -> None:
    job = make_ended_job()
    held = OpenRequest("a" * 32, job.owner, "b" * 32, "c" * 32, job.id, False, NOON)  # noqa: FBT003
    patient.write(lambda tx: tx.jobs.insert(job))
    patient.write(lambda tx: tx.requests.insert(held))
    patient.http.post("/api/v1/sweeps/expired_jobs")
    assert patient.read(lambda tx: tx.jobs.find(job.id)) is not None
    # Its process is dead, as any look at the lock of that name says: the next sweep takes it all.
    report = patient.http.post("/api/v1/sweeps/job_timeouts").json()
    assert report["removed"] == 1
    wait_for(lambda: is_tidy(patient))


def test_too_long_a_render_is_ended_with_504(
    tmp_path: Path, described: Described, clip: bytes
) -> None:
    with serve(tmp_path, sync_timeout_seconds=3.0) as served:
        answer = post(served, clip, Ending.SLEEPS)
        described.check(answer)
        assert problem(answer, 504, "timeout")["timeout_seconds"] == 3.0
        assert not encoders(served)
        wait_for(lambda: is_tidy(served))
