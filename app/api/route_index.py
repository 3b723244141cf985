"""Finds a request's route by the beginning of its path, where the router tries one after the other."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from fastapi.routing import APIRoute
from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from app.api.access import route_path

_DEPTH = 3
"""How many segments tell the routes apart well enough: ``/api/v1/jobs``."""
_FOUND = "tidemill.route"


class RouteIndex(BaseRoute):
    """Stands before ``routes`` and hands a request to the one that would have got it anyway.

    A path that none of them takes goes on to all other routes; a method that none of them takes is
    refused by the first whose path it is.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._shelves: dict[tuple[int, str], list[APIRoute]] = defaultdict(list)
        for route in routes:
            # What takes any number of segments has no one place: the router finds it, as ever.
            if isinstance(route, APIRoute) and ":path}" not in route.path:
                self._shelves[_place_of(route.path)].append(route)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        partly: tuple[Match, Scope] = (Match.NONE, {})
        for route in self._shelves.get(_place_of(route_path(scope)), ()):
            match, child = route.matches(scope)
            if match is Match.FULL:
                return match, {**child, _FOUND: route}
            if match is Match.PARTIAL and partly[0] is Match.NONE:
                partly = match, {**child, _FOUND: route}
        return partly

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope[_FOUND].handle(scope, receive, send)


def _place_of(path: str) -> tuple[int, str]:
    """Return the number of segments and the first of them. A parameter among those leaves its route to
    the router.
    """
    segments = path.split("/", _DEPTH + 1)
    return path.count("/"), "/".join(segments[: _DEPTH + 1])
