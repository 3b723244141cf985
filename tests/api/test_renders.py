"""The synchronous endpoints over HTTP: what they take, what they refuse, and that nothing stays."""

import base64
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from app.api.routes.renders import CALLS
from app.domain.errors import DatabaseBusy
from app.domain.outputs import Output
from app.server.protocol import LimitedProtocol
from app.services.outputs import OutputService
from app.services.ports import Database, Files
from tests.fakes.clips import ClipSpec, make_clip
from tests.fakes.described import Described
from tests.fakes.served import Served, settings_for, wait_for

TABLES = ("sessions", "batches", "uploads", "jobs", "outputs", "cleanup_pending", "requests")
PEOPLE = {"team": "Tidewater", "full_name": "Ada Lovelace", "role": "Navigator"}
TRIM = {"start": "0.5", "end": "1.5"}
"""A second of a clip of two."""
BLINK_SECONDS = 0.5
WISHES: dict[str, dict[str, Any]] = {
    "intro": PEOPLE,
    "announcement": {"title": "Spring tide", "body": "At the harbour, on Friday."},
    "how-it-works": {"title": "In three steps", "steps": ["Upload", "Wait", "Download"]},
    "persona": {"full_name": "Ada Lovelace", "role": "Navigator"},
    "demo": {
        "title": "A demo",
        "captions": json.dumps([{"text": "Look here", "start": 0.1, "end": 0.4}]),
    },
    "closing": {"message": "Thank you"},
    "trim": TRIM,
    "trim-preview": TRIM,
}


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that runs jobs and takes three clips in one film."""
    settings = settings_for(
        tmp_path_factory.mktemp("working") / "data",
        jobs={"workers": 2},
        media={"concat_max_clips": 3},
        uploads={"multipart_max_bytes": 4 * 2**20},
    )
    with Served(settings) as running:
        yield running


@pytest.fixture(scope="module")
def blink(clip_folder: Path) -> bytes:
    """A clip for what is encoded at full size."""
    return make_clip(clip_folder, get_ffmpeg_exe(), ClipSpec(seconds=BLINK_SECONDS)).read_bytes()


def post(
    served: Served, path: str, *files: tuple[str, Any], data: Any = None, **headers: str
) -> httpx.Response:
    form = [*files, *((name, (None, text)) for name, text in _fields(data or {}))]
    return served.http.post(path, files=form, headers=headers)


def _fields(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in data.items():
        for text in value if isinstance(value, list) else [value]:
            yield name, text


def video(clip: bytes, name: str = "video") -> tuple[str, Any]:
    return name, ("holiday.mp4", clip, "video/mp4")


def seconds_of(film: bytes, folder: Path) -> float:
    path = folder / f"{hashlib.sha256(film).hexdigest()}.mp4"
    path.write_bytes(film)
    with av.open(str(path)) as found:
        stream = found.streams.video[0]
        frames = [frame.pts or 0 for frame in found.decode(stream)]
        tick = stream.time_base or Fraction(1)
        step = (frames[-1] - frames[0]) / (len(frames) - 1)
        return float((frames[-1] - frames[0] + step) * tick)


def nothing_left(served: Served) -> None:
    """Wait until there are no rows and no files but those of what went before."""
    wait_for(lambda: _left(served) == ({}, {}))


def _left(served: Served) -> tuple[dict[str, Any], dict[str, int]]:
    rows, files = served.state()
    return {name: rows[name] for name in TABLES if rows[name]}, files


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    told: dict[str, Any] = response.json()
    assert (response.status_code, told["code"]) == (status, code), told
    assert told["detail"]
    return told


# --- films ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [call for call in CALLS if call.operation in WISHES], ids=str)
def test_a_clip_comes_and_the_finished_file_goes_out(
    working: Served, described: Described, clip: bytes, blink: bytes, tmp_path: Path, call: Any
) -> None:
    path = f"/api{call.path}"
    wishes = {**WISHES[call.operation], "final_filename": "my: film.MP4"}
    is_trim = call.operation.startswith("trim")
    answer = post(working, path, video(clip if is_trim else blink), data=wishes)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "video/mp4"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["content-disposition"] == ('attachment; filename="my_ film.mp4"')
    digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert answer.headers["cache-control"] == "no-store"
    assert "accept-ranges" not in answer.headers
    told = json.loads(answer.headers["tidemill-result"])
    # Drawn words need more time than the shortest of clips has; captions come when they are told to.
    needs_more = not is_trim and call.operation != "demo"
    assert [each[:12] for each in told["warnings"]] == ["The clip is "] * needs_more
    assert told.get("mode") == ("exact" if call.operation == "trim" else None)
    described.check(answer)
    found = seconds_of(answer.content, tmp_path)
    assert found == pytest.approx(1.0, abs=0.1) if is_trim else found >= BLINK_SECONDS
    nothing_left(working)
    job_id = answer.headers["tidemill-job"]
    gone = problem(working.http.get(f"/api/v1/jobs/{job_id}"), 410, "job_gone")
    assert gone["reason"] == "request_ended"


def test_a_list_may_be_a_repeated_field_or_json_and_every_part_of_it_is_looked_at(
    served: Served, clip: bytes
) -> None:
    path = "/api/how-it-works/render"
    for steps in (["One"], '["One"]', ["One", ""]):
        wishes = {"title": "Few", "steps": steps}
        told = problem(post(served, path, data=wishes), 422, "invalid_params")
        assert told["errors"][0]["loc"] == "steps"
    for steps in (["One", "x" * 500], json.dumps(["One", 2]), ['[1] "One"', "x\x07"]):
        told = problem(post(served, path, data={"steps": steps}), 422, "invalid_params")
        assert told["errors"][0]["loc"] == "steps.1"
    wishes = {"title": "A demo", "captions": "Look here"}
    told = problem(post(served, "/api/demo/render", data=wishes), 400, "malformed_request")
    assert "captions" in told["detail"]
    captions = json.dumps({"text": "Look", "start": 1, "end": 0, "color": "red"})
    told = problem(
        post(served, "/api/demo/render", data={"captions": captions}), 422, "invalid_params"
    )
    assert told["errors"][0]["loc"].startswith("captions.0")


def test_segments_come_in_the_order_that_their_fields_ask_for(
    working: Served, clip: bytes, clip_folder: Path
) -> None:
    short = make_clip(clip_folder, get_ffmpeg_exe(), ClipSpec(seconds=1)).read_bytes()
    shorter = make_clip(clip_folder, get_ffmpeg_exe(), ClipSpec(seconds=0.5)).read_bytes()
    files = [video(clip, "segment_7"), video(short, "segment_0"), video(shorter, "segment_2")]
    wishes = {"order_7": "1", "final_filename": "all"}
    path = "/api/concatenate-multipart"
    answer = post(working, path, *files, data=wishes, prefer="respond-async")
    assert answer.status_code == 202, answer.text
    job = answer.json()
    named = working.http.get(f"/api/v1/batches/{job['batch_id']}").json()["files"]
    sizes = {each["id"]: each["size_bytes"] for each in named}
    # By order_n, which is n where nobody says: 0, then 7 which asks for 1, then 2.
    wanted = [len(short), len(clip), len(shorter)]
    assert [sizes[each["upload_id"]] for each in job["inputs"]] == wanted
    # Asked for so, it is a job like any other: it stays until somebody ends it.
    job_path = f"/api/v1/jobs/{job['id']}?cancel=true"
    assert working.http.delete(job_path).status_code == 204
    assert working.http.delete(f"/api/v1/batches/{job['batch_id']}").status_code == 204
    nothing_left(working)


def ended(served: Served, job_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = served.http.get(f"/api/v1/jobs/{job_id}").json()
        return job if job["status"] not in {"queued", "processing"} else None

    job = wait_for(look, 60)
    assert job["status"] == "completed", job
    return job


def test_what_is_named_by_an_id_stays_and_may_be_asked_for_in_json(
    working: Served, clip: bytes, tmp_path: Path
) -> None:
    batch = working.make_batch(clip)
    upload_id = batch["files"][0]["id"]
    made = post(
        working, "/api/trim", data={"upload_id": upload_id, "end": "1"}, prefer="Respond-Async"
    )
    assert made.status_code == 202
    assert made.headers["preference-applied"] == "respond-async"
    assert made.headers["location"] == f"/api/v1/jobs/{made.json()['id']}"
    output_id = ended(working, made.json()["id"])["outputs"][0]["id"]

    in_json = working.http.post("/api/trim", json={"output_id": output_id, "start": 0.5})
    assert seconds_of(in_json.content, tmp_path) == pytest.approx(0.5, abs=0.1)
    segments = [
        {"upload_id": upload_id, "order": 9},
        {"output_id": output_id, "order": 3},
    ]
    joined = working.http.post(
        "/api/concatenate", json={"segments": segments, "final_filename": "../both"}
    )
    assert joined.status_code == 200, joined.text
    assert joined.headers["content-disposition"] == 'attachment; filename="both.mp4"'
    assert seconds_of(joined.content, tmp_path) == pytest.approx(3.0, abs=0.1)
    # Neither was theirs to remove.
    assert working.http.get(f"/api/v1/outputs/{output_id}").status_code == 200
    assert working.http.get(f"/api/v1/batches/{batch['id']}").json()["files"][0]["id"] == upload_id
    working.http.delete(f"/api/v1/batches/{batch['id']}")
    nothing_left(working)


def test_two_renders_at_once_get_each_their_own(working: Served, clip: bytes) -> None:
    def render(end: str) -> tuple[str, int]:
        answer = post(working, "/api/trim", video(clip), data={"end": end, "final_filename": end})
        return answer.headers["content-disposition"], answer.status_code

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(render, ["0.5", "1"]))
    assert found == [(f'attachment; filename="{end}.mp4"', 200) for end in ("0.5", "1")]
    nothing_left(working)


def test_a_part_of_the_answer_cannot_be_asked_for(working: Served, clip: bytes) -> None:
    headers = {"Range": "bytes=0-9", "If-None-Match": "*", "If-Match": '"other"'}
    answer = post(working, "/api/trim", video(clip), data={"end": "0.5"}, **headers)
    assert answer.status_code == 200
    assert answer.content[4:8] == b"ftyp"


class AsTheCommand(Served):
    """Served with the protocol that the command has."""

    http_protocol = LimitedProtocol


def test_who_wants_no_wait_is_answered_after_saying_that_nothing_more_comes(
    tmp_path: Path, clip: bytes
) -> None:
    with AsTheCommand(settings_for(tmp_path / "data", jobs={"workers": 0})) as served:
        _ask_and_say_goodbye(served, clip)


def _ask_and_say_goodbye(served: Served, clip: bytes) -> None:
    batch = served.make_batch(clip)
    body = json.dumps({"upload_id": batch["files"][0]["id"], "end": 1}).encode()
    head = (
        "POST /api/trim HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Prefer: respond-async\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.port), 30) as line:
        line.sendall(head.encode() + body)
        line.shutdown(socket.SHUT_WR)
        assert line.recv(4096).startswith(b"HTTP/1.1 202 ")
    (job,) = served.http.get("/api/v1/jobs", params={"batch_id": batch["id"]}).json()["items"]
    assert served.http.delete(f"/api/v1/jobs/{job['id']}?cancel=true").status_code == 204
    assert served.http.delete(f"/api/v1/batches/{batch['id']}").status_code == 204
    nothing_left(served)


class LostOutputs:
    """Knows outputs whose files are gone."""

    def __init__(self, outputs: OutputService) -> None:
        self._outputs = outputs

    async def get(self, owner: str, output_id: str) -> tuple[Output, Path]:
        output, path = await self._outputs.get(owner, output_id)
        return output, path.with_name("gone")


def test_a_result_that_is_lost_before_it_is_sent_counts_as_failed(
    working: Served, clip: bytes
) -> None:
    def failed() -> float:
        sample = re.search(
            r'renders_total{operation="trim",outcome="failed"} (.+)',
            working.http.get("/metrics").text,
        )
        return float(sample[1]) if sample else 0.0

    before, renders = failed(), working.container.renders
    lost: Any = LostOutputs(renders.outputs)
    changed = replace(working.container, renders=replace(renders, outputs=lost))
    with working.exchanged(changed):
        problem(post(working, "/api/trim", video(clip), data=TRIM), 410, "output_gone")
        assert failed() == before + 1
    nothing_left(working)


class BusyOnce:
    """A database whose second write is refused."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.writes = 0

    async def write(self, work: Any) -> Any:
        self.writes += 1
        if self.writes == 2:
            raise DatabaseBusy("Somebody else writes.")
        return await self._db.write(work)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def test_what_could_not_be_removed_before_it_was_sent_is_removed_behind_it(
    working: Served, clip: bytes
) -> None:
    renders = working.container.renders
    busy: Any = BusyOnce(renders.removal.db)
    changed = replace(renders, removal=replace(renders.removal, db=busy))
    with working.exchanged(replace(working.container, renders=changed)):
        answer = post(working, "/api/trim", video(clip), data=TRIM)
        assert (answer.status_code, len(answer.content)) == (
            200,
            int(answer.headers["content-length"]),
        )
        # The request was written down, then twice to be removed; no sweep had to come.
        wait_for(lambda: busy.writes == 3)
    nothing_left(working)


# --- refusals -------------------------------------------------------------------------------------

NOBODY = "0" * 32
FORM = "multipart/form-data; boundary=edge"
EMPTY_INPUT = b'--edge\r\nContent-Disposition: form-data; name="video"; filename=""\r\n\r\n\r\n'
"""What a browser sends of a file input in which nothing was chosen."""
START_FIELD = b'--edge\r\nContent-Disposition: form-data; name="start"\r\n\r\n1\r\n--edge--\r\n'
HOSTILE = b"#EXTM3U\nfile:///etc/passwd\n"


@pytest.mark.parametrize(
    "wrong",
    [
        ("trim", {"start": "soon"}, 422, "invalid_params", "start"),
        ("trim", {"mode": "quick"}, 422, "invalid_params", "mode"),
        ("trim", {"start": "0", "colour": "red"}, 422, "invalid_request", "colour"),
        ("trim", {"start": ["0", "1"]}, 422, "invalid_request", "start"),
        ("trim", {"start": ""}, 422, "invalid_params", "params"),
        (
            "trim",
            {"end": "1", "final_filename": "../.mp4"},
            422,
            "invalid_request",
            "final_filename",
        ),
        ("trim", {"end": "1", "upload_id": NOBODY}, 422, "invalid_request", "upload_id"),
        ("trim", {"end": "1", "video": "text"}, 422, "invalid_request", "video"),
        ("trim", {"start": "2", "end": "1"}, 422, "trim_out_of_range", None),
        ("trim", {"start": "7"}, 422, "trim_out_of_range", None),
        ("trim", {"end": "1", "order_0": "1"}, 422, "invalid_request", "order_0"),
        ("concatenate-multipart", {"segment_0": "x"}, 422, "invalid_request", "segment_0"),
        ("concatenate-multipart", {"order_0": "-1"}, 422, "invalid_request", "order_0"),
        ("concatenate-multipart", {"order_01": "1"}, 422, "invalid_request", "order_01"),
        ("concatenate-multipart", {"order_0": ["1", "2"]}, 422, "invalid_request", "order_0"),
        ("concatenate-multipart", {"order_5": "2"}, 422, "invalid_request", "order_5"),
        ("concatenate-multipart", {"transition": "wipe"}, 422, "invalid_params", "transition"),
    ],
    ids=str,
)
def test_a_wrong_field_is_refused_by_name_and_leaves_nothing(
    served: Served, described: Described, clip: bytes, wrong: tuple[Any, ...]
) -> None:
    path, fields, status, code, loc = wrong
    before = served.state()
    name = "segment_0" if path == "concatenate-multipart" else "video"
    answer = post(served, f"/api/{path}", video(clip, name), data=fields)
    described.check(answer)
    told = problem(answer, status, code)
    if loc is not None:
        assert [each["loc"] for each in told["errors"]] == [loc]
        assert loc in told["detail"]
    if code == "invalid_request" and "no such field" in told["detail"]:
        assert "final_filename" in told["errors"][0]["allowed"]
    if code == "trim_out_of_range" and fields["start"] == "7":
        assert told["duration_seconds"] == 2.0
    assert _without_tombstones(served.state()) == _without_tombstones(before)


def _without_tombstones(state: tuple[dict[str, Any], dict[str, int]]) -> Any:
    return {**state[0], "tombstones": []}, state[1]


@pytest.mark.parametrize(
    ("body", "status", "code", "loc"),
    [
        ({}, 422, "invalid_request", "segments"),
        ([], 422, "invalid_request", "body"),
        ({"segments": "all"}, 422, "invalid_request", "segments"),
        ({"segments": []}, 422, "invalid_request", "segments"),
        ({"segments": ["x"]}, 422, "invalid_request", "segments.0"),
        ({"segments": [{"order": 1}]}, 422, "invalid_request", "segments.0"),
        (
            {"segments": [{"upload_id": NOBODY, "output_id": NOBODY}]},
            *(422, "invalid_request", "segments.0"),
        ),
        ({"segments": [{"upload_id": NOBODY, "x": 1}]}, 422, "invalid_request", "segments.0.x"),
        (
            {"segments": [{"upload_id": NOBODY, "order": -1}]},
            *(422, "invalid_request", "segments.0.order"),
        ),
        ({"segments": [{"upload_id": NOBODY}]}, 404, "upload_not_found", None),
        ({"segments": [{"output_id": "../x"}]}, 404, "output_not_found", None),
        ({"final_filename": 7}, 422, "invalid_request", "final_filename"),
        ({"video": "x"}, 422, "invalid_request", "video"),
    ],
    ids=str,
)
def test_wrong_json_is_refused_by_name(
    served: Served, described: Described, body: Any, status: int, code: str, loc: str | None
) -> None:
    answer = served.http.post("/api/concatenate", json=body)
    described.check(answer)
    told = problem(answer, status, code)
    if loc is not None:
        assert [each["loc"] for each in told["errors"]] == [loc]


def test_segments_of_one_order_are_refused_however_they_are_given(
    served: Served, clip: bytes
) -> None:
    two = [video(clip, "segment_0"), video(clip, "segment_1")]
    told = problem(
        post(served, "/api/concatenate-multipart", *two, data={"order_0": "1"}),
        *(422, "invalid_request"),
    )
    assert told["errors"][0]["loc"] == "order_1"
    upload_id = served.make_batch(clip)["files"][0]["id"]
    twice = [{"upload_id": upload_id, "order": 1}] * 2
    told = problem(
        served.http.post("/api/concatenate", json={"segments": twice}), 422, "invalid_request"
    )
    assert told["errors"][0]["loc"] == "segments.1.order"


def test_there_is_one_main_input_and_not_too_many_segments(working: Served, clip: bytes) -> None:
    path = "/api/trim"
    for chosen in (b"", EMPTY_INPUT):
        body = chosen + START_FIELD
        answer = working.http.post(path, content=body, headers={"Content-Type": FORM})
        told = problem(answer, 422, "invalid_request")
        assert told["errors"][0]["loc"] == "video"
        assert "upload_id" in told["detail"]
    no_clip = problem(post(working, "/api/intro/render", data=PEOPLE), 422, "invalid_request")
    assert no_clip["errors"][0]["allowed"] == "video, file, upload_id, output_id"
    for other in ("video", "file"):
        told = problem(
            post(working, path, video(clip), video(clip, other), data=TRIM), 422, "invalid_request"
        )
        assert told["errors"][0]["loc"] == other
    both = [video(clip), ("image", ("still.png", b"x", "image/png"))]
    told = problem(post(working, "/api/persona/render", *both), 422, "invalid_request")
    assert told["errors"][0]["loc"] == "image"
    neither = post(working, "/api/persona/render", data=WISHES["persona"])
    problem(neither, 422, "invalid_inputs")
    no_picture = post(working, "/api/persona/render", both[1], data=WISHES["persona"])
    problem(no_picture, 422, "not_an_image")
    four = [video(clip, f"segment_{n}") for n in range(4)]
    told = problem(post(working, "/api/concatenate-multipart", *four), 422, "invalid_request")
    assert told["errors"][0]["loc"] == "segment_3"
    nothing_left(working)


def test_a_body_of_another_kind_a_key_and_too_much_are_refused(
    working: Served, described: Described, clip: bytes
) -> None:
    def check(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
        described.check(answer)
        return problem(answer, status, code)

    text = working.http.post("/api/trim", content=b"x", headers={"Content-Type": "text/plain"})
    both = ["multipart/form-data", "application/json"]
    assert check(text, 415, "unsupported_media_type")["allowed"] == both
    nothing = check(working.http.post("/api/trim"), 415, "unsupported_media_type")
    assert nothing["detail"].endswith(", but no Content-Type was sent.")
    form = post(working, "/api/concatenate", video(clip))
    assert check(form, 415, "unsupported_media_type")["allowed"] == both[1:]
    in_json = working.http.post("/api/concatenate-multipart", json={})
    assert check(in_json, 415, "unsupported_media_type")["allowed"] == both[:1]
    keyed = post(working, "/api/trim", video(clip), data=TRIM, **{"Idempotency-Key": "k"})
    check(keyed, 400, "not_supported")
    check(working.http.post("/api/trim?start=1", json={}), 422, "invalid_request")
    check(working.http.post("/api/trim", content=b"{", headers={"Content-Type": both[1]}), *BAD)
    large = post(working, "/api/trim", video(bytes(5 * 2**20)), data=TRIM)
    check(large, 413, "request_too_large")
    for content, code in ((b"", "empty_file"), (HOSTILE, "not_media"), (clip[:5000], None)):
        answer = post(working, "/api/trim", video(content), data=TRIM)
        assert (answer.status_code, code or "input_damaged") == (422, answer.json()["code"])
    nothing_left(working)


BAD = (400, "malformed_request")


class ShortDisk:
    """A disk with so many bytes free."""

    def __init__(self, files: Files, free: int) -> None:
        self._files = files
        self._free = free

    def free_bytes(self) -> int:
        return self._free

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)


def test_work_on_a_file_named_by_its_id_must_fit_on_the_disk_too(
    served: Served, clip: bytes
) -> None:
    batch = served.make_batch(clip)
    renders = served.container.renders
    short: Any = ShortDisk(served.container.files, 2 * len(clip) - 1)
    changed = replace(renders, forms=replace(renders.forms, files=short))
    asked = {"upload_id": batch["files"][0]["id"], "end": 1}
    with served.exchanged(replace(served.container, renders=changed)):
        told = problem(served.http.post("/api/trim", json=asked), 507, "no_space")
    assert (told["required_bytes"], told["available_bytes"]) == (2 * len(clip), 2 * len(clip) - 1)
    wait_for(lambda: served.read(lambda tx: tx.requests.list_all(9)) == [])
    assert served.http.delete(f"/api/v1/batches/{batch['id']}").status_code == 204


def test_more_entries_than_a_list_takes_are_refused_as_soon_as_they_come(served: Served) -> None:
    caption = json.dumps({"text": "Look", "start": 1, "end": 2})
    for path, name, entry, most in (
        ("/api/demo/render", "captions", caption, 24),
        ("/api/how-it-works/render", "steps", "One", 8),
    ):
        # What comes behind them is no text at all, and nobody looks at it any more.
        wishes = {name: [entry] * (most + 1), "title": "\0"}
        told = problem(post(served, path, data=wishes), 422, "invalid_params")
        assert told["errors"][0]["loc"] == name


def test_a_full_queue_is_said_before_the_body_is_read(keyed: Served, clip: bytes) -> None:
    upload_id = keyed.make_batch(clip)["files"][0]["id"]
    asked = {"upload_id": upload_id, "end": 1}
    headers = {"Prefer": "respond-async"}
    assert keyed.http.post("/api/trim", json=asked, headers=headers).status_code == 202
    told = problem(post(keyed, "/api/trim", video(clip), data={"start": "soon"}), 429, "queue_full")
    assert told["limit"] == 1
    stranger = httpx.post(f"{keyed.url}/api/trim", json=asked, trust_env=False)
    problem(stranger, 401, "credentials_required")
