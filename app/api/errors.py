"""The only place that knows HTTP statuses of errors: problem documents (RFC 9457) and handlers."""

import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match

from app.domain.errors import (
    AppError,
    InternalError,
    InvalidRequest,
    Kind,
    MalformedRequest,
    MethodNotAllowed,
    RouteNotFound,
)

STATUS: Mapping[Kind, int] = {
    Kind.MALFORMED: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.METHOD: 405,
    Kind.CONFLICT: 409,
    Kind.GONE: 410,
    Kind.PRECONDITION: 412,
    Kind.TOO_LARGE: 413,
    Kind.MEDIA_TYPE: 415,
    Kind.RANGE: 416,
    Kind.MISDIRECTED: 421,
    Kind.INVALID: 422,
    Kind.LOCKED: 423,
    Kind.TOO_MANY: 429,
    Kind.CHECKSUM: 460,
    Kind.INTERNAL: 500,
    Kind.UNAVAILABLE: 503,
    Kind.TIMEOUT: 504,
    Kind.NO_SPACE: 507,
}

PROBLEM_TYPE = "application/problem+json"
ERROR_GUIDE = "/docs/errors"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
DEFAULT_RETRY_SECONDS: Mapping[Kind, int] = {Kind.UNAVAILABLE: 2, Kind.LOCKED: 1, Kind.TOO_MANY: 5}
"""How long to ask a client to wait when the error itself does not say (seconds)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error on its way out: status, headers (text) and the JSON body as bytes."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def problem_type(code: str) -> str:
    """Return the stable ``type`` of a code; below the service's root it leads to its explanation."""
    return f"{ERROR_GUIDE}#{code}"


def request_id_of(scope: Mapping[str, Any]) -> str | None:
    """Return the id that the request got on its way in, None outside our middleware."""
    found = scope.get("state", {}).get("request_id")
    return found if isinstance(found, str) else None


def set_owner(scope: MutableMapping[str, Any], owner: str) -> None:
    """Remember whose request this is (see ``dependencies.get_owner``)."""
    scope.setdefault("state", {})["owner"] = owner


def problem(error: AppError, request_id: str | None) -> Problem:
    """Return the problem document of ``error``; its own members never overwrite the standard ones."""
    status = STATUS[error.kind]
    document = {
        **error.extra,
        "type": problem_type(error.code),
        "title": error.title,
        "status": status,
        "code": error.code,
        "detail": error.detail,
        "request_id": request_id,
    }
    headers = [("content-type", PROBLEM_TYPE), ("cache-control", "no-store")]
    retry_after = error.retry_after_seconds
    if retry_after is None:
        retry_after = DEFAULT_RETRY_SECONDS.get(error.kind)
    if retry_after is not None:
        headers.append(("retry-after", str(max(0, retry_after))))
    if error.kind is Kind.UNAUTHENTICATED:
        headers.append(("www-authenticate", _challenge(error)))
    if error.kind is Kind.METHOD and "allow" in error.extra:
        headers.append(("allow", ", ".join(error.extra["allow"])))
    if error.kind is Kind.RANGE and "size_bytes" in error.extra:
        headers.append(("content-range", f"bytes */{error.extra['size_bytes']}"))
    body = json.dumps(document, ensure_ascii=False, default=str).encode("utf-8", "replace")
    return Problem(status, tuple(headers), body)


def _challenge(error: AppError) -> str:
    if error.code == "credentials_invalid":
        return 'Bearer realm="tidemill", error="invalid_token"'
    return 'Bearer realm="tidemill"'


def problem_response(error: AppError, scope: Mapping[str, Any]) -> Response:
    """Return the problem as an ASGI response, usable without FastAPI; more headers may be set on it."""
    found = problem(error, request_id_of(scope))
    response = Response(found.body, found.status)
    for name, value in found.headers:
        response.headers[name] = value
    if scope.get("method") == "HEAD":
        # The length stays that of the body a GET would bring; the body itself may not be sent.
        response.body = b""
    return response


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error that leaves a route as a problem document.

    Whatever is not one of ours goes on to ``middleware.EdgeMiddleware``, the catch-all edge.
    """
    app.add_exception_handler(AppError, _on_app_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_app_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, AppError):
        raise error
    return problem_response(error, request.scope)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return problem_response(invalid_request(error.errors()), request.scope)


async def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return problem_response(_translate(request, error), request.scope)


def _translate(request: Request, error: HTTPException) -> AppError:
    path = request.scope.get("path", "")
    if error.status_code == STATUS[Kind.NOT_FOUND]:
        return RouteNotFound(f"There is nothing at {path[:200]}; /docs lists what there is.")
    if error.status_code == STATUS[Kind.METHOD]:
        allowed = allowed_methods(request.app.router.routes, request.scope)
        return MethodNotAllowed(
            f"{request.method} is not possible here; allowed: {', '.join(allowed)}.",
            extra={"allow": allowed},
        )
    if error.status_code == STATUS[Kind.MALFORMED]:
        return MalformedRequest(str(error.detail))
    return InternalError()


def allowed_methods(routes: Sequence[BaseRoute], scope: Mapping[str, Any]) -> list[str]:
    """Return the methods that some route of this path takes (one route alone knows only its own)."""
    return [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]


# --- validation, told so that a person can act on it ---------------------------------------------


def invalid_request(errors: Sequence[Any]) -> AppError:
    """Return pydantic's findings as one error that names each field, what was wrong, what is allowed."""
    if any(error.get("type") == "json_invalid" for error in errors):
        return MalformedRequest("The body is not valid JSON.")
    found = [entry for error in errors for entry in _entries(error)]
    first = found[0] if found else {"loc": "body", "message": "Not valid."}
    allowed = f" Allowed: {first['allowed']}." if "allowed" in first else ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    detail = f"{first['loc']}: {first['message']}{allowed}{more}"
    return InvalidRequest(detail, extra={"errors": found})


def _entries(error: Mapping[str, Any]) -> list[dict[str, Any]]:
    location = [str(part) for part in error.get("loc", ())] or ["body"]
    where, path = location[0], location[1:]
    context = error.get("ctx") or {}
    if error.get("type") == "unknown_field":
        return [
            {
                "in": where,
                "loc": ".".join([*path, name]),
                "message": "There is no such field.",
                "allowed": _listed(context["allowed"]),
            }
            for name in context["unknown"]
        ]
    entry = {
        "in": where,
        "loc": ".".join(path) or where,
        "message": _message(str(error.get("type")), str(error.get("msg", "not valid"))),
    }
    allowed = _allowed(context)
    return [{**entry, "allowed": allowed}] if allowed is not None else [entry]


_OBJECT = "Must be a JSON object."
_MESSAGES = {
    "missing": "Is missing.",
    "string_pattern_mismatch": "Has another form.",
    "model_attributes_type": _OBJECT,
    "model_type": _OBJECT,
    "dict_type": _OBJECT,
}


def _message(kind: str, told: str) -> str:
    """Return a complaint in our words; ``told`` are pydantic's, which say Input for a field."""
    text = told.removeprefix("Value error, ").replace("Input should be", "Must be", 1)
    return _MESSAGES.get(kind, text if text.endswith(".") else f"{text}.")


def _allowed(context: Mapping[str, Any]) -> str | None:
    """Say what would have been right; None where the message says it, or nobody knows."""
    if "allowed" in context:
        return _listed(context["allowed"])
    if "pattern" in context:
        return f"text that matches {context['pattern']}"
    return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
