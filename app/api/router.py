"""Puts the API into an application: routes, documentation, errors, middleware, in the right order."""

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from app.api.access import AccessPolicy
from app.api.docs_page import install_docs
from app.api.draining import DrainMiddleware
from app.api.errors import install_error_handlers
from app.api.middleware import install_middleware
from app.api.openapi import install_openapi
from app.api.routes import batches, events, health, jobs, logs, outputs, sessions, sweeps

API_PREFIX = "/api/v1"


def install_api(app: FastAPI, access: AccessPolicy, *, public_url: str | None = None) -> None:
    """Make ``app`` serve everything but /files, which ``api.tus`` mounts.

    ``app`` must have been made with ``docs_url=None, redoc_url=None, openapi_url=None``, since all of
    these are served by ourselves; ``app.state.container`` is set by the lifespan. ``public_url``:
    sessions tell their tus endpoint below it, for pages of other sites.
    """
    app.state.access = access
    app.state.public_url = public_url
    app.router.redirect_slashes = False
    api = APIRouter(prefix=API_PREFIX)
    for noun in (sessions, batches, jobs, logs, events, outputs, sweeps):
        api.include_router(noun.router)
    # A handler's name is its operation's id: what generated clients call the method.
    app.include_router(api, generate_unique_id_function=_operation_id)
    app.include_router(logs.short_router, generate_unique_id_function=_operation_id)
    app.include_router(health.router, generate_unique_id_function=_operation_id)
    install_docs(app)
    install_openapi(app)
    install_error_handlers(app)
    app.add_middleware(DrainMiddleware)  # inside of access and errors
    install_middleware(app, access)


def _operation_id(route: APIRoute) -> str:
    return route.name
