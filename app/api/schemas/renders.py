"""Synchronous calls in the OpenAPI: their bodies made from the operations' own parameters, by hand."""

from collections.abc import Mapping
from typing import Any

from app.api.render_fields import FINAL_FILENAME, SEGMENTS, RenderFields, Shape
from app.api.schemas.base import EXAMPLE_JOB, EXAMPLE_OUTPUT, EXAMPLE_UPLOAD
from app.api.schemas.downloads import Responses
from app.domain.jobs import InputRole

_ABOUT_FILE = {
    InputRole.CLIP: "The clip, as a part with a file name.",
    InputRole.IMAGE: "A picture (PNG, JPEG, WebP) in the clip's place.",
    InputRole.LOGO: "A picture (PNG, JPEG, WebP) to be shown as the logo.",
}
_FINAL = {
    "type": "string",
    "maxLength": 1000,
    "examples": ["week-12.mp4"],
    "description": "What to call the result; it is cleaned and gets `.mp4`.",
}
_ID = {"type": "string", "pattern": "^[0-9a-f]{32}$"}


def body_of(fields: RenderFields) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a call: its request body and what it looks at in the head."""
    content: dict[str, Any] = {}
    if fields.shape is not Shape.JSON_SEGMENTS:
        content["multipart/form-data"] = _form(fields)
    if fields.shape is not Shape.FORM_SEGMENTS:
        content["application/json"] = _json(fields)
    prefer = {
        "name": "Prefer",
        "in": "header",
        "description": "`respond-async`: answer 202 with the job, which then stays as any other.",
        "schema": {"type": "string", "examples": ["respond-async"]},
    }
    return {"parameters": [prefer], "requestBody": {"required": True, "content": content}}


def _form(fields: RenderFields) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for name, role in fields.files.items():
        about = f"{_ABOUT_FILE[role]} The same as `video`." if name == "file" else _ABOUT_FILE[role]
        properties[name] = {"type": "string", "format": "binary", "description": about}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    encoding: dict[str, Any] = {}
    if fields.shape is Shape.FORM_SEGMENTS:
        schema["patternProperties"] = _SEGMENTS
        properties["segment_0"] = _SEGMENTS["^segment_(0|[1-9][0-9]{0,2})$"]
        properties["segment_1"] = _SEGMENTS["^segment_(0|[1-9][0-9]{0,2})$"]
        properties["order_0"] = properties["order_1"] = _SEGMENTS["^order_(0|[1-9][0-9]{0,2})$"]
    _add_common(fields, schema)
    for name in fields.params:
        if "object" in fields.kinds_of(name) | fields.item_kinds_of(name):
            encoding[name] = {"contentType": "application/json"}
    return {"schema": schema, "encoding": encoding} if encoding else {"schema": schema}


def _json(fields: RenderFields) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    if fields.shape is Shape.JSON_SEGMENTS:
        most = max(rule.maximum for rule in fields.operation.inputs)
        schema["properties"][SEGMENTS] = {
            "type": "array",
            "minItems": 1,
            "maxItems": most,
            "items": _SEGMENT,
            "description": "The clips; the result has them by their `order`.",
        }
        schema["required"] = [SEGMENTS]
    _add_common(fields, schema)
    return {"schema": schema}


def _add_common(fields: RenderFields, schema: dict[str, Any]) -> None:
    properties = schema["properties"]
    for name, field in fields.ids.items():
        kind, example = (
            ("upload", EXAMPLE_UPLOAD) if field.of_upload else ("output", EXAMPLE_OUTPUT)
        )
        about = f"In the place of the {field.role}'s file: the id of an {kind} that is there."
        properties[name] = {**_ID, "examples": [example], "description": about}
    for name, param in fields.params.items():
        properties[name] = _inlined(param, fields.definitions)
    properties[FINAL_FILENAME] = _FINAL
    if fields.required:
        schema["required"] = [*schema.get("required", ()), *sorted(fields.required)]
    schema["additionalProperties"] = False


def _inlined(value: Any, definitions: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return a schema with what it refers to put in its place; a field is there or it is not, so that
    there is no null.
    """
    if isinstance(value, list):
        return [_inlined(each, definitions) for each in value]
    if not isinstance(value, Mapping):
        return value
    if "$ref" in value:
        found = definitions[str(value["$ref"]).rpartition("/")[2]]
        rest = {name: each for name, each in value.items() if name != "$ref"}
        return _inlined({**found, **rest}, definitions)
    kept = {
        name: _inlined(each, definitions)
        for name, each in value.items()
        if not (name == "default" and each is None)
    }
    branches = kept.get("anyOf")
    if branches is None:
        return kept
    some = [each for each in branches if each.get("type") != "null"]
    if len(some) > 1:
        return {**kept, "anyOf": some}
    del kept["anyOf"]
    return {**some[0], **kept}


_SEGMENT = {
    "type": "object",
    "description": "Exactly one of `upload_id` and `output_id`.",
    "properties": {
        "upload_id": {**_ID, "examples": [EXAMPLE_UPLOAD]},
        "output_id": {**_ID, "examples": [EXAMPLE_OUTPUT]},
        "order": {
            "type": "integer",
            "minimum": 0,
            "maximum": 10**6,
            "description": "Its place; left out: its place in the list.",
        },
    },
    "additionalProperties": False,
}
_SEGMENTS: dict[str, Any] = {
    "^segment_(0|[1-9][0-9]{0,2})$": {
        "type": "string",
        "format": "binary",
        "description": "A clip, as a part with a file name; `segment_0` to `segment_999`, with gaps.",
    },
    "^order_(0|[1-9][0-9]{0,2})$": {
        "type": "integer",
        "minimum": 0,
        "maximum": 999999,
        "description": "The place of the segment of that number; left out: its number.",
    },
}


def _header(description: str, example: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}, "example": example}


_JOB = {"Tidemill-Job": _header("The job that made it.", EXAMPLE_JOB)}
RENDERED: Responses = {
    200: {
        "description": "The result. Nothing of it is left behind: asked for again, it is made again.",
        "content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            **_JOB,
            "Tidemill-Result": _header(
                "What the job told of its result, and its warnings: JSON, 2,000 characters at most.",
                '{"mode": "exact", "start_seconds": 0.5, "end_seconds": 1.5, "warnings": []}',
            ),
            "Content-Disposition": _header(
                "The name to save it under.", 'attachment; filename="week-12.mp4"'
            ),
            "Repr-Digest": _header(
                "SHA-256 of the file (RFC 9530).",
                "sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:",
            ),
        },
    },
    202: {
        "description": "With `Prefer: respond-async`: the job, queued.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobOut"}}},
        "headers": {
            **_JOB,
            "Location": _header("Where to look at it.", f"/api/v1/jobs/{EXAMPLE_JOB}"),
            "Preference-Applied": _header("What was heeded.", "respond-async"),
        },
    },
}
