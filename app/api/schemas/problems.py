"""The problem document as a schema, and the ``responses`` of a route from the errors it can raise."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.api.errors import PROBLEM_TYPE, STATUS, problem_type
from app.domain.errors import (
    AppError,
    CredentialsInvalid,
    CredentialsRequired,
    DatabaseBusy,
    HostNotAllowed,
    InternalError,
    InvalidRequest,
    NotReady,
    OriginNotAllowed,
)

EXAMPLE_REQUEST = "7d3c9e1f0a2b4c5d8e6f7a8b9c0d1e2f"


class FieldProblem(BaseModel):
    """What is wrong with one field of a request."""

    model_config = ConfigDict(extra="allow")

    loc: str = Field(description="The field, as a dotted path.", examples=["then.operation"])
    message: str = Field(description="What was wrong.")
    allowed: str | None = Field(
        default=None, description="What would have been right, where it is known."
    )


class Problem(BaseModel):
    """An error (RFC 9457). Clients decide by `code`; `detail` is for people and always there."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Stable; leads to the explanation of the code.")
    title: str
    status: int = Field(ge=400, le=599)
    code: str = Field(description="Stable, see /docs/errors.")
    detail: str = Field(description="What happened, in a sentence.")
    request_id: str | None = Field(description="Also in X-Request-ID and in the log.")
    errors: list[FieldProblem] | None = Field(
        default=None,
        description="Which fields were wrong, with invalid_request and invalid_params.",
    )


PROBLEM_REF = "#/components/schemas/Problem"
ACCESS_ERRORS: tuple[type[AppError], ...] = (
    CredentialsRequired,
    CredentialsInvalid,
    OriginNotAllowed,
    HostNotAllowed,
)
EVERYWHERE: tuple[type[AppError], ...] = (
    *ACCESS_ERRORS,
    InvalidRequest,
    DatabaseBusy,
    NotReady,
    InternalError,
)
Responses = dict[int | str, dict[str, Any]]


def problems(*errors: type[AppError], everywhere: bool = True) -> Responses:
    """Return OpenAPI ``responses`` for these errors and, unless told otherwise, for those that any
    call can meet.
    """
    wanted = dict.fromkeys((*errors, *EVERYWHERE) if everywhere else errors)
    by_status: dict[int | str, list[type[AppError]]] = {}
    for error in wanted:
        by_status.setdefault(STATUS[error.kind], []).append(error)
    return {status: _response(by_status[status]) for status in sorted(by_status, key=str)}


def _response(errors: list[type[AppError]]) -> dict[str, Any]:
    return {
        "description": "; ".join(f"`{error.code}`: {error.title}" for error in errors),
        "content": {
            PROBLEM_TYPE: {
                "schema": {"$ref": PROBLEM_REF},
                "examples": {error.code: {"value": example(error)} for error in errors},
            }
        },
    }


def example(error: type[AppError]) -> dict[str, Any]:
    """Return what a problem document of this error looks like."""
    return {
        "type": problem_type(error.code),
        "title": error.title,
        "status": STATUS[error.kind],
        "code": error.code,
        "detail": f"{error.title}.",
        "request_id": EXAMPLE_REQUEST,
    }
