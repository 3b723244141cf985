"""The OpenAPI document: what FastAPI makes of the routes, the tus calls, keys and problems added."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse

from app.api.openapi_tus import TUS_PATHS
from app.api.schemas.base import below
from app.api.schemas.problems import FieldProblem, Problem

DESCRIPTION = """\
Tidemill takes large videos over resumable uploads, turns them into finished files, hands them out, and
leaves nothing behind.

The way of a file: `POST /api/v1/upload` opens a **session**; the bytes go by **tus** to `/files/`; the
completed uploads become a **batch**; a **job** runs an operation on them; its **output** is downloaded;
then everything goes by itself, and its address answers 410 with the reason.

`POST /api/upload` is another thing than `POST /api/v1/upload`, which opens a session: it takes a Moodle
log and starts its job at once. `POST /api/v1/logs` is its other name.

Every error is `application/problem+json` with a stable `code`: see [/docs/errors](docs/errors). Times
are UTC (RFC 3339), sizes are bytes, ids are 32 hex digits. Lists come in pages: pass `next` as `cursor`.
A field or query parameter that does not exist is refused, never ignored.
"""
TAGS = [
    {"name": "uploads and sessions", "description": "Group uploads and look at them."},
    {"name": "tus", "description": "The bytes themselves, by tus 1.0.0 (https://tus.io)."},
    {"name": "batches", "description": "Completed uploads that belong together."},
    {"name": "jobs", "description": "Operations on files, and how far they are."},
    {"name": "logs", "description": "A Moodle log in, an event log for process mining out."},
    {"name": "outputs", "description": "What jobs produced."},
    {
        "name": "renders",
        "description": "A clip in, the finished file out, in one call; nothing of it stays.",
    },
    {"name": "sweeps and storage", "description": "What is cleaned up, and what is there."},
    {"name": "running it", "description": "For supervisors and monitors."},
]
OPEN_CALLS = frozenset({"/livez", "/readyz"})


def install_openapi(app: FastAPI) -> None:
    """Make ``app.openapi`` the whole document, and serve it at /openapi.json."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

    async def serve(request: Request) -> JSONResponse:
        # The first time it takes a good part of a second, which the event loop does not have.
        document = await asyncio.to_thread(app.openapi)
        root: str = request.scope.get("root_path", "")
        servers = [{"url": below(root, "") or "/"}]
        return JSONResponse({**document, "servers": servers})

    app.add_api_route("/openapi.json", serve, include_in_schema=False)


def build(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of ``app`` with all that its routes cannot say themselves."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary="Resumable uploads of large videos in, finished files out, nothing left behind.",
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
        license_info={"name": "MIT", "identifier": "MIT"},
        separate_input_output_schemas=False,
    )
    document["paths"].update(TUS_PATHS)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    reference = "#/components/schemas/{model}"
    for model in (Problem, FieldProblem):
        schema = model.model_json_schema(ref_template=reference)
        schema.pop("$defs", None)
        schemas[model.__name__] = schema
    components["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "Asked for unless the service is for this machine only.",
        }
    }
    document["security"] = [{"key": []}, {}]
    for path in OPEN_CALLS:
        for operation in document["paths"][path].values():
            operation["security"] = []
    return document
