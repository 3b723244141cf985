"""What a session's ``then`` makes of many files, and leaving a batch while FFmpeg works on it."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from tests.fakes.clips import ClipSpec, make_clip
from tests.fakes.described import Described
from tests.fakes.served import TUS, Served, settings_for, wait_for

TRIM = {"operation": "trim", "params": {"start": 0.5, "end": 1.5}}


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with two workers and the real FFmpeg."""
    data = tmp_path_factory.mktemp("working") / "data"
    with Served(settings_for(data, jobs={"workers": 2})) as running:
        yield running


@pytest.fixture(scope="module")
def described(working: Served) -> Described:
    return Described(working.http.get("/openapi.json").json())


@pytest.fixture(scope="module")
def slow_clip(clip_folder: Path) -> bytes:
    """A clip whose trimming takes a while."""
    spec = ClipSpec(seconds=8, width=640, height=360, audio=None)
    return make_clip(clip_folder, imageio_ffmpeg.get_ffmpeg_exe(), spec).read_bytes()


def batch_of(served: Served, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = served.http.get(f"/api/v1/batches/{batch_id}").json()
    return found


def job_of(served: Served, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = served.http.get(f"/api/v1/jobs/{job_id}").json()
    return found


def start(served: Served, inputs: list[dict[str, str]]) -> str:
    wish = {"operation": "trim", "params": {"start": 0.5, "mode": "exact"}, "inputs": inputs}
    response = served.http.post("/api/v1/jobs", json=wish)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def ended(served: Served, batch_id: str) -> dict[str, Any]:
    """The batch once none of its jobs is active."""

    def look() -> dict[str, Any] | None:
        batch = batch_of(served, batch_id)
        return batch if batch["status"] != "processing" else None

    return wait_for(look, 60)


def ffmpeg_in(folder: Path) -> list[int]:
    """The ids of the FFmpeg processes that work in ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            is_ffmpeg = (entry / "comm").read_text().startswith("ffmpeg")
            if is_ffmpeg and (entry / "cwd").readlink().is_relative_to(folder):
                found.append(int(entry.name))
    return found


def test_then_makes_a_job_of_each_file_and_a_bad_one_spoils_only_its_own(
    working: Served, described: Described, clip: bytes
) -> None:
    then = {**TRIM, "one_time": True, "timeout_seconds": 100}
    session_id = working.open_session(expected_files=4, then=then)
    bodies = {"3": clip, "1": b"this is no clip", "2": clip}
    uploads = {
        order: working.upload(body, session=session_id, order=order)
        for order, body in bodies.items()
    }
    last = working.create_upload(len(clip), session=session_id)
    finished = working.patch(last, 0, clip)
    assert finished.status_code == 204
    job_ids = finished.headers["tidemill-job"].split(",")
    assert len(set(job_ids)) == 4
    batch = described.check(
        working.http.get(f"/api/v1/batches/{finished.headers['tidemill-batch']}")
    )
    # By metadata order; those without one come after, by their creation.
    in_order = [uploads["1"], uploads["2"], uploads["3"], last]
    assert [file["id"] for file in batch["files"]] == in_order
    assert [job["id"] for job in batch["jobs"]] == job_ids
    inputs = [job_of(working, job_id)["inputs"] for job_id in job_ids]
    assert [[each["upload_id"] for each in one] for one in inputs] == [[i] for i in in_order]

    batch = ended(working, batch["id"])
    assert batch["status"] == "partially_failed"
    statuses = [job["status"] for job in batch["jobs"]]
    assert statuses == ["failed", "completed", "completed", "completed"]
    bad = job_of(working, job_ids[0])
    assert (bad["error"]["code"], bad["outputs"]) == ("not_media", [])
    for job_id in job_ids[1:]:
        (output,) = job_of(working, job_id)["outputs"]
        row = working.read(lambda tx, i=output["id"]: tx.outputs.find(i))  # type: ignore[misc]
        assert row is not None
        assert row.one_time
    head = working.http.head(f"/files/{uploads['2']}", headers=TUS)
    assert head.headers["tidemill-job"] == ",".join(job_ids)

    # Completed ones need their files no more; the failed one keeps its own for a retry.
    report = working.http.post("/api/v1/sweeps/spent_inputs").json()
    taken = {victim["id"] for victim in report["victims"]}
    assert taken & set(in_order) == set(in_order[1:])
    batch = described.check(working.http.get(f"/api/v1/batches/{batch['id']}"))
    assert [file["id"] for file in batch["files"]] == [uploads["1"]]
    assert {file["reason"] for file in batch["deleted_files"]} == {"spent"}
    head = working.http.head(f"/files/{uploads['2']}", headers=TUS)
    assert (head.status_code, head.headers["tidemill-job"]) == (200, ",".join(job_ids))


def test_then_is_one_time_in_the_session_and_asked_once_more_by_its_batch(
    working: Served, described: Described, clip: bytes
) -> None:
    response = working.http.post("/api/v1/upload", json={"then": {**TRIM, "one_time": True}})
    session = described.check(response)
    assert session["then"] == {**TRIM, "timeout_seconds": None, "one_time": True}
    session_id = session["session_id"]
    for _ in range(2):
        working.upload(clip, session=session_id)
    made = working.http.post("/api/v1/batches", json={"session_id": session_id})
    batch = described.check(made)
    assert (made.status_code, len(batch["jobs"])) == (201, 2)
    assert ended(working, batch["id"])["status"] == "completed"


def test_a_batch_whose_ffmpeg_hangs_is_gone_when_the_answer_comes(
    working: Served, described: Described, slow_clip: bytes
) -> None:
    batch = working.make_batch(slow_clip, slow_clip)
    path = f"/api/v1/batches/{batch['id']}"
    work = working.data.resolve() / "work"
    first, second = ([{"upload_id": file["id"]}] for file in batch["files"])
    try:
        jobs = []
        for inputs in (first, second):
            jobs.append(start(working, inputs))
            child = wait_for(lambda: ffmpeg_in(work / jobs[-1]))[0]
            os.kill(child, signal.SIGSTOP)  # does not hear that it is asked to end
        jobs += [start(working, first), start(working, second)]
        refused = working.http.delete(path)
        told = described.check(refused)
        assert (refused.status_code, told["code"]) == (409, "job_running")
        assert set(told["jobs"]) == set(jobs)
        began = time.monotonic()
        gone = working.http.delete(path, params={"cancel": "true"})
        assert gone.status_code == 204, gone.text
        assert time.monotonic() - began < 8
    finally:
        for child in ffmpeg_in(work):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    ids = {*jobs, *(file["id"] for file in batch["files"])}
    assert [name for name in working.state()[1] if set(name.split("/")) & ids] == []
    for job_id in jobs:
        told = described.check(working.http.get(f"/api/v1/jobs/{job_id}"))
        assert told["reason"] == "batch_deleted"
    assert described.check(working.http.get(path))["reason"] == "batch_deleted"
    assert described.check(working.http.get(f"/api/v1/upload/{batch['session_id']}"))["code"] == (
        "session_gone"
    )
