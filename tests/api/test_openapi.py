"""The OpenAPI document: valid, complete, honest, and in step with what is served."""

import base64
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from app.api.error_guide import catalogue
from app.api.tus.headers import ALLOWED_HEADERS, EXPOSED_HEADERS
from tests.fakes.described import PROBLEM, Described
from tests.fakes.served import OCTETS, TUS, Served

METHODS = {"get", "head", "post", "put", "patch", "delete", "options"}
EVERYWHERE = {"authorization", "content-type", "x-request-id"}
"""Request headers that the document tells of elsewhere: keys, media types, the whole API."""
NOT_OURS = {
    "connection",
    "content-length",
    "content-type",
    "date",
    "server",
    "vary",
    "x-request-id",
}
SAFETY = {
    "content-security-policy",
    "cross-origin-resource-policy",
    "x-content-type-options",
}


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    ]


def test_the_document_is_valid(described: Described) -> None:
    validate(described.document)


def test_every_call_says_what_it_does_and_what_can_go_wrong(described: Described) -> None:
    names = []
    for method, path, operation in operations(described.document):
        what = f"{method} {path}"
        assert operation["summary"], what
        assert len(operation["description"]) > 15, what
        assert operation["tags"], what
        names.append(operation["operationId"])
        for status, response in operation["responses"].items():
            assert response["description"], f"{what} {status}"
            # HEAD of an upload has no body: the code is in the description alone.
            has_body = (path, status) != ("/readyz", "503") and not what.startswith("head /files")
            if status >= "400" and has_body:
                assert PROBLEM in response["content"], f"{what} {status}"
    assert len(names) == len(set(names))


def test_every_error_is_described_where_it_can_happen(described: Described) -> None:
    told = {
        code
        for _, _, operation in operations(described.document)
        for response in operation["responses"].values()
        for code in re.findall(r"`([a-z_]+)`: ", response["description"])
    }
    only_jobs = {"log_failed"}
    nowhere = {"route_not_found"}
    assert {error.code for error in catalogue()} - told == only_jobs | nowhere


def test_every_example_fits_its_schema(described: Described) -> None:
    checked = 0
    for _, _, operation in operations(described.document):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        for example in body.get("examples", {}).values():
            described.validate(example["value"], body["schema"])
            checked += 1
        for response in operation["responses"].values():
            content = response.get("content", {}).get(PROBLEM, {})
            for example in content.get("examples", {}).values():
                described.validate(example["value"], content["schema"])
                checked += 1
    assert checked > 100


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "GET", "HEAD"])
def test_tus_says_as_described_that_the_service_is_not_ready(
    served: Served, described: Described, method: str
) -> None:
    path = "/files/" if method == "POST" else f"/files/{'a' * 32}"
    headers = {**TUS, "Upload-Length": "5"}
    with served.exchanged(None):
        response = served.http.request(method, path, headers=headers)
    described.check(response)
    assert response.status_code == (423 if method == "HEAD" else 503)


@pytest.mark.parametrize("path", ["/files/", f"/files/{'a' * 32}"])
@pytest.mark.parametrize("header", ["Host", "Origin"])
def test_options_refuses_strangers_as_described(
    served: Served, described: Described, path: str, header: str
) -> None:
    stranger = {"Host": "strange.example", "Origin": "https://strange.example"}[header]
    response = served.http.options(path, headers={header: stranger})
    described.check(response)
    assert response.status_code in {403, 421}


def test_what_is_not_there_is_not_described(described: Described) -> None:
    text = str(described.document).lower()
    for word in ("http validation", "httpvalidationerror", "/api/orphans"):
        assert word not in text
    assert not [path for path in described.document["paths"] if path.startswith("/docs")]


def test_every_described_call_is_there_and_no_other(served: Served, described: Described) -> None:
    document = described.document
    for path, methods in document["paths"].items():
        if path.startswith("/files"):
            continue
        address = path.replace("{name}", "gc_files")
        for parameter in ("session_id", "upload_id", "batch_id", "job_id", "output_id"):
            address = address.replace(f"{{{parameter}}}", "0" * 32)
        response = served.http.request("TRACE", address)
        allowed = {method.lower() for method in response.headers["allow"].split(", ")}
        assert (response.status_code, allowed) == (405, set(methods) & METHODS), path


def test_tus_is_described_with_the_methods_it_has(served: Served, described: Described) -> None:
    for path in ("/files/", "/files/{id}"):
        address = path.replace("{id}", "0" * 32)
        allowed = served.http.options(address).headers["allow"].lower().split(", ")
        assert set(allowed) == set(described.document["paths"][path]) & METHODS


@pytest.mark.parametrize(
    "name", ["NewSession", "NewBatch", "NewJobIn", "ThenIn", "JobInputIn", "JobChange"]
)
def test_a_request_schema_lists_all_that_works_and_refuses_the_rest(
    described: Described, name: str
) -> None:
    assert described.document["components"]["schemas"][name]["additionalProperties"] is False


def headers_of(response: httpx.Response) -> set[str]:
    """The names of a response's own headers."""
    names = {name.lower() for name in response.headers} - NOT_OURS - SAFETY
    # Of refusals everywhere.
    return names - {"cache-control"} if response.status_code >= 400 else names


def described_headers(described: Described, response: httpx.Response) -> set[str]:
    operation = described.operation(response.request.method, response.request.url.path)
    assert operation is not None
    return {name.lower() for name in operation["responses"][str(response.status_code)]["headers"]}


def ways_of_an_upload(served: Served) -> Iterator[httpx.Response]:
    """Answers of every tus call: all headers that they can have are in some of them."""
    http = served.http
    wish = {"operation": "trim", "params": {"end": 1}}
    length, late = {"Upload-Length": "4"}, {"Upload-Defer-Length": "1"}
    for address in ("/files/", f"/files/{'a' * 32}"):
        yield http.options(address)
    secret = base64.b64encode(served.open_session(expected_files=1, then=wish).encode()).decode()
    told = {"Upload-Metadata": f"session {secret}"}
    yield http.post("/files/", headers=TUS | OCTETS | length | told, content=b"byte")
    secret = base64.b64encode(served.open_session(expected_files=1, then=wish).encode()).decode()
    told = {"Upload-Metadata": f"session {secret}"}
    made = http.post("/files/", headers=TUS | late | told)
    yield made
    place = made.headers["location"]
    yield http.head(place, headers=TUS)
    yield http.get(place)
    for offset, body in ((0, b"by"), (2, b"te")):
        at = {"Upload-Offset": str(offset)} | (length if offset else {})
        yield http.patch(place, headers=TUS | OCTETS | at, content=body)
    yield http.head(place, headers=TUS)
    yield http.get(place)
    yield http.get(place, headers={"Range": "bytes=1-2"})
    yield http.get(place, headers={"Range": "bytes=9-"})
    etag = http.get(place).headers["etag"]
    yield http.get(place, headers={"If-None-Match": etag})
    yield http.delete(place, headers=TUS)
    partial = {"Upload-Concat": "partial"}
    part = http.post("/files/", headers=TUS | OCTETS | length | partial, content=b"part")
    yield part
    yield http.head(part.headers["location"], headers=TUS)
    final = {"Upload-Concat": f"final;{part.headers['location']}"}
    made = http.post("/files/", headers=TUS | final)
    yield made
    yield http.patch(made.headers["location"], headers=TUS | OCTETS | {"Upload-Offset": "4"})
    again = http.post("/files/", headers=TUS | final)
    assert (again.status_code, again.headers["location"]) == (201, made.headers["location"])
    place = f"/files/{served.create_upload(4)}"
    yield http.delete(place, headers=TUS)
    yield http.head(place, headers=TUS)


def refusals_of_an_upload(served: Served) -> Iterator[httpx.Response]:
    http, right = served.http, TUS | OCTETS | {"Upload-Offset": "0"}
    place = f"/files/{served.create_upload(4)}"
    wrong = {"Upload-Checksum": "sha1 " + base64.b64encode(bytes(20)).decode()}
    for headers, body in (
        ({**right, "Tus-Resumable": "0.2.0"}, b"byte"),
        ({**right, "Upload-Offset": "2"}, b"byte"),
        ({**right, "Content-Type": "text/plain"}, b"byte"),
        ({**right, "Upload-Checksum": "crc7 AAAA"}, b"byte"),
        (right | wrong, b"byte"),
        (right, b"bytes and more"),
    ):
        yield http.patch(place, headers=headers, content=body)
    pieces = iter([b"bytes", b" and more"])
    yield http.patch(place, headers=right, content=pieces)
    new = TUS | OCTETS | {"Upload-Length": "4"}
    yield http.post("/files/", headers=new | wrong, content=b"byte")
    yield http.post("/files/", headers=new | wrong)
    yield http.post("/files/", headers=new, content=b"bytes and more")
    yield http.post("/files/", headers=TUS | {"Upload-Concat": f"final;{place}"})
    yield http.post("/files/", headers=TUS | {"Upload-Length": str(2**60)})
    late = f"{http.post('/files/', headers=TUS | {'Upload-Defer-Length': '1'}).headers['location']}"
    yield http.patch(late, headers=right, content=b"byte")
    at = {"Upload-Offset": "4", "Upload-Length": "2"}
    yield http.patch(late, headers=right | at, content=b"")
    with served.held(place.rpartition("/")[2]):
        yield http.patch(place, headers=right, content=b"byte")
        yield http.delete(place, headers=TUS)


def test_tus_answers_have_the_headers_that_are_described_and_no_others(
    served: Served, described: Described
) -> None:
    seen: dict[tuple[str, int], set[str]] = {}
    wanted: dict[tuple[str, int], set[str]] = {}
    for response in ways_of_an_upload(served):
        described.check(response)
        key = (f"{response.request.method} {response.request.url.path[:7]}", response.status_code)
        seen.setdefault(key, set()).update(headers_of(response))
        wanted[key] = described_headers(described, response)
    # The digest comes by itself some time later, and no final is looked at while it is made.
    for key, names in wanted.items():
        assert seen[key] - {"repr-digest"} == names - {"repr-digest"}, key
    assert {201, 204, 206, 304, 403, 404, 409, 416} <= {status for _, status in seen}


def test_tus_refusals_have_no_headers_but_those_described(
    served: Served, described: Described
) -> None:
    statuses = set()
    for response in refusals_of_an_upload(served):
        described.check(response)
        missing = headers_of(response) - described_headers(described, response)
        assert not missing or response.status_code < 400, (response.status_code, missing)
        statuses.add(response.status_code)
    assert {400, 409, 412, 413, 415, 422, 423, 460} <= statuses


def test_every_header_of_tus_is_described_somewhere(described: Described) -> None:
    calls = [call for _, path, call in operations(described.document) if path.startswith("/files")]
    sent = {
        parameter["name"].lower()
        for call in calls
        for parameter in call["parameters"]
        if parameter["in"] == "header"
    }
    returned = {
        name.lower()
        for call in calls
        for response in call["responses"].values()
        for name in response["headers"]
    }
    assert {name.lower() for name in ALLOWED_HEADERS} - EVERYWHERE <= sent
    assert {name.lower() for name in EXPOSED_HEADERS} <= returned
    for call in calls:
        for status, response in call["responses"].items():
            assert "Tus-Resumable" in response["headers"]
            assert ("Retry-After" in response["headers"]) == (status in {"423", "503"})


def test_asking_what_tus_can_do_needs_no_key(described: Described) -> None:
    for path in ("/files/", "/files/{id}"):
        for method, call in described.document["paths"][path].items():
            assert (call.get("security") == []) == (method == "options")
