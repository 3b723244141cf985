"""The one layer of ours around the whole application, pure ASGI: each concern once, in its order.

From the outside in: the request's id, the log and the count of how it ended (``_Exchange``); the CORS
headers (``api.cors``); the last net; who may come in (``api.access``); what is refused while the service
stops (``api.draining``). So every response, refusals and crashes included, has its id and its CORS
headers; and a message on its way out passes through one function of ours.
"""

import random
import re
import time

import structlog
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.access import (
    AccessPolicy,
    FirstHeaders,
    admit,
    first_headers,
    is_preflight,
    is_tus_path,
    route_path,
)
from app.api.connection import SENT_BYTES
from app.api.cors import (
    ALLOWED_HEADERS,
    ALLOWED_METHODS,
    EXPOSED_HEADERS,
    RawHeaders,
    cors_headers,
    vary_by_origin,
)
from app.api.draining import refuse_new_work
from app.api.errors import problem_response
from app.domain.errors import AppError, InternalError

__all__ = ["ALLOWED_HEADERS", "ALLOWED_METHODS", "EXPOSED_HEADERS", "install_middleware"]

log = structlog.get_logger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


def install_middleware(app: FastAPI, policy: AccessPolicy) -> None:
    """Put our layer around ``app``; what is added later goes around it."""
    app.add_middleware(EdgeMiddleware, policy=policy)


class EdgeMiddleware:
    """See the module."""

    def __init__(self, app: ASGIApp, policy: AccessPolicy) -> None:
        self._app = app
        self._policy = policy
        # Nobody gains by guessing one; to ask the system each time would let go of the interpreter, and
        # wait until it comes back.
        self._numbers = random.Random()  # noqa: S311

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = first_headers(scope)
        request_id = asked.get("x-request-id", "")
        if not _SANE_ID.match(request_id):
            request_id = f"{self._numbers.getrandbits(128):032x}"
        scope.setdefault("state", {})["request_id"] = request_id
        added = [
            *cors_headers(scope["method"], asked, self._policy),
            (b"x-request-id", request_id.encode("ascii")),
        ]
        exchange = _Exchange(scope, send, added)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self._answer(scope, receive, exchange, asked)
        finally:
            exchange.finish()
            structlog.contextvars.clear_contextvars()

    async def _answer(
        self, scope: Scope, receive: Receive, exchange: "_Exchange", asked: FirstHeaders
    ) -> None:
        """Answer, whatever happens: an error of ours becomes its problem, anything else a bare 500.

        The traceback goes to the log, under the request id that the client is told; nothing of it
        leaves. Once a response has begun there is nothing left to say: the connection is dropped.
        """
        try:
            admit(scope, asked, self._policy)
            if is_preflight(scope, asked):
                await Response(status_code=204)(scope, receive, exchange.send)
                return
            refuse_new_work(scope)
            await self._app(scope, receive, exchange.send)
        except AppError as error:
            if exchange.is_started:
                raise
            await _refuse(error, scope, receive, exchange.send)
        except Exception:
            log.exception("request.crashed", method=scope["method"], path=scope["path"])
            if exchange.is_started:
                raise
            hidden = InternalError("Something went wrong inside; the log says more under this id.")
            await _refuse(hidden, scope, receive, exchange.send)


async def _refuse(error: AppError, scope: Scope, receive: Receive, send: Send) -> None:
    response = problem_response(error, scope)
    if is_tus_path(route_path(scope)):
        response.headers["tus-resumable"] = "1.0.0"
    await response(scope, receive, send)


class _Exchange:
    """What is seen of one response on its way out, and what each gets: ``added`` are its headers."""

    def __init__(self, scope: Scope, send: Send, added: RawHeaders) -> None:
        self._scope = scope
        self._send = send
        self._added = added
        self._started = time.perf_counter()
        self._status = 0
        self._bytes = 0
        self._ended: float | None = None

    @property
    def is_started(self) -> bool:
        return self._status != 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message.get("headers", ()), *self._added]
            vary_by_origin(headers)
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            # Files go to the socket past ASGI; their senders say how much.
            self._bytes += len(message.get("body", b"")) + message.get(SENT_BYTES, 0)
            if not message.get("more_body", False):
                self._ended = time.perf_counter()
        await self._send(message)

    def finish(self) -> None:
        """Tell the log and the metrics how it ended."""
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
