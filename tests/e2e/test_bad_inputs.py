"""Bad files and bad wishes, each with its own clear code, at POST /jobs and as a failed `then`."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.frames import ffmpeg
from tests.e2e.harness import Server
from tests.e2e.wire import TUS, await_job, encode_metadata, open_session, problem, upload
from tests.fakes.ffmpeg_arguments import kinds
from tests.fakes.recorder import Reader

TRIM = {"start": 0.5, "end": 1.5}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory, short_clip: Path) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("bad")
    tone = folder / "tone.mp4"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=2", "-c:a", "aac", tone)
    clip = short_clip.read_bytes()
    return {
        "a text file called .mp4": b"Dear diary, this is no film.\n" * 50,
        "an empty clip": b"",
        "a clip without video": tone.read_bytes(),
        "random bytes": secrets.token_bytes(100_000),
        "a playlist": b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n",
        "a clip": clip,
    }


@pytest.fixture(scope="module")
def api(shared_server: Server) -> Iterator[httpx.Client]:
    with shared_server.client() as client:
        yield client


COUNTS = """
SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM uploads),
       (SELECT count(*) FROM batches), (SELECT count(*) FROM jobs), (SELECT count(*) FROM outputs)
"""


@pytest.fixture
def counts(shared_server: Server) -> Callable[[], tuple[int, ...]]:
    """How many rows of each kind there are."""
    return lambda: shared_server.rows(COUNTS)[0]


def _upload_id(api: httpx.Client, body: bytes) -> str:
    finished = upload(api, body, filename="clip.mp4", filetype="video/mp4")
    return finished.headers["tidemill-upload"]


def _post_job(api: httpx.Client, upload_id: str, **changes: Any) -> httpx.Response:
    body = {
        "operation": "trim",
        "inputs": [{"upload_id": upload_id, "role": "clip"}],
        "params": TRIM,
    }
    return api.post("/api/v1/jobs", json=body | changes)


def test_what_a_server_in_a_process_of_its_own_runs_is_recorded(
    api: httpx.Client,
    shared_server: Server,
    bad_files: dict[str, bytes],
    recorded_arguments: Path,
) -> None:
    # That all of it keeps the rule is judged after every test.
    asked = _post_job(api, _upload_id(api, bad_files["a clip"]))
    assert await_job(api, asked.json()["id"])["status"] == "completed"
    started = [s for s in Reader(recorded_arguments).read() if s.pid == shared_server.pid]
    runs = [each.command[1:] for each in started if each.is_ffmpeg and "-i" in each.command]
    assert ["foreign"] in [kinds(arguments) for arguments in runs]
    assert [s for s in started if any(part.endswith("probe_child.py") for part in s.command)]


BAD_FILES = [
    ("a text file called .mp4", "not_media"),
    ("an empty clip", "empty_file"),
    ("a clip without video", "no_video_stream"),
    ("random bytes", "not_media"),
    ("a playlist", "not_media"),
]


@pytest.mark.parametrize(("name", "code"), BAD_FILES)
def test_a_bad_file_is_refused_when_a_job_is_asked_for(
    name: str,
    code: str,
    api: httpx.Client,
    shared_server: Server,
    counts: Callable[[], tuple[int, ...]],
    bad_files: dict[str, bytes],
) -> None:
    upload_id = _upload_id(api, bad_files[name])
    before, files = counts(), shared_server.leftovers()
    body = problem(_post_job(api, upload_id), 422, code)
    assert str(shared_server.data) not in str(body)
    assert (counts(), shared_server.leftovers()) == (before, files)


@pytest.mark.parametrize(("name", "code"), BAD_FILES)
def test_a_bad_file_makes_a_failed_job_when_the_operation_was_asked_for_before(
    name: str, code: str, api: httpx.Client, bad_files: dict[str, bytes]
) -> None:
    session_id = open_session(api, expected_files=1, then={"operation": "trim", "params": TRIM})
    finished = upload(api, bad_files[name], filename="clip.mp4", session=session_id)
    job = await_job(api, finished.headers["tidemill-job"])
    assert job["status"] == "failed"
    assert job["error"]["code"] == code
    assert job["error"]["message"]
    assert job["outputs"] == []
    assert job["attempt"] == 1, "no retry can cure a bad file"


@pytest.mark.parametrize(
    "params",
    [
        {"start": 1, "end": 99},
        {"start": 50},
        {"start": 50, "end": 60},
        {"start": 1, "end": 0.5},
        {"start": 1, "end": 1},
        {"start": -1, "end": 1},
    ],
)
def test_a_cut_that_does_not_lie_in_the_clip_names_the_length_of_the_clip(
    params: dict[str, float], api: httpx.Client, bad_files: dict[str, bytes]
) -> None:
    upload_id = _upload_id(api, bad_files["a clip"])
    body = problem(_post_job(api, upload_id, params=params), 422, "trim_out_of_range")
    assert body["duration_seconds"] == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"operation": "transmogrify"}, "unknown_operation"),
        ({"params": {}}, "invalid_params"),
        ({"params": {"start": "soon"}}, "invalid_params"),
        ({"params": TRIM | {"speed": 2}}, "invalid_params"),
        ({"params": TRIM | {"mode": "magic"}}, "invalid_params"),
        ({"inputs": []}, "invalid_inputs"),
        ({"prioriti": 1}, "invalid_request"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_and_makes_no_job(
    changes: dict[str, Any],
    code: str,
    api: httpx.Client,
    counts: Callable[[], tuple[int, ...]],
    bad_files: dict[str, bytes],
) -> None:
    upload_id = _upload_id(api, bad_files["a clip"])
    before = counts()
    problem(_post_job(api, upload_id, **changes), 422, code)
    assert counts() == before


def test_an_operation_nobody_knows_is_refused_before_any_byte(
    api: httpx.Client, counts: Callable[[], tuple[int, ...]]
) -> None:
    before = counts()
    for then, code in (
        ({"operation": "transmogrify", "params": {}}, "unknown_operation"),
        ({"operation": "trim", "params": {"speed": 2}}, "invalid_params"),
    ):
        refused = api.post("/api/v1/upload", json={"expected_files": 1, "then": then})
        problem(refused, 422, code)
    assert counts() == before


@pytest.mark.parametrize(
    "session_id", ["0" * 32, "../../etc/passwd", "", "nope", "0" * 31, "A" * 32]
)
def test_an_unknown_session_takes_no_upload_and_makes_no_batch(
    session_id: str, api: httpx.Client, shared_server: Server, counts: Callable[[], tuple[int, ...]]
) -> None:
    before, files = counts(), shared_server.leftovers()
    headers = TUS | {
        "Upload-Length": "10",
        "Upload-Metadata": encode_metadata({"session": session_id}),
    }
    if session_id:
        problem(api.post("/files/", headers=headers), 404, "session_not_found")
    made = api.post("/api/v1/batches", json={"session_id": session_id})
    assert made.status_code in {404, 422}
    problem(made, made.status_code, made.json()["code"])
    assert (counts(), shared_server.leftovers()) == (before, files)


def test_an_unknown_input_is_refused(api: httpx.Client) -> None:
    response = _post_job(api, "0" * 32)
    assert response.status_code in {404, 422}
    problem(response, response.status_code, response.json()["code"])


def _ids() -> list[tuple[str, str]]:
    kinds = ("jobs", "batches", "uploads", "outputs", "upload")
    bad = ("0" * 32, "x", "0" * 33, "A" * 32, "%00", "..%2f..%2fetc%2fpasswd", "%2e%2e")
    return [(kind, value) for kind in kinds for value in bad]


def test_ids_that_are_none_are_not_found(api: httpx.Client) -> None:
    for kind, value in _ids():
        response = api.get(f"/api/v1/{kind}/{value}")
        assert response.status_code == 404, (kind, value, response.text)
        problem(response, 404, response.json()["code"])


@pytest.fixture
def post_raw(api: httpx.Client) -> Callable[..., httpx.Response]:
    def post(content: bytes, content_type: str | None) -> httpx.Response:
        headers = {"Content-Type": content_type} if content_type else {}
        return api.post("/api/v1/jobs", content=content, headers=headers)

    return post


def test_bodies_that_are_no_json_are_refused_by_what_is_wrong_with_them(
    post_raw: Callable[..., httpx.Response],
) -> None:
    problem(post_raw(b"{}", "text/plain"), 415, "unsupported_media_type")
    problem(post_raw(b"{", "application/json"), 400, "malformed_request")
    problem(post_raw(b"\xff\xfe", "application/json"), 400, "malformed_request")
    problem(post_raw(b"[]", "application/json"), 422, "invalid_request")
