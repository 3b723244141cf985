"""The routes of the JSON API: bodies are bounded and JSON, unknown query names are refused."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response, params
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.api.direct_route import DirectRoute
from app.api.idempotency import honours_key, refuse_key
from app.api.strict_json import parse_json
from app.domain.errors import (
    InvalidRequest,
    MalformedRequest,
    RequestTooLarge,
    UnsupportedMediaType,
)

API_PREFIX = "/api/v1"
JSON_MAX_BYTES = 256 * 1024
"""Far more than the largest meaningful body: a thousand inputs and their parameters."""


class JsonRoute(DirectRoute):
    """Checks what FastAPI leaves open before a handler, and before FastAPI, sees the request.

    Never ignored: an unknown query parameter (``?dryrun=true`` must not delete), an
    ``Idempotency-Key`` where nothing honours it, a body that is not JSON.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._names, self._takes_key = _what_it_takes(self.dependant)

    def check(self, request: Request) -> None:
        if request.scope["query_string"]:
            _refuse_unknown_query(request, self._names)
        if not self._takes_key:
            refuse_key(request)

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()
        # Before __init__ has come to its end.
        reads = self.body_field is not None or _what_it_takes(self.dependant)[1]

        async def checked(request: Request) -> Response:
            self.check(request)
            if reads:
                body = await read_json(request)
                request = Request(request.scope, _replay(body, request))
            return await handle(request)

        return checked


def _what_it_takes(dependant: Dependant) -> tuple[frozenset[str], bool]:
    """Return the names of the query's parameters, and whether an ``Idempotency-Key`` is honoured."""
    names = frozenset(
        field.alias
        for field in get_flat_params(dependant)
        if isinstance(field.field_info, params.Query)
    )
    return names, honours_key(dependant)


def json_router(
    *tags: str, route_class: type[JsonRoute] = JsonRoute, prefix: str = API_PREFIX
) -> APIRouter:
    """Return a router whose routes are complete as they are: ``router.install_api`` adds them to the
    application one by one, since each level of included routers costs every request a good part of
    what it costs at all.
    """
    return APIRouter(
        prefix=prefix,
        route_class=route_class,
        tags=list(tags),
        generate_unique_id_function=operation_id,
    )


def operation_id(route: APIRoute) -> str:
    """Return the id of a route's operation: its handler's name, as generated clients call it too."""
    return route.name


def _refuse_unknown_query(request: Request, names: frozenset[str]) -> None:
    unknown = sorted(set(request.query_params) - names)
    if not unknown:
        return
    allowed = ", ".join(sorted(names)) or "none"
    entries = [
        {
            "in": "query",
            "loc": name[:100],
            "message": "There is no such parameter.",
            "allowed": allowed,
        }
        for name in unknown[:20]
    ]
    detail = f"{unknown[0][:100]}: There is no such parameter. Allowed: {allowed}."
    raise InvalidRequest(detail, extra={"errors": entries})


async def read_json(request: Request) -> bytes:
    """Return a body that is JSON, or empty. Raises RequestTooLarge, UnsupportedMediaType,
    MalformedRequest.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > JSON_MAX_BYTES:
        raise _too_large()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type.startswith("multipart/"):
        raise UnsupportedMediaType(
            "Files are uploaded by tus to /files/; this takes JSON (application/json)."
        )
    pieces: list[bytes] = []
    received = 0
    try:
        async for piece in request.stream():
            received += len(piece)
            if received > JSON_MAX_BYTES:
                raise _too_large()
            pieces.append(piece)
    except ClientDisconnect as error:
        raise MalformedRequest("The body ended early.") from error
    body = b"".join(pieces)
    if body and media_type != "application/json" and not media_type.endswith("+json"):
        sent = f"not {media_type[:100]}" if media_type else "but no Content-Type was sent"
        msg = f"The body must be application/json, {sent}."
        raise UnsupportedMediaType(msg)
    if body:
        parse_json(body, "The body")
    return body


def _too_large() -> RequestTooLarge:
    return RequestTooLarge(
        f"A JSON body may have at most {JSON_MAX_BYTES} bytes.",
        extra={"maximum_bytes": JSON_MAX_BYTES},
    )


def _replay(body: bytes, request: Request) -> Callable[[], Awaitable[Message]]:
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await request.receive()
        given = True
        message: dict[str, Any] = {"type": "http.request", "body": body, "more_body": False}
        return message

    return receive
