"""Routes that FastAPI documents, and whose handlers are called without its machinery where they can be.

That takes a handler which returns a response or a model, and asks for nothing but the request, ids in
the path, and dependencies of which the same is so: all the rest is FastAPI's, at several times the cost.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fastapi import Request, Response, params
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel
from starlette.types import Receive, Scope, Send

Source = Callable[[Request], Awaitable[Any]]


class DirectRoute(APIRoute):
    """Calls its handler directly where that is possible."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._direct = direct_call(endpoint) if self._is_plain() else None
        self._status = self.status_code or 200

    def check(self, request: Request) -> None:
        """Refuse what the handler would not look at. Raises AppError."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._direct is None or scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        self.check(request)
        response = await self._direct(request)
        if isinstance(response, BaseModel):
            # By the declared model: what a subclass knows besides is nobody's business.
            body = self.response_model.__pydantic_serializer__.to_json(response, by_alias=True)
            response = Response(body, self._status, media_type="application/json")
        await response(scope, receive, send)

    def _is_plain(self) -> bool:
        """Whether the route says nothing that only FastAPI would heed."""
        returned = get_type_hints(self.endpoint).get("return")
        is_model = isinstance(returned, type) and issubclass(returned, BaseModel)
        told = (
            self.response_model_include,
            self.response_model_exclude,
            self.response_model_exclude_unset,
            self.response_model_exclude_defaults,
            self.response_model_exclude_none,
        )
        return (
            not self.dependencies
            and not any(told)
            and self.response_model_by_alias
            and (not is_model or self.response_model is returned)
        )


def direct_call(handler: Callable[..., Any]) -> Source | None:
    """Return ``handler`` as a function of the request alone, None where it needs FastAPI."""
    hints = get_type_hints(handler, include_extras=True)
    returned = hints.get("return")
    if not (isinstance(returned, type) and issubclass(returned, Response | BaseModel)):
        return None
    return _filled(handler, hints)


def _filled(call: Callable[..., Any], hints: dict[str, Any]) -> Source | None:
    names = list(inspect.signature(call).parameters)
    found = {name: _source_of(name, hints.get(name)) for name in names}
    sources = {name: source for name, source in found.items() if source is not None}
    if len(sources) < len(names) or not inspect.iscoroutinefunction(call):
        return None
    # As FastAPI has it: what the handler depends on may refuse before an id is looked at.
    order = sorted(names, key=lambda name: _is_path(hints[name]))

    async def fill(request: Request) -> Any:
        return await call(**{name: await sources[name](request) for name in order})

    return fill


def _source_of(name: str, hint: Any) -> Source | None:
    if hint is Request:
        return _itself
    if get_origin(hint) is not Annotated:
        return None
    kind, first, *others = get_args(hint)
    if isinstance(first, params.Depends) and first.dependency is not None and not others:
        needed = first.dependency
        return _filled(needed, get_type_hints(needed, include_extras=True))
    if _is_path(hint) and kind is str and not first.metadata and not first.alias:
        return _path_source(name, others)
    return None


def _is_path(hint: Any) -> bool:
    return get_origin(hint) is Annotated and isinstance(get_args(hint)[1], params.Path)


async def _itself(request: Request) -> Request:
    return request


def _path_source(name: str, validators: list[Any]) -> Source | None:
    if not all(isinstance(each, AfterValidator) for each in validators):
        return None

    async def look(request: Request) -> Any:
        value: Any = request.path_params[name]
        for each in validators:
            value = each.func(value)
        return value

    return look
