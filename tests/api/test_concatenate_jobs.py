"""Jobs of ``concatenate`` over HTTP: the order, what the job tells, and which input is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from tests.fakes.joining import Mark, make_mark, read
from tests.fakes.served import Served, settings_for, wait_for

HOUSE = Mark(is_house=True, seconds=1)


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = settings_for(tmp_path_factory.mktemp("joining") / "data", jobs={"workers": 1})
    with Served(settings) as running:
        yield running


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """Clips of one second by the brightness they show; 120 is none of ours, the others are."""
    folder = tmp_path_factory.mktemp("marks")
    made = {level: Mark(is_house=level != 120, seconds=1, level=level) for level in (60, 90, 120)}
    return {
        level: make_mark(folder, get_ffmpeg_exe(), mark).read_bytes()
        for level, mark in made.items()
    }


def files(served: Served, *bodies: bytes) -> list[str]:
    return [each["id"] for each in served.make_batch(*bodies)["files"]]


def ask(served: Served, inputs: list[dict[str, Any]], **params: Any) -> httpx.Response:
    wish = {"operation": "concatenate", "inputs": inputs, "params": params}
    return served.http.post("/api/v1/jobs", json=wish)


def finished(served: Served, asked: httpx.Response) -> dict[str, Any]:
    assert asked.status_code == 202, asked.text
    address = f"/api/v1/jobs/{asked.json()['id']}"

    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = served.http.get(address).json()
        return job if job["status"] not in {"queued", "processing"} else None

    job = wait_for(look, seconds=60)
    assert job["status"] == "completed", job
    return job


def test_clips_are_joined_by_their_order_and_the_job_tells_of_each(
    working: Served, marks: dict[int, bytes], tmp_path: Path
) -> None:
    one, two, three = files(working, marks[60], marks[90], marks[120])
    inputs = [
        {"upload_id": two, "order": 7},
        {"upload_id": three, "order": 3},
        {"upload_id": one, "order": 5},
        {"upload_id": one, "order": 9},
    ]
    job = finished(working, ask(working, inputs))
    told = job["result"]["clips"]
    assert [clip["id"] for clip in told] == [three, one, two, one]
    assert [clip["mode"] for clip in told] == ["normalised", "copied", "copied", "copied"]
    assert [clip["start_seconds"] for clip in told] == [0, 1, 2, 3]
    assert (job["result"]["duration_seconds"], job["progress"]) == (4, 100)
    result = tmp_path / "result.mp4"
    result.write_bytes(working.http.get(f"/api/v1/jobs/{job['id']}/output").content)
    levels = read(result).levels[15::30]
    assert [round(float(level) / 30) * 30 for level in levels] == [120, 60, 90, 60]


def test_outputs_of_jobs_are_clips_like_any_other(working: Served, marks: dict[int, bytes]) -> None:
    (clip,) = files(working, marks[60])
    first = finished(working, ask(working, [{"upload_id": clip}]))
    (output,) = first["outputs"]
    again = [{"output_id": output["id"], "order": 0}, {"output_id": output["id"], "order": 1}]
    job = finished(working, ask(working, again))
    assert [each["mode"] for each in job["result"]["clips"]] == ["copied", "copied"]


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n",
        b"ffconcat version 1.0\nfile '../uploads/other'\n",
        b"<?xml version='1.0'?><MPD><BaseURL>/etc/hostname</BaseURL></MPD>",
    ],
)
def test_a_playlist_among_the_inputs_is_refused_and_named(
    working: Served, marks: dict[int, bytes], playlist: bytes
) -> None:
    good, bad = files(working, marks[60], playlist)
    inputs = [{"upload_id": good, "order": 0}, {"upload_id": bad, "order": 1}]
    answer = ask(working, inputs)
    assert answer.status_code in {415, 422}, answer.text
    problem = answer.json()
    assert problem["code"] == "not_media"
    assert problem["detail"].startswith("Input 2 (clip.mp4): ")
    assert problem["input"] == {"number": 2, "id": bad, "filename": "clip.mp4"}


def test_a_crossfade_that_is_too_long_is_refused_before_a_job_exists(
    working: Served, marks: dict[int, bytes]
) -> None:
    one, two = files(working, marks[60], marks[90])
    inputs = [{"upload_id": one, "order": 0}, {"upload_id": two, "order": 1}]
    answer = ask(working, inputs, transition="crossfade", crossfade_seconds=0.5)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_params")
    assert "clip 1" in answer.json()["detail"]


def test_more_clips_than_twenty_are_refused(working: Served, marks: dict[int, bytes]) -> None:
    (clip,) = files(working, marks[60])
    answer = ask(working, [{"upload_id": clip, "order": order} for order in range(21)])
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_inputs")
    assert "1 to 20 clips, and 21 were given" in answer.json()["detail"]
