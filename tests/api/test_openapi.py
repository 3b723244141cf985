"""The OpenAPI document: valid, complete, honest, and in step with what is served."""

import re
from typing import Any

import pytest
from openapi_spec_validator import validate

from app.api.error_guide import catalogue
from tests.fakes.described import PROBLEM, Described
from tests.fakes.served import TUS, Served

METHODS = {"get", "head", "post", "put", "patch", "delete", "options"}


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
    only_jobs = {"render_failed", "log_failed", "worker_lost"}
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
    for word in ("http validation", "httpvalidationerror", "/api/trim"):
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
