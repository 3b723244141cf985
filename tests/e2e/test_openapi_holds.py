"""What the OpenAPI says is what the service does: requests made from it, by the hundred."""

from collections.abc import Mapping
from dataclasses import dataclass
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
from tests.e2e.wire import await_job, create, open_session, upload

EXAMPLES = 10
CALL_SECONDS = 30.0
OF_EACH = 4
TRIM = {"operation": "trim", "params": {"start": 0.2, "end": 0.6}}
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


@schemathesis.serializer("application/offset+octet-stream")
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
        if "Upload-Length" in case.headers:
            # What does not fit is a 507, and rightly so.
            case.headers["Upload-Length"] = case.headers["Upload-Length"][:5]
        response = case.call(timeout=CALL_SECONDS)
        case.validate_response(response, checks=list(CHECKS))

    ask()
