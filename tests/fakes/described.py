"""Holds responses against the OpenAPI document: the status is listed, the body is as it says."""

import re
from typing import Any

import httpx
import jsonschema

PROBLEM = "application/problem+json"


class Described:
    """The document of one application."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._templates = [
            (re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path) + r"\Z"), path)
            for path in document["paths"]
        ]

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """The operation of a request, None when the document knows none."""
        path = "/files/" if path == "/files" else path
        for pattern, template in self._templates:
            if pattern.match(path):
                found: dict[str, Any] | None = self.document["paths"][template].get(method.lower())
                return found
        return None

    def check(self, response: httpx.Response) -> dict[str, Any]:
        """Assert that the response is described, and return its body if it is JSON."""
        request = response.request
        operation = self.operation(request.method, request.url.path)
        described = {"content": {PROBLEM: {"schema": _ref("Problem")}}}
        if operation is not None:
            status = str(response.status_code)
            listed = operation["responses"]
            assert status in listed, f"{request.method} {request.url.path} lists no {status}"
            described = listed[status]
        media_type = response.headers.get("content-type", "").partition(";")[0]
        if not response.content or media_type not in {PROBLEM, "application/json"}:
            return {}
        content = described["content"]
        assert media_type in content, f"{media_type} is not described"
        body: dict[str, Any] = response.json()
        self.validate(body, content[media_type]["schema"])
        examples = content[media_type].get("examples")
        if media_type == PROBLEM and examples is not None:
            assert body["code"] in examples, f"{body['code']} is not listed for this call"
        return body

    def validate(self, body: Any, schema: dict[str, Any]) -> None:
        """Assert that ``body`` fits ``schema``, whose references point into the document."""
        whole = {**schema, "components": self.document["components"]}
        jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker()).validate(
            body
        )


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
