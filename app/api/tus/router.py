"""tuspyserver's router, unforked and unpatched, run on requests that our app has checked."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.types import Message
from tuspyserver import create_tus_router

from app.api.tus.exchange import Exchange, current
from app.api.tus.headers import OFFSET_TYPE, VERSION
from app.api.tus.storage import RowStorage
from app.domain.errors import InternalError

log = structlog.get_logger(__name__)

PREFIX = "/files"
_KEY = "tidemill.exchange"

CompleteHook = Callable[[str, dict[str, Any]], Awaitable[None]]
PreCreateHook = Callable[[dict[str, Any], dict[str, Any]], None]
FileHook = Callable[[dict[str, Any]], dict[str, str]]


class TusRouter:
    """One router for all requests; what a request is about comes with its exchange."""

    def __init__(self, max_upload_bytes: int) -> None:
        # Its annotations (4.4.3) know neither async dependencies nor hooks that return something,
        # which its code and its documentation do.
        hooks: dict[str, Any] = {
            "pre_create_dep": _pre_create_dep,
            "upload_complete_dep": _upload_complete_dep,
            "file_dep": _file_dep,
        }
        inner = create_tus_router(
            prefix="files", max_size=max_upload_bytes, storage=RowStorage(), **hooks
        )
        router = APIRouter()
        # Nothing reaches these routes but through our checks, whatever is mounted beside them.
        router.include_router(inner, dependencies=[Depends(_require_our_app)])
        # An application would bring this; without one, errors come out as they were raised.
        self._router = AsyncExitStackMiddleware(router)

    async def create(self, exchange: Exchange, length: int | None) -> None:
        """Have the row made, and a zero-byte upload completed."""
        size = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
        await self._run(exchange, "POST", f"{PREFIX}/", size, expected=201)

    async def note_patch(self, exchange: Exchange) -> None:
        """Do the bookkeeping of a stored body, and the completion if the upload is whole now."""
        offset = {"Upload-Offset": str(exchange.offset), "Content-Type": OFFSET_TYPE}
        path = f"{PREFIX}/{exchange.upload_id}"
        await self._run(exchange, "PATCH", path, offset, expected=204)

    async def terminate(self, exchange: Exchange) -> None:
        """Have the upload removed."""
        path = f"{PREFIX}/{exchange.upload_id}"
        await self._run(exchange, "DELETE", path, {}, expected=204)

    async def _run(
        self,
        exchange: Exchange,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        expected: int,
    ) -> None:
        token = current.set(exchange)
        try:
            status = await self._ask(_scope(exchange, method, path, headers))
        except (HTTPException, RequestValidationError) as error:
            log.exception("tus.router_refused", method=method)
            raise InternalError from error
        finally:
            current.reset(token)
        if status != expected:
            log.error("tus.router_surprised", method=method, status=status, expected=expected)
            raise InternalError

    async def _ask(self, scope: dict[str, Any]) -> int:
        status = 0

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        await self._router(scope, receive, send)
        return status


def _scope(
    exchange: Exchange, method: str, path: str, headers: Mapping[str, str]
) -> dict[str, Any]:
    """Return a request of our own making: nothing of what a client sent gets any further."""
    everything = {"Tus-Resumable": VERSION, "Content-Length": "0", **headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("ascii"),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (name.lower().encode("ascii"), value.encode("ascii"))
            for name, value in everything.items()
        ],
        "client": None,
        "server": ("localhost", 80),
        "state": {},
        _KEY: exchange,
    }


async def _require_our_app(request: Request) -> None:
    exchange = request.scope.get(_KEY)
    if exchange is None or exchange is not current.get(None):
        raise InternalError("The tus router was reached around its checks.")


async def _pre_create_dep() -> PreCreateHook:
    return _pre_create


def _pre_create(_metadata: dict[str, Any], info: dict[str, Any]) -> None:
    new = current.get().new
    if new is None or info["size"] != new.length:
        raise InternalError("The router understood another length than we checked.")


async def _upload_complete_dep() -> CompleteHook:
    return _upload_complete


async def _upload_complete(_location: str, _metadata: dict[str, Any]) -> None:
    await current.get().complete()


async def _file_dep() -> FileHook:
    return _file


def _file(_metadata: dict[str, Any]) -> dict[str, str]:
    return {"uid": current.get().upload_id}
