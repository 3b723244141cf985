"""Puts the API into an application: routes, documentation, errors, middleware, in the right order."""

from fastapi import FastAPI

from app.api.access import AccessPolicy
from app.api.docs_page import install_docs
from app.api.errors import install_error_handlers
from app.api.middleware import install_middleware
from app.api.openapi import install_openapi
from app.api.route_index import RouteIndex
from app.api.routes import (
    batches,
    events,
    health,
    jobs,
    logs,
    outputs,
    renders,
    sessions,
    sweeps,
)


def install_api(app: FastAPI, access: AccessPolicy, *, public_url: str | None = None) -> None:
    """Make ``app`` serve everything but /files, which ``api.tus`` mounts.

    ``app`` must have been made with ``docs_url=None, redoc_url=None, openapi_url=None``, since all of
    these are served by ourselves; ``app.state.container`` is set by the lifespan. ``public_url``:
    sessions tell their tus endpoint below it, for pages of other sites.
    """
    app.state.access = access
    app.state.public_url = public_url
    app.router.redirect_slashes = False
    # Forms before JSON, which takes whatever is no form.
    app.router.routes.extend(sessions.form_router.routes)
    for noun in (sessions, batches, jobs, logs, events, outputs, sweeps, health):
        app.router.routes.extend(noun.router.routes)
    app.router.routes.extend(logs.short_router.routes)
    app.router.routes.extend(renders.router.routes)
    install_docs(app)
    install_openapi(app)
    app.router.routes.insert(0, RouteIndex(app.router.routes))
    install_error_handlers(app)
    install_middleware(app, access)
