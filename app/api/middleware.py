"""Pure ASGI middleware around the whole application: request ids, the access log, CORS, the last net.

From the outside in: RequestContextMiddleware, CorsMiddleware, ErrorMiddleware, AccessMiddleware. So
every response, refusals and crashes included, has its id and its CORS headers.
"""

import re
import time

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.access import (
    AccessMiddleware,
    AccessPolicy,
    is_origin_allowed,
    is_tus_path,
    route_path,
)
from app.api.connection import SENT_BYTES
from app.api.errors import problem_response
from app.domain.errors import AppError, InternalError
from app.domain.ids import new_id

log = structlog.get_logger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_SECONDS_OF_PREFLIGHT = "86400"
EXPOSED_HEADERS = (
    "Accept-Ranges, Allow, Content-Disposition, Content-Length, Content-Range, ETag,"
    " Idempotency-Replayed, Last-Modified, Location, Repr-Digest, Retry-After, Tidemill-Batch,"
    " Tidemill-Job, Tidemill-Upload,"
    " Tus-Checksum-Algorithm, Tus-Extension, Tus-Max-Size, Tus-Resumable, Tus-Version,"
    " Upload-Concat, Upload-Defer-Length, Upload-Expires, Upload-Length, Upload-Metadata,"
    " Upload-Offset, WWW-Authenticate, X-HTTP-Method-Override, X-Request-ID"
)
ALLOWED_METHODS = "GET, HEAD, POST, PATCH, DELETE, OPTIONS"
ALLOWED_HEADERS = (
    "Accept, Authorization, Cache-Control, Content-Type, Idempotency-Key, If-Match,"
    " If-Modified-Since, If-None-Match, If-Range, Last-Event-ID, Prefer, Range, Tus-Resumable,"
    " Upload-Checksum, Upload-Complete, Upload-Concat, Upload-Defer-Length,"
    " Upload-Draft-Interop-Version, Upload-Length, Upload-Metadata, Upload-Offset,"
    " X-HTTP-Method-Override, X-Request-ID, X-Requested-With"
)


def install_middleware(app: FastAPI, policy: AccessPolicy) -> None:
    """Put the four layers around ``app``; the one added last is the outermost."""
    app.add_middleware(AccessMiddleware, policy=policy)
    app.add_middleware(ErrorMiddleware)
    app.add_middleware(CorsMiddleware, policy=policy)
    app.add_middleware(RequestContextMiddleware)


class RequestContextMiddleware:
    """Gives every request an id, binds it to the log, and logs and counts how the request ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.match(given) else new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        exchange = _Exchange(scope, request_id, send)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self._app(scope, receive, exchange.send)
        finally:
            exchange.finish()
            structlog.contextvars.clear_contextvars()


class _Exchange:
    """What is seen of one response on its way out."""

    def __init__(self, scope: Scope, request_id: str, send: Send) -> None:
        self._scope = scope
        self._request_id = request_id
        self._send = send
        self._started = time.perf_counter()
        self._status = 0
        self._bytes = 0
        self._ended: float | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self._request_id
        elif message["type"] == "http.response.body":
            # Files go to the socket past ASGI; their senders say how much.
            self._bytes += len(message.get("body", b"")) + message.get(SENT_BYTES, 0)
            if not message.get("more_body", False):
                self._ended = time.perf_counter()
        await self._send(message)

    def finish(self) -> None:
        # The path without its query: that is where tokens and signatures would be.
        elapsed = (self._ended or time.perf_counter()) - self._started
        log.info(
            "request.finished",
            method=self._scope["method"],
            path=self._scope["path"],
            status=self._status,
            duration_ms=round(elapsed * 1000, 1),
            bytes=self._bytes,
        )
        self._count()

    def _count(self) -> None:
        app = self._scope.get("app")
        container = getattr(app.state, "container", None) if app is not None else None
        if container is None:
            return
        container.metrics.count(
            "http_requests_total", method=self._scope["method"], status=str(self._status)
        )


class CorsMiddleware:
    """Adds the CORS headers to every response a page of an allowed origin gets, errors included."""

    def __init__(self, app: ASGIApp, policy: AccessPolicy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed = origin is not None and is_origin_allowed(origin, self._policy)

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                out.add_vary_header("Origin")
                if allowed and origin is not None:
                    _allow(out, origin)
                    if scope["method"] == "OPTIONS":
                        _allow_preflight(out, headers)
            await send(message)

        await self._app(scope, receive, send_with_cors)


def _allow(out: MutableHeaders, origin: str) -> None:
    out["access-control-allow-origin"] = origin
    out["access-control-expose-headers"] = EXPOSED_HEADERS


def _allow_preflight(out: MutableHeaders, asked: Headers) -> None:
    if "access-control-request-method" not in asked:
        return
    out["access-control-allow-methods"] = ALLOWED_METHODS
    out["access-control-allow-headers"] = ALLOWED_HEADERS
    out["access-control-max-age"] = _SECONDS_OF_PREFLIGHT
    if asked.get("access-control-request-private-network") == "true":
        out["access-control-allow-private-network"] = "true"


class ErrorMiddleware:
    """The API's catch-all: an error of ours becomes its problem, anything else a bare 500.

    The traceback goes to the log, under the request id that the client is told; nothing of it
    leaves. Once a response has begun there is nothing left to say: the connection is dropped.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except AppError as error:
            if started:
                raise
            await _refuse(error, scope, receive, send)
        except Exception:
            log.exception("request.crashed", method=scope["method"], path=scope["path"])
            if started:
                raise
            hidden = InternalError("Something went wrong inside; the log says more under this id.")
            await _refuse(hidden, scope, receive, send)


async def _refuse(error: AppError, scope: Scope, receive: Receive, send: Send) -> None:
    response = problem_response(error, scope)
    if is_tus_path(route_path(scope)):
        response.headers["tus-resumable"] = "1.0.0"
    await response(scope, receive, send)
