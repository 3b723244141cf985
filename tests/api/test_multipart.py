"""Files that come as an ordinary form: into a new session, into an open one, or not at all."""

import base64
import contextlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.api.session_form import clean_filename
from app.domain.errors import UploadGone
from tests.fakes.described import Described
from tests.fakes.served import TUS, Served, settings_for, wait_for

UPLOAD = "/api/v1/upload"
THEN = {"operation": "trim", "params": {"end": 1}}
KIB = 1024
MIB = 1024 * KIB
FORM = {"content-type": "multipart/form-data; boundary=b0"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that takes little: forms of 2 MiB, files of 1 MiB, a moment of silence."""
    settings = settings_for(
        tmp_path_factory.mktemp("small") / "data",
        jobs={"workers": 0},
        uploads={
            "multipart_max_bytes": 2 * MIB,
            "max_upload_bytes": MIB,
            "upload_read_timeout_seconds": 1.5,
        },
    )
    with Served(settings) as running:
        yield running


def send(
    served: Served, *files: tuple[str, bytes], path: str = UPLOAD, **fields: Any
) -> httpx.Response:
    parts = [("files", (name, body, "video/mp4")) for name, body in files]
    data = {
        name: each if isinstance(each, str) else json.dumps(each) for name, each in fields.items()
    }
    return served.http.post(path, files=parts, data=data)


def part(name: str, body: bytes, *, filename: str | None = None, more: str = "") -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    head = f'--b0\r\nContent-Disposition: form-data; name="{name}"{named}\r\n{more}\r\n'
    return head.encode() + body + b"\r\n"


def post(served: Served, body: bytes, path: str = UPLOAD, **headers: str) -> httpx.Response:
    return served.http.post(path, content=body, headers={**FORM, **headers})


def stored(served: Served, upload_id: str) -> bytes:
    return (served.data / "uploads" / upload_id).read_bytes()


def metric(served: Served, name: str) -> float:
    text = served.http.get("/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith(f"tidemill_{name} ")]
    return float(line.rpartition(" ")[2])


@contextlib.contextmanager
def nothing_changes(served: Served) -> Iterator[None]:
    before = served.state()
    yield
    wait_for(lambda: not list((served.data / "work").iterdir()))
    assert served.state() == before


# --- what works -----------------------------------------------------------------------------------


def test_a_form_opens_a_session_and_its_files_are_completed_uploads_in_their_order(
    served: Served, described: Described
) -> None:
    names = ["zebra.mp4", "apple.mp4", "middle.mp4"]
    bodies = [b"one", b"", b"three" * 50_000]
    response = send(served, *zip(names, bodies, strict=True))
    session = described.check(response)
    assert response.status_code == 201
    assert response.headers["location"] == f"{UPLOAD}/{session['session_id']}"
    uploads = session["uploads"]
    assert [each["filename"] for each in uploads] == names
    assert {each["status"] for each in uploads} == {"completed"}
    assert {each["media_type"] for each in uploads} == {"video/mp4"}
    assert [each["offset"] for each in uploads] == [len(body) for body in bodies]
    assert [stored(served, each["id"]) for each in uploads] == bodies
    assert response.headers["tidemill-upload"] == ",".join(each["id"] for each in uploads)
    assert (session["status"], session["expected_files"]) == ("open", None)
    assert "tidemill-batch" not in response.headers
    assert served.http.get(response.headers["location"]).json() == session
    assert not list((served.data / "work").iterdir())


def test_an_upload_of_a_form_is_like_any_other(served: Served) -> None:
    (upload,) = send(served, ("ümläut clip.mp4", b"abc")).json()["uploads"]
    head = served.http.head(f"/files/{upload['id']}", headers=TUS)
    assert (head.status_code, head.headers["upload-offset"]) == (200, "3")
    assert head.headers["tidemill-upload"] == upload["id"]
    pairs = dict(pair.split(" ") for pair in head.headers["upload-metadata"].split(","))
    assert base64.b64decode(pairs["filename"]).decode() == "ümläut clip.mp4"
    assert served.http.get(f"/files/{upload['id']}").content == b"abc"
    again = served.patch(upload["id"], 3, b"")
    assert again.status_code == 204
    assert served.http.delete(f"/files/{upload['id']}", headers=TUS).status_code == 204


@pytest.mark.parametrize("order", ["wishes first", "files first", "mixed"])
def test_a_full_session_is_a_batch_with_its_jobs_whatever_the_order_of_the_parts(
    served: Served, described: Described, order: str
) -> None:
    files = [part("files", b"one", filename="1"), part("files", b"two", filename="2")]
    count = part("expected_files", b"2")
    then = part("then", json.dumps(THEN).encode(), more="Content-Type: application/json\r\n")
    kept = part("keep_inputs_hours", b"2.5")
    bodies = {
        "wishes first": [then, count, kept, *files],
        "files first": [*files, kept, count, then],
        "mixed": [count, files[0], then, files[1], kept],
    }
    response = post(served, b"".join([*bodies[order], b"--b0--\r\n"]))
    session = described.check(response)
    assert response.status_code == 201
    assert (session["status"], session["keep_inputs_hours"]) == ("batched", 2.5)
    batch = served.http.get(f"/api/v1/batches/{response.headers['tidemill-batch']}").json()
    assert session["batch_id"] == batch["id"]
    assert [file["id"] for file in batch["files"]] == [each["id"] for each in session["uploads"]]
    assert response.headers["tidemill-job"] == ",".join(job["id"] for job in batch["jobs"])
    jobs = {
        job["id"] for job in served.http.get(f"/api/v1/jobs?batch_id={batch['id']}").json()["items"]
    }
    assert jobs == set(response.headers["tidemill-job"].split(","))


def test_more_files_join_an_open_session_and_the_last_one_makes_the_batch(
    served: Served, described: Described
) -> None:
    session_id = served.open_session(expected_files=4, then=THEN)
    by_tus = served.upload(b"tus", session=session_id)
    path = f"{UPLOAD}/{session_id}"
    first = send(served, ("a", b"a"), path=path)
    assert (first.status_code, described.check(first)["status"]) == (201, "open")
    assert first.headers["location"] == path
    last = served.http.post(path, files=[("file", ("b", b"b")), ("files", ("c", b"c"))])
    session = described.check(last)
    assert (last.status_code, session["status"]) == (201, "batched")
    assert [each["filename"] for each in session["uploads"]] == [by_tus, "a", "b", "c"]
    assert len(last.headers["tidemill-job"].split(",")) == 4
    assert last.headers["tidemill-batch"] == session["batch_id"]


def test_without_a_number_of_files_the_session_waits_for_its_batch(served: Served) -> None:
    session = send(served, ("a", b"a"), then=THEN).json()
    assert (session["status"], session["batch_id"]) == ("open", None)
    batch = served.http.post("/api/v1/batches", json={"session_id": session["session_id"]}).json()
    assert [job["operation"] for job in batch["jobs"]] == ["trim"]


def test_a_thousand_files_are_no_trouble_and_one_more_is_refused(small: Served) -> None:
    files = [part("files", b"%d" % number, filename=f"{number}") for number in range(1001)]
    response = post(small, b"".join([*files[:1000], b"--b0--"]))
    assert response.status_code == 201
    assert "tidemill-upload" not in response.headers
    uploads = response.json()["uploads"]
    assert [each["filename"] for each in uploads] == [f"{number}" for number in range(1000)]
    with nothing_changes(small):
        refused = post(small, b"".join([*files, b"--b0--"]))
        assert (refused.status_code, refused.json()["maximum_files"]) == (413, 1000)


def test_a_form_counts_in_the_metrics_as_other_uploads_do(served: Served) -> None:
    names = (
        "upload_created_total",
        "upload_bytes_received_total",
        'upload_finished_total{outcome="completed"}',
    )
    send(served, ("first", b"so that each series exists"))
    before = [metric(served, name) for name in names]
    send(served, ("a", b"12345"), ("b", b"678"))
    send(served, ("refused", b"12345"), then={"operation": "polish"})
    assert [metric(served, name) for name in names] == [
        before[0] + 2,
        before[1] + 8,
        before[2] + 2,
    ]


def test_a_chunked_form_with_odd_but_lawful_ways_is_read(served: Served) -> None:
    body = b"".join(
        [
            b"a preamble\r\n",
            part("expected_files", b" 2 "),
            b"--b0\r\nContent-Disposition: form-data; name=files; filename=plain\r\n\r\n--b\r\r\n",
            b'--b0\r\ncontent-disposition: form-data; name="file"; filename="x"',
            b"; filename*=utf-8''%c3%bc.mp4\r\n\r\n\r\n--b1\r\n",
            b"--b0--\r\n\r\n",
        ]
    )

    def dribble() -> Iterator[bytes]:
        for place in range(len(body)):
            yield body[place : place + 1]

    response = served.http.post(UPLOAD, content=dribble(), headers=FORM)
    assert response.status_code == 201, response.text
    uploads = response.json()["uploads"]
    assert [each["filename"] for each in uploads] == ["plain", "ü.mp4"]
    assert [stored(served, each["id"]) for each in uploads] == [b"--b\r", b"\r\n--b1"]


def test_a_file_input_in_which_nothing_was_chosen_is_no_file(served: Served) -> None:
    nothing = part("files", b"", filename="", more="Content-Type: application/octet-stream\r\n")
    nameless = part("files", b"x", filename="")
    response = post(served, nothing + nameless + b"--b0--")
    (upload,) = response.json()["uploads"]
    assert (upload["filename"], upload["length"]) == (upload["id"], 1)
    with nothing_changes(served):
        refused = post(served, nothing + b"--b0--")
        assert refused.json()["detail"] == "files: Is missing: send at least one file."


def test_bytes_that_arrive_keep_a_session_alive(small: Served) -> None:
    session_id = small.open_session()
    old = small.container.clock.now() - timedelta(hours=23)
    small.write(lambda tx: tx.sessions.touch(session_id, old))
    with socket.create_connection(("127.0.0.1", small.port), timeout=10) as line:
        _begin(line, f"{UPLOAD}/{session_id}", 1000)
        line.sendall(part("files", b"", filename="a")[:-2] + b"begun")

        def is_fresh() -> bool:
            session = small.read(lambda tx: tx.sessions.find(session_id))
            return session is not None and session.active_at > old + timedelta(hours=22)

        wait_for(is_fresh)


# --- what is refused, and changes nothing ---------------------------------------------------------

GOOD = part("files", b"good", filename="good")
END = b"--b0--\r\n"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "its first boundary"),
        (b"no form at all", "its first boundary"),
        (b"x" * 200 * KIB, "does not begin"),
        (GOOD, "its final boundary"),
        (GOOD[:-3], "its final boundary"),
        (GOOD + b"--b0", "its final boundary"),
        (GOOD + END.replace(b"b0", b"b1"), "its final boundary"),
        (GOOD + END + b"and more", "follows the final boundary"),
        (GOOD + END + GOOD + END, "follows the final boundary"),
        (GOOD + b"--b0-x" + END, "Unexpected bytes after boundary"),
        (b"--b0\r\n\r\nno head\r\n" + END, "Missing Content-Disposition"),
        (b"--b0\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END, "has no name"),
        (b"--b0\r\nContent-Disposition: attachment; name=files\r\n\r\nx\r\n" + END, "Wrong type"),
        (b"--b0\nContent-Disposition: form-data; name=files\n\nx\n" + END, "line break"),
        (b'--b0\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n' + END, "decode"),
        (part("files", b"x", more="Content-Length: 9\r\n", filename="a") + END, "Content-Length"),
        (
            part("files", b"--in\r\n", more="Content-Type: multipart/mixed; boundary=in\r\n") + END,
            "multipart/mixed itself",
        ),
        (GOOD + part("then", b"{") + END, "then is not valid JSON"),
        (GOOD + part("then", b'{"operation": NaN}') + END, "NaN is no JSON number"),
        (GOOD + part("then", b'{"operation": 1e999}') + END, "too large a number"),
        (GOOD + part("then", b'"\\u0000"') + END, "U+0000"),
        (GOOD + part("then", b'"\\ud800"') + END, "not valid UTF-8 text"),
        (GOOD + part("then", b"[" * 100_000) + END, "nested too deeply"),
        (GOOD + part("expected_files", b"\xff") + END, "not valid UTF-8"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused_with_what_is_wrong(
    served: Served, described: Described, body: bytes, says: str
) -> None:
    with nothing_changes(served):
        response = post(served, body)
        told = described.check(response)
        assert (response.status_code, told["code"]) == (400, "malformed_request")
        assert says in told["detail"]


@pytest.mark.parametrize(
    "media_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 71,
        'multipart/form-data; boundary="ends with space "',
        "Multipart/Form-Data; charset=utf-8",
    ],
)
def test_a_form_needs_a_boundary(served: Served, described: Described, media_type: str) -> None:
    with nothing_changes(served):
        response = post(served, GOOD + END, **{"content-type": media_type})
        assert described.check(response)["code"] == "malformed_request"
        assert "boundary" in response.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "code", "loc"),
    [
        ({"expected_files": "0"}, "invalid_request", "expected_files"),
        ({"expected_files": "1001"}, "invalid_request", "expected_files"),
        ({"expected_files": "two"}, "invalid_request", "expected_files"),
        ({"expected_files": "-1"}, "invalid_request", "expected_files"),
        ({"expected_files": ["1", "1"]}, "invalid_request", "expected_files"),
        ({"keep_inputs_hours": "-1"}, "invalid_request", "keep_inputs_hours"),
        ({"keep_inputs_hours": "inf"}, "invalid_request", "keep_inputs_hours"),
        ({"keep_inputs_hours": "99999"}, "invalid_request", "keep_inputs_hours"),
        ({"then": '{"operation": "trim", "extra": 1}'}, "invalid_request", "then.extra"),
        ({"then": '"trim"'}, "invalid_request", "then"),
        ({"then": '{"operation": "polish"}'}, "unknown_operation", None),
        ({"then": '{"operation": "trim"}'}, "invalid_params", None),
        ({"name": "x"}, "invalid_request", "name"),
        ({"files": "text"}, "invalid_request", "files"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_wrong_wish_is_named_and_nothing_is_kept(
    served: Served,
    described: Described,
    fields: dict[str, Any],
    code: str,
    loc: str | None,
    is_first: bool,
) -> None:
    (name, values), *_ = fields.items()
    values = values if isinstance(values, list) else [values]
    wishes = b"".join(part(name, value.encode()) for value in values)
    body = wishes + GOOD if is_first else GOOD + wishes
    with nothing_changes(served):
        response = post(served, body + END)
        told = described.check(response)
        assert (response.status_code, told["code"]) == (422, code)
        if loc is not None:
            assert [entry["loc"] for entry in told["errors"]] == [loc]
            assert loc in told["detail"]


@pytest.mark.parametrize("is_first", [True, False])
def test_more_files_than_places_are_refused_before_any_is_seen(
    served: Served, described: Described, is_first: bool
) -> None:
    count = part("expected_files", b"1")
    parts = [count, GOOD, GOOD] if is_first else [GOOD, GOOD, count]
    session_id = served.open_session(expected_files=2)
    served.upload(b"abc", session=session_id)
    with nothing_changes(served):
        told = described.check(post(served, b"".join([*parts, END])))
        assert told["code"] == "session_closed"
    with nothing_changes(served):
        told = described.check(post(served, GOOD + GOOD + END, f"{UPLOAD}/{session_id}"))
        assert (told["code"], told["places"]) == ("session_closed", 1)


def test_files_go_into_open_sessions_only(served: Served, described: Described) -> None:
    batched = served.make_batch(b"abc")["session_id"]
    deleted = served.open_session()
    assert served.http.delete(f"{UPLOAD}/{deleted}").status_code == 204
    cases = {"0" * 32: (404, "session_not_found"), "x": (404, "session_not_found")}
    cases |= {batched: (422, "session_closed"), deleted: (410, "session_gone")}
    for session_id, expected in cases.items():
        with nothing_changes(served):
            response = post(served, GOOD + END, f"{UPLOAD}/{session_id}")
            assert (response.status_code, described.check(response)["code"]) == expected


def test_an_open_session_takes_forms_and_only_files_in_them(
    served: Served, described: Described
) -> None:
    path = f"{UPLOAD}/{served.open_session()}"
    with nothing_changes(served):
        response = served.http.post(path, json={})
        assert (response.status_code, described.check(response)["allowed"]) == (
            415,
            ["multipart/form-data"],
        )
    with nothing_changes(served):
        told = described.check(post(served, GOOD + part("expected_files", b"1") + END, path))
        assert told["errors"][0] == {
            "in": "body",
            "loc": "expected_files",
            "message": "There is no such field.",
            "allowed": "files",
        }


@pytest.mark.parametrize("to", ["new", "open"])
def test_an_idempotency_key_on_a_form_is_refused_not_ignored(
    served: Served, described: Described, to: str
) -> None:
    path = UPLOAD if to == "new" else f"{UPLOAD}/{served.open_session()}"
    with nothing_changes(served):
        response = post(served, GOOD + END, path, **{"idempotency-key": "key"})
        assert (response.status_code, described.check(response)["code"]) == (400, "not_supported")


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_a_page_of_another_site_cannot_post_a_form(
    served: Served, described: Described, origin: str
) -> None:
    session_id = served.open_session()
    for path in (UPLOAD, f"{UPLOAD}/{session_id}"):
        with nothing_changes(served):
            response = post(served, GOOD + END, path, origin=origin)
            told = described.check(response)
            assert (response.status_code, told["code"]) == (403, "origin_not_allowed")
            assert "access-control-allow-origin" not in response.headers


def test_a_key_is_asked_for_before_a_form_is_read(keyed: Served, described: Described) -> None:
    with nothing_changes(keyed):
        response = httpx.post(keyed.url + UPLOAD, content=GOOD + END, headers=FORM, trust_env=False)
        assert (response.status_code, described.check(response)["code"]) == (
            401,
            "credentials_required",
        )


# --- limits ---------------------------------------------------------------------------------------


def _too_much(kind: str) -> bytes:
    head = b"--b0\r\nContent-Disposition: form-data; name=files; filename=x\r\n"
    return {
        "a file": part("files", b"x" * (MIB + 1), filename="a"),
        "the whole": part("files", b"x" * MIB, filename="a") * 3,
        "text": part("then", b'"' + b"x" * 300 * KIB + b'"'),
        "text in pieces": part("then", b" " * 200 * KIB) + part("expected_files", b"0" * 100 * KIB),
        "a header": head + b"X-Long: " + b"x" * 5000 + b"\r\n\r\nx\r\n",
        "a header without end": head + b"X-Long: " + b"x" * 50_000,
        "headers": head + b"X-Many: x\r\n" * 20 + b"\r\nx\r\n",
        "parts": part("files", b"", filename="") * 1100,
    }[kind]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("a file", "upload_too_large"),
        ("the whole", "request_too_large"),
        ("text", "request_too_large"),
        ("a header", "request_too_large"),
        ("a header without end", "request_too_large"),
        ("headers", "request_too_large"),
        ("parts", "request_too_large"),
    ],
)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_what_is_too_much_is_refused_while_it_is_read(
    small: Served, described: Described, kind: str, code: str, is_chunked: bool
) -> None:
    body = GOOD + _too_much(kind) + END
    with nothing_changes(small):
        content = iter([body[:1000], body[1000:]]) if is_chunked else body
        response = small.http.post(UPLOAD, content=content, headers=FORM)
        told = described.check(response)
        assert (response.status_code, told["code"]) == (413, code)


def test_a_declared_length_over_the_maximum_is_refused_before_anything_is_sent(
    small: Served,
) -> None:
    with nothing_changes(small), socket.create_connection(("127.0.0.1", small.port), 10) as line:
        _begin(line, UPLOAD, 3 * MIB, "Expect: 100-continue\r\n")
        head, told = _answer(line)
    assert head.startswith("HTTP/1.1 413 ")
    assert (told["code"], told["maximum_bytes"]) == ("request_too_large", 2 * MIB)
    assert "tus" in told["detail"]


def test_a_form_that_does_not_fit_on_the_disk_is_refused_before_it_is_read(
    served: Served, described: Described
) -> None:
    found = served.container.files.free_bytes()
    promised = served.create_upload(found - 300 * KIB)
    with nothing_changes(served), socket.create_connection(("127.0.0.1", served.port), 10) as line:
        _begin(line, UPLOAD, 100 * MIB)
        head, told = _answer(line)
    assert head.startswith("HTTP/1.1 507 ")
    assert (told["code"], told["required_bytes"]) == ("no_space", 100 * MIB)
    assert served.http.delete(f"/files/{promised}", headers=TUS).status_code == 204


def test_a_form_that_stalls_is_answered_and_leaves_nothing(small: Served) -> None:
    with nothing_changes(small), socket.create_connection(("127.0.0.1", small.port), 10) as line:
        _begin(line, UPLOAD, 10_000)
        line.sendall(part("files", b"x" * 500, filename="a"))
        head, told = _answer(line)
    assert head.startswith("HTTP/1.1 400 ")
    assert (told["code"], "stalled" in told["detail"]) == ("malformed_request", True)


def test_a_client_that_goes_away_leaves_nothing(served: Served) -> None:
    with nothing_changes(served):
        with socket.create_connection(("127.0.0.1", served.port), 10) as line:
            _begin(line, UPLOAD, 10 * MIB)
            line.sendall(part("files", b"", filename="a")[:-2] + b"x" * MIB)
            work = served.data / "work"
            # Worker, request, file: with bytes in it.
            wait_for(lambda: [p for p in work.glob("*/*/*") if p.stat().st_size > KIB])
            (request,) = work.glob("*/*")
            assert request.parent.name == served.container.forms.worker
        wait_for(lambda: not list(work.iterdir()))


def test_a_stopping_service_takes_no_new_form(served: Served, described: Described) -> None:
    drain = served.container.drain
    with nothing_changes(served):
        drain._begun.set()
        try:
            response = post(served, GOOD + END)
        finally:
            drain._begun.clear()
        assert (response.status_code, described.check(response)["code"]) == (503, "draining")


# --- at the same moment ---------------------------------------------------------------------------


def test_forms_at_once_never_put_more_into_a_session_than_it_takes(served: Served) -> None:
    session_id = served.open_session(expected_files=3)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda number: httpx.post(
                    f"{served.url}{UPLOAD}/{session_id}",
                    files=[("files", (f"{number}", b"x" * 1000))],
                    timeout=30,
                    trust_env=False,
                ),
                range(8),
            )
        )
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [201] * 3 + [422] * 5, [answer.text for answer in answers]
    session = served.http.get(f"{UPLOAD}/{session_id}").json()
    assert session["status"] == "batched"
    assert [each["status"] for each in session["uploads"]] == ["completed"] * 3
    rows, files = served.state()
    known = {row[0] for row in rows["uploads"]}
    assert {name.removeprefix("uploads/") for name in files} <= known


def test_uploads_that_complete_together_do_so_all_or_none(served: Served) -> None:
    session_id = served.open_session()
    ids = [served.create_upload(3, session=session_id) for _ in range(3)]
    rows = served.read(lambda tx: tx.uploads.list_by_session(session_id))
    assert served.http.delete(f"/files/{ids[1]}", headers=TUS).status_code == 204
    for upload_id in ids:
        (served.data / "uploads" / upload_id).write_bytes(b"abc")
    with nothing_changes(served), pytest.raises(UploadGone):
        served.call(served.container.completion.complete_together(rows))
    (served.data / "uploads" / ids[1]).unlink()
    kept = [row for row in rows if row.id != ids[1]]
    for _ in range(2):
        last = served.call(served.container.completion.complete_together(kept))
        assert (last.upload_id, last.batch_id) == (kept[-1].id, None)
    session = served.http.get(f"{UPLOAD}/{session_id}").json()
    assert [each["status"] for each in session["uploads"]] == ["completed"] * 2


def test_a_session_deleted_meanwhile_takes_its_form_along(served: Served) -> None:
    session_id = served.open_session()
    with socket.create_connection(("127.0.0.1", served.port), 10) as line:
        body = GOOD + END
        _begin(line, f"{UPLOAD}/{session_id}", len(body))
        line.sendall(body[:20])
        assert served.http.delete(f"{UPLOAD}/{session_id}").status_code == 204
        with nothing_changes(served):
            line.sendall(body[20:])
            head, told = _answer(line)
    assert (head.split()[1], told["code"]) == ("410", "session_gone")


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("clip.mp4", "clip.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\clip.mp4", "clip.mp4"),
        ("/", None),
        ("..", None),
        (" . ", None),
        ("a\x00b\r\n\x7fc.mp4", "abc.mp4"),
        ("\u202egpj.exe", "gpj.exe"),
        ("クリップ\u3000一.mp4", "クリップ\u3000一.mp4"),
        ("x" * 300 + ".mp4", "x" * 251 + ".mp4"),
        ("x" * 300, "x" * 255),
        ("", None),
    ],
)
def test_a_file_name_is_data_and_never_a_path(sent: str, shown: str | None) -> None:
    assert clean_filename(sent) == shown


def _begin(line: socket.socket, path: str, length: int, more: str = "") -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n{more}"
    line.sendall(f"{head}Content-Type: {FORM['content-type']}\r\n\r\n".encode())


def _answer(line: socket.socket) -> tuple[str, dict[str, Any]]:
    received = b""
    while True:
        head, end, body = received.partition(b"\r\n\r\n")
        if end:
            lengths = [
                row for row in head.lower().split(b"\r\n") if row.startswith(b"content-length")
            ]
            if len(body) >= int(lengths[0].partition(b":")[2]):
                return head.decode(), json.loads(body)
        more = line.recv(65536)
        assert more, "the connection was closed without an answer"
        received += more
