"""Refuses what would begin something new while the service stops, before any of its body is read."""

from typing import Any

from starlette.types import Scope

from app.api.access import is_tus_path, route_path
from app.services.draining import Drain

_ENDINGS = ("/cancel",)
"""What is posted to end something."""


def drain_of(scope: Scope) -> Drain | None:
    """Return the drain of the application behind a request, None while it has not started."""
    container: Any = getattr(scope["app"].state, "container", None)
    drain: Drain | None = container.drain if container is not None else None
    return drain


def refuse_new_work(scope: Scope) -> None:
    """Raise ``Draining`` for every POST of the API that comes when the service stops.

    Whatever is under way goes on, and so does what reads, changes or removes. The tus app says it
    in its own way, for clients that would start over.
    """
    if scope["method"] != "POST":
        return
    path, drain = route_path(scope), drain_of(scope)
    if drain is not None and not is_tus_path(path) and not path.endswith(_ENDINGS):
        drain.refuse_new()
