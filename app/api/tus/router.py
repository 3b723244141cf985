"""tuspyserver's router, unforked and unpatched, asked about requests that our app has checked.

Its endpoints are called as FastAPI would call them once it has resolved their parameters. For a
request of our own making there is nothing to resolve, and that would cost more than all the rest.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute, APIRouter
from tuspyserver import create_tus_router

from app.api.tus.exchange import Exchange, current, exchange_of
from app.api.tus.headers import OFFSET_TYPE, VERSION
from app.api.tus.storage import RowStorage
from app.domain.errors import InternalError

log = structlog.get_logger(__name__)

PREFIX = "/files"
ONE = f"{PREFIX}/{{uuid}}"

CompleteHook = Callable[[str, dict[str, Any]], Awaitable[None]]
PreCreateHook = Callable[[dict[str, Any], dict[str, Any]], None]
FileHook = Callable[[dict[str, Any]], dict[str, str]]
Endpoint = Callable[..., Awaitable[Response]]

KNOWN = {
    ("POST", f"{PREFIX}/"): (
        "request response upload_metadata upload_length upload_defer_length upload_concat "
        "tus_resumable _ on_complete pre_create file_dep"
    ),
    ("PATCH", ONE): (
        "request response uuid content_length upload_offset upload_length content_type "
        "tus_resumable _ __ on_complete file_dep"
    ),
    ("DELETE", ONE): "uuid response tus_resumable _ file_dep",
}
"""The parameters of the endpoints that are called here, as 4.4.3 has them."""


class TusRouter:
    """One router for all requests; what a request is about comes with its exchange.

    Raises ``RuntimeError`` when its endpoints are not those that are known here.
    """

    def __init__(self, max_upload_bytes: int) -> None:
        # Its annotations (4.4.3) know neither async dependencies nor hooks that return something,
        # which its code and its documentation do.
        hooks: dict[str, Any] = {
            "pre_create_dep": _pre_create_dep,
            "upload_complete_dep": _upload_complete_dep,
            "file_dep": _file_dep,
        }
        self.router: APIRouter = create_tus_router(
            prefix="files", max_size=max_upload_bytes, storage=RowStorage(), **hooks
        )
        self._create = endpoint_of(self.router, "POST", f"{PREFIX}/")
        self._patch = endpoint_of(self.router, "PATCH", ONE)
        self._delete = endpoint_of(self.router, "DELETE", ONE)

    async def create(self, exchange: Exchange, length: int | None) -> None:
        """Have the row made, and a zero-byte upload completed."""
        await self._ask(
            exchange,
            self._create,
            expected=201,
            request=_creation(),
            upload_metadata=None,
            upload_length=length,
            upload_defer_length=1 if length is None else None,
            upload_concat=None,
            on_complete=_upload_complete,
            pre_create=_pre_create,
        )

    async def note_patch(self, exchange: Exchange) -> None:
        """Have an upload completed that is whole now.

        Of any other the router has nothing to do: its bytes are stored, and their offset is the
        length of the file. Nor is it given the empty body to store, so what would read that
        (``_``) has found all in order.
        """
        row = exchange.row
        if row is None or exchange.offset != row.length:
            return
        await self._ask(
            exchange,
            self._patch,
            expected=204,
            request=None,
            uuid=exchange.upload_id,
            content_length=0,
            upload_offset=exchange.offset,
            upload_length=None,
            content_type=OFFSET_TYPE,
            __=None,
            on_complete=_upload_complete,
        )

    async def terminate(self, exchange: Exchange) -> None:
        """Have the upload removed."""
        await self._ask(exchange, self._delete, expected=204, uuid=exchange.upload_id)

    async def _ask(
        self, exchange: Exchange, endpoint: Endpoint, *, expected: int, **arguments: Any
    ) -> None:
        token = current.set(exchange)
        response = Response()
        try:
            answer = await endpoint(
                response=response, tus_resumable=VERSION, _=None, file_dep=_file, **arguments
            )
        except HTTPException as error:
            log.exception("tus.router_refused", endpoint=endpoint.__name__)
            raise InternalError from error
        finally:
            current.reset(token)
        if answer.status_code != expected:
            log.error("tus.router_surprised", status=answer.status_code, expected=expected)
            raise InternalError


def endpoint_of(router: APIRouter, method: str, path: str) -> Endpoint:
    """Return the function behind a route. Raises RuntimeError unless it is as we know it."""
    for route in router.routes:
        if isinstance(route, APIRoute) and route.path == path and method in (route.methods or ()):
            found, known = list(inspect.signature(route.endpoint).parameters), KNOWN[method, path]
            if found != known.split():
                msg = f"tuspyserver's {method} {path} takes {found}, but is known to take {known}."
                raise RuntimeError(msg)
            endpoint: Endpoint = route.endpoint
            return endpoint
    msg = f"tuspyserver has no {method} {path}."
    raise RuntimeError(msg)


def _creation() -> Request:
    """Return a request of our own making: nothing of what a client sent gets any further."""
    return Request(
        {
            "type": "http",
            "method": "POST",
            "scheme": "http",
            "path": f"{PREFIX}/",
            "root_path": "",
            "query_string": b"",
            "headers": [],
            "server": ("localhost", 80),
        }
    )


async def _pre_create_dep() -> PreCreateHook:
    return _pre_create


def _pre_create(_metadata: dict[str, Any], info: dict[str, Any]) -> None:
    new = exchange_of(None).new
    if new is None or info["size"] != new.length:
        raise InternalError("The router understood another length than we checked.")


async def _upload_complete_dep() -> CompleteHook:
    return _upload_complete


async def _upload_complete(_location: str, _metadata: dict[str, Any]) -> None:
    await exchange_of(None).complete()


async def _file_dep() -> FileHook:
    return _file


def _file(_metadata: dict[str, Any]) -> dict[str, str]:
    return {"uid": exchange_of(None).upload_id}
