"""The one ASGI app on /files: every check in its order, the lock across the body, our headers.

method override -> version -> credentials -> id -> ownership -> headers -> lock -> body stored
-> the router handles an empty PATCH at the resulting offset -> our headers on whatever comes out
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders, URLPath
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.access import authenticate, is_tus_path, route_path
from app.api.draining import drain_of
from app.api.errors import problem_response, set_owner
from app.api.tus.handlers import TusHandlers, TusOptions, TusRequest
from app.api.tus.headers import VERSION, body_size
from app.api.tus.request_body import RequestBody
from app.domain.errors import (
    AppError,
    InternalError,
    Kind,
    MethodNotAllowed,
    NotReady,
    TemporarilyUnavailable,
    TusVersionUnsupported,
    UploadNotFound,
)
from app.domain.ids import is_id
from app.services.draining import RETRY_AFTER_SECONDS
from app.services.upload_writing import BodyInterrupted, Interruption
from app.services.uploads import UploadService

log = structlog.get_logger(__name__)

__all__ = ["TusOptions", "mount_tus"]

COLLECTION_METHODS = ("OPTIONS", "POST")
UPLOAD_METHODS = ("OPTIONS", "HEAD", "GET", "PATCH", "DELETE")
UNVERSIONED = frozenset({"OPTIONS", "GET"})
LASTING = frozenset(
    {
        Kind.MALFORMED,
        Kind.UNAUTHENTICATED,
        Kind.FORBIDDEN,
        Kind.NOT_FOUND,
        Kind.METHOD,
        Kind.GONE,
        Kind.PRECONDITION,
        Kind.MISDIRECTED,
    }
)
"""Trouble that a HEAD may tell as it is. Of everything else it says 423: clients start again at
byte 0 on any other answer.
"""


def mount_tus(app: FastAPI, options: TusOptions) -> None:
    """Serve ``/files``, ``/files/`` and ``/files/{id}``, without redirects between them.

    Reads ``app.state.container.uploads`` with each request. Looked at before all other routes, since
    each of those costs every request behind it.
    """
    app.router.routes.insert(0, _TusRoute(TusApp(options)))


class _TusRoute(BaseRoute):
    """Takes every path on and below /files, with every method: the app itself refuses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_ours = scope["type"] == "http" and is_tus_path(route_path(scope))
        return (Match.FULL if is_ours else Match.NONE), {}

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        del path_params
        raise LookupError(name)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Target:
    """What the path names: the collection (None), or an upload by id; "" is no id at all."""

    upload_id: str | None

    @property
    def methods(self) -> tuple[str, ...]:
        return COLLECTION_METHODS if self.upload_id is None else UPLOAD_METHODS


class TusApp:
    """See the module; ``handlers`` does what is asked once it may be done."""

    def __init__(self, options: TusOptions) -> None:
        self._options = options
        self._handlers = TusHandlers(options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = _with_override(scope)
        body = RequestBody(scope, receive)
        target = _target(scope)
        with structlog.contextvars.bound_contextvars(
            **({"upload_id": target.upload_id} if target.upload_id else {})
        ):
            response = await self._answer(scope, target, body)
            if response is not None:
                await response(scope, receive, _with_version(send))

    async def _answer(self, scope: Scope, target: _Target, body: RequestBody) -> ASGIApp | None:
        """Return the response, None when the client is gone or was hung up on."""
        try:
            return await self._dispatch(scope, target, body)
        except BodyInterrupted as interrupted:
            if interrupted.why is Interruption.CLIENT_GONE or await body.hang_up():
                return None
            return _refusal(TemporarilyUnavailable("The body stalled."), scope, body)
        except AppError as error:
            return _refusal(error, scope, body)
        except Exception:
            log.exception("request.crashed", method=scope["method"], path=scope["path"])
            return _refusal(InternalError(), scope, body)

    async def _dispatch(self, scope: Scope, target: _Target, body: RequestBody) -> ASGIApp:
        method, headers = scope["method"], Headers(scope=scope)
        if method == "OPTIONS":
            return self._handlers.options(target.methods)
        if method not in UNVERSIONED and headers.getlist("tus-resumable") != [VERSION]:
            msg = f"Tus-Resumable must be {VERSION}."
            raise TusVersionUnsupported(msg)
        owner = authenticate(scope, self._options.access)
        set_owner(scope, owner)
        if target.upload_id == "":
            raise UploadNotFound("There is no such upload.")
        if method not in target.methods:
            msg = f"{method[:20]} is not possible here; allowed: {', '.join(target.methods)}."
            raise MethodNotAllowed(msg, extra={"allow": list(target.methods)})
        await _refuse_while_draining(scope, headers)
        request = TusRequest(_uploads(scope), owner, headers, body, scope.get("root_path", ""))
        if target.upload_id is None:
            return await self._handlers.create(request)
        return await self._handlers.of(method)(request, target.upload_id)


async def _refuse_while_draining(scope: Scope, headers: Headers) -> None:
    """Raise TemporarilyUnavailable for new uploads and new bytes when the service stops.

    Not ``Draining``: clients that are told anything but 423 may start over at byte 0. And not at
    once where the drain is long: they would use up their retries before another process answers.
    """
    drain, method = drain_of(scope), scope["method"]
    is_new = method == "POST" or (method == "PATCH" and body_size(headers) != 0)
    if drain is not None and drain.is_begun and is_new:
        await drain.until_last_moment()
        raise TemporarilyUnavailable(
            "The service is stopping; what it has of the upload is safe. Go on in a moment.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )


def _uploads(scope: Scope) -> UploadService:
    container = getattr(scope["app"].state, "container", None)
    if container is None:
        raise NotReady("The service is starting or stopping.")
    uploads: UploadService = container.uploads
    return uploads


def _with_override(scope: Scope) -> Scope:
    """Honour X-HTTP-Method-Override, for clients behind proxies that know GET and POST only."""
    override = Headers(scope=scope).get("x-http-method-override")
    return scope if override is None else {**scope, "method": override.strip().upper()}


def _target(scope: Scope) -> _Target:
    rest = route_path(scope).removeprefix("/files")
    if rest in {"", "/"}:
        return _Target(None)
    upload_id = rest.removeprefix("/")
    return _Target(upload_id if is_id(upload_id) else "")


def _refusal(error: AppError, scope: Scope, body: RequestBody) -> Response:
    is_head = scope["method"] == "HEAD"
    shown = error
    if is_head and error.kind not in LASTING:
        shown = TemporarilyUnavailable(error.detail)
    response = problem_response(shown, scope)
    headers = response.headers
    if is_head:
        # The server may know the request as a POST (override), and then counts the bytes.
        headers["content-length"] = "0"
        del headers["content-type"]
    if isinstance(error, TusVersionUnsupported):
        headers["tus-version"] = VERSION
    if "offset" in error.extra:
        headers["upload-offset"] = str(error.extra["offset"])
    if not body.is_finished and (body.is_begun or _awaits_continue(scope)):
        # What follows on this connection would be the rest of the body, or not: nobody can tell.
        _close_after(error, headers, scope)
    log.info(
        "upload.refused",
        method=scope["method"],
        code=error.code,
        status=response.status_code,
        detail=error.detail,
    )
    return response


def _awaits_continue(scope: Scope) -> bool:
    return Headers(scope=scope).get("expect", "").lower() == "100-continue"


def _close_after(error: AppError, headers: MutableHeaders, scope: Scope) -> None:
    """Close the connection of a client that does not send the rest: it was preempted, or it waits
    for "100 Continue". Others are still sending, and would see a reset instead of the answer.
    """
    if error.kind is Kind.LOCKED or _awaits_continue(scope):
        headers["connection"] = "close"


def _with_version(send: Send) -> Send:
    async def send_with_version(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Tus-Resumable"] = VERSION
        await send(message)

    return send_with_version


def describe(options: TusOptions) -> Mapping[str, str]:
    """Return what OPTIONS advertises, for the documentation."""
    return TusHandlers(options).capabilities
