"""Forms with files in the OpenAPI, by hand: nothing of a form passes through FastAPI."""

from typing import Any

from app.api.schemas.base import EXAMPLE_BATCH, EXAMPLE_JOB, EXAMPLE_UPLOAD
from app.api.schemas.downloads import Responses
from app.api.schemas.sessions import MOST_FILES, NewSession

_REFERENCE = "#/components/schemas/{model}"
_FILES = {
    "type": "array",
    "minItems": 1,
    "maxItems": MOST_FILES,
    "items": {"type": "string", "format": "binary"},
    "description": "The files, each as a part of its own with a file name; `file` is the same field.",
}


def _form(fields: dict[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"files": _FILES, **fields},
        "required": ["files"],
        "additionalProperties": False,
    }
    encoding = {"then": {"contentType": "application/json"}} if "then" in fields else {}
    content: dict[str, Any] = {"schema": schema}
    if encoding:
        content["encoding"] = encoding
    return {"requestBody": {"content": {"multipart/form-data": content}}}


def _wishes() -> dict[str, Any]:
    fields: dict[str, Any] = NewSession.model_json_schema(ref_template=_REFERENCE)["properties"]
    # A field of a form is there or it is not: there is no null.
    return {name: _without_null(field) for name, field in fields.items()}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in field.items() if name not in {"anyOf", "default"}}
    kinds = [kind for kind in field.get("anyOf", []) if kind.get("type") != "null"]
    return {**kept, **kinds[0]} if kinds else kept


def _header(description: str, example: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}, "example": example}


OPENING_FORM = _form(_wishes())
_adding = _form({})
ADDING_FORM = {"requestBody": {**_adding["requestBody"], "required": True}}
_FILLED: dict[str, Any] = {
    "Tidemill-Upload": _header("The uploads' ids, by commas, up to 50.", EXAMPLE_UPLOAD),
    "Tidemill-Batch": _header("The batch, if the session was full.", EXAMPLE_BATCH),
    "Tidemill-Job": _header("The jobs that `then` started, by commas.", EXAMPLE_JOB),
}


def filled(responses: Responses) -> Responses:
    """Return OpenAPI ``responses`` that also tell what uploads became."""
    return {
        status: {**each, "headers": {**each.get("headers", {}), **_FILLED}}
        for status, each in responses.items()
    }
