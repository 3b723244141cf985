"""What the OpenAPI says is what the service does: requests made from it, by the hundred."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi import checks as openapi_checks

from app.main import create_app
from app.settings import Settings
from tests.e2e.harness import Server
from tests.e2e.wire import TUS, await_job, create, open_session, upload
from tests.fakes.moodle_logs import as_csv, many_rows

EXAMPLES = 10
CALL_SECONDS = 30.0
JSON = "application/json"
OCTETS = "application/offset+octet-stream"
OF_EACH = 4
TRIM: dict[str, Any] = {"operation": "trim", "params": {"start": 0.2, "end": 0.6}}
LOG = {"file": as_csv(many_rows(20)), "timezone": "Europe/Berlin"}
NOTHING = "0" * 32
PEOPLE = {"full_name": "Ada Lovelace", "role": "Navigator"}
RENDERS: Mapping[str, Mapping[str, Any]] = {
    "/api/intro/render": {**PEOPLE, "team": "Tidewater"},
    "/api/announcement/render": {"title": "Spring tide", "body": "At the harbour."},
    "/api/how-it-works/render": {"title": "Twice", "steps": ["Once", "Again"]},
    "/api/persona/render": PEOPLE,
    "/api/demo/render": {"title": "Look"},
    "/api/closing/render": {"message": "Thank you"},
    "/api/trim": TRIM["params"],
    "/api/trim/preview": TRIM["params"],
    "/api/concatenate": {},
    "/api/concatenate-multipart": {},
}
LATER = {"Prefer": "respond-async"}
CHECKS = (
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
)
METHODS = ("get", "head", "post", "put", "patch", "delete", "options")
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


def operations() -> list[tuple[str, str]]:
    """Every (path, method) of the document, as the application makes it."""
    paths = create_app(Settings.load({})).openapi()["paths"]
    return [
        (path, method) for path, known in paths.items() for method in known if method in METHODS
    ]


@dataclass(frozen=True)
class Things:
    """A server's schema, and ids of what is there by the name of a path's parameter."""

    schema: Any
    ids: Mapping[str, tuple[str, ...]]
    ended: Mapping[str, tuple[str, ...]]


def fill(api: httpx.Client, clip: bytes) -> Things:
    """Make some of everything, so that not every answer is a 404."""
    ids: dict[str, list[str]] = {
        name: [] for name in ("session_id", "upload_id", "batch_id", "job_id", "output_id")
    }
    for _ in range(OF_EACH):
        session_id = open_session(api, expected_files=1, then=TRIM)
        done = upload(api, clip, filename="clip.mp4", session=session_id)
        job = await_job(api, done.headers["tidemill-job"])
        ids["batch_id"].append(done.headers["tidemill-batch"])
        ids["job_id"].append(job["id"])
        ids["output_id"] += [output["id"] for output in job["outputs"]]
        ids["session_id"].append(open_session(api))
        ids["upload_id"].append(create(api, 1000).rsplit("/", 1)[-1])
    ids["id"] = ids["upload_id"]
    ended = {name: tuple(ids[name]) for name in ("batch_id", "job_id")}
    return Things(None, {name: tuple(found) for name, found in ids.items()}, ended)


@pytest.fixture(scope="module")
def things(shared_server: Server, short_clip: Path) -> Things:
    with shared_server.client() as api:
        found = fill(api, short_clip.read_bytes())
    schema = schemathesis.openapi.from_url(f"{shared_server.url}/openapi.json")
    return Things(schema, found.ids, found.ended)


@schemathesis.serializer(OCTETS)
def send_raw(_: schemathesis.SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.mark.parametrize(("path", "method"), operations(), ids=str)
def test_every_answer_is_one_that_the_document_promises(
    path: str, method: str, things: Things
) -> None:
    operation = things.schema[path][method]
    # A stream of something that goes on would go on, too.
    ids = things.ended if path.endswith("/events") else things.ids
    right = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    # Where there is nothing but an id to get wrong, there are ids that are not there.
    cases = st.one_of(right, wrong) if operation.body or operation.query else right

    @BOUNDED
    @given(cases, st.data())
    def ask(case: schemathesis.Case[Any], data: st.DataObject) -> None:
        for name in case.path_parameters or {}:
            there: tuple[str, ...] = ids.get(name, ())
            is_known = data.draw(st.sampled_from((True, True, False)))
            if there and is_known:
                case.path_parameters[name] = data.draw(st.sampled_from(there))
        if path.endswith("/render") and isinstance(case.body, dict):
            # What comes without a clip would be rendered in full size, each time.
            case.body["upload_id"] = NOTHING
        if "Upload-Length" in case.headers:
            # What does not fit is a 507, and rightly so.
            case.headers["Upload-Length"] = case.headers["Upload-Length"][:5]
        response = case.call(timeout=CALL_SECONDS)
        case.validate_response(response, checks=list(CHECKS))

    ask()


# --- and each call once as it is meant -----------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """What a call needs to succeed."""

    ids: Mapping[str, str]
    body: Any = None
    media_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)


class Maker:
    """Makes things of its own for each call, so that none takes another's away."""

    def __init__(self, api: httpx.Client, clip: bytes) -> None:
        self._api = api
        self._clip = clip
        self._later = (datetime.now(UTC) + timedelta(hours=5)).isoformat()

    def batched(self) -> tuple[str, str]:
        """A batch and its file."""
        done = upload(self._api, self._clip, filename="clip.mp4")
        return done.headers["tidemill-batch"], done.headers["tidemill-upload"]

    def queue(self, batch_id: str) -> str:
        response = self._api.post("/api/v1/jobs", json={**TRIM, "batch_id": batch_id})
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def ended(self) -> dict[str, str]:
        """A batch with a job that has ended and its output."""
        batch_id, _ = self.batched()
        job = await_job(self._api, self.queue(batch_id))
        return {"batch_id": batch_id, "job_id": job["id"], "output_id": job["outputs"][0]["id"]}

    def waiting(self) -> str:
        """A job behind another one: there is one worker."""
        batch_id, _ = self.batched()
        self.queue(batch_id)
        return self.queue(batch_id)

    def cancelled(self) -> str:
        job_id = self.waiting()
        assert self._api.post(f"/api/v1/jobs/{job_id}/cancel").status_code == 200
        assert await_job(self._api, job_id)["status"] == "cancelled"
        return job_id

    def filled_session(self) -> str:
        session_id = open_session(self._api)
        upload(self._api, b"some bytes", session=session_id)
        return session_id

    def wish(self, path: str, method: str) -> Wish:
        made = self._by_body(path, method) or self._by_state(path, method)
        if made is not None:
            return made
        if "{session_id}" in path:
            return Wish({"session_id": open_session(self._api)})
        if "{upload_id}" in path:
            return Wish({"upload_id": self.batched()[1]})
        if "{name}" in path:
            return Wish({"name": "gc_files"}, query={"dry_run": "true"})
        return Wish(self.ended() if "{" in path else {})

    def _by_body(self, path: str, method: str) -> Wish | None:
        form = "multipart/form-data"
        bodies: dict[tuple[str, str], Callable[[], Wish]] = {
            ("/api/v1/upload", "post"): lambda: Wish({}, {"expected_files": 1}, JSON),
            ("/api/v1/upload/{session_id}", "post"): lambda: Wish(
                {"session_id": open_session(self._api)}, {"files": [b"some bytes"]}, form
            ),
            ("/api/upload", "post"): lambda: Wish({}, LOG, form),
            ("/api/v1/logs", "post"): lambda: Wish({}, LOG, form),
            ("/api/v1/batches", "post"): lambda: Wish(
                {}, {"session_id": self.filled_session()}, JSON
            ),
            ("/api/v1/jobs", "post"): lambda: Wish(
                {}, {**TRIM, "batch_id": self.batched()[0]}, JSON
            ),
        }
        if path in RENDERS:
            return self._render(path)
        if method == "patch" and path.startswith("/api/"):
            return Wish(self.ended(), {"expires_at": self._later}, JSON)
        make = bodies.get((path, method))
        return make() if make else None

    def _render(self, path: str) -> Wish:
        """A render that is not waited for where it is one of full size."""
        if path == "/api/concatenate":
            segments = [{"upload_id": self.batched()[1]}]
            return Wish({}, {"segments": segments}, JSON, LATER)
        if path == "/api/concatenate-multipart":
            return Wish({}, {"segment_0": self._clip}, "multipart/form-data", LATER)
        upload_id = self.batched()[1]
        later = {} if path.startswith("/api/trim") else LATER
        return Wish({}, {**RENDERS[path], "upload_id": upload_id}, JSON, later)

    def _by_state(self, path: str, method: str) -> Wish | None:
        if path.endswith("/cancel"):
            return Wish({"job_id": self.waiting()})
        if path.endswith("/retry"):
            return Wish({"job_id": self.cancelled()})
        return self._tus(path, method) if path.startswith("/files") else None

    def _tus(self, path: str, method: str) -> Wish:
        if path == "/files/":
            length = {"Upload-Length": "5"} if method == "post" else {}
            return Wish({}, headers={**TUS, **length})
        if method == "get":
            return Wish({"id": self.batched()[1]}, headers=TUS)
        ids = {"id": create(self._api, 5).rsplit("/", 1)[-1]}
        if method == "patch":
            return Wish(ids, b"12345", OCTETS, {**TUS, "Upload-Offset": "0"})
        return Wish(ids, headers=TUS)


@pytest.mark.parametrize(("path", "method"), operations(), ids=str)
def test_every_call_succeeds_as_the_document_promises(
    path: str, method: str, shared_server: Server, things: Things, short_clip: Path
) -> None:
    with shared_server.client() as api:
        wish = Maker(api, short_clip.read_bytes()).wish(path, method)
    operation = things.schema[path][method]
    names = {name for name in wish.ids if f"{{{name}}}" in path}
    body = {} if wish.media_type is None else {"body": wish.body, "media_type": wish.media_type}
    case = operation.Case(
        path_parameters={name: wish.ids[name] for name in names},
        headers=dict(wish.headers),
        query=dict(wish.query),
        **body,
    )
    response = case.call(timeout=CALL_SECONDS)
    assert 200 <= response.status_code < 300, response.text
    case.validate_response(response, checks=list(CHECKS))
    if wish.headers == LATER:
        with shared_server.client() as api:
            done = api.delete(f"/api/v1/jobs/{response.json()['id']}?cancel=true")
            assert done.status_code == 204, done.text
