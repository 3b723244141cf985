"""/docs: the API's description and the error guide, from assets served by ourselves."""

import html
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from app.api.error_guide import GUIDE, catalogue
from app.api.errors import STATUS
from app.api.schemas.base import below

ASSETS = "/docs/assets"
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)

router = APIRouter(include_in_schema=False)


def install_docs(app: FastAPI) -> None:
    """Serve the documentation page with its assets out of the installed package."""
    folder = Path(fastapi_offline.__file__).parent / "static"
    app.mount(ASSETS, StaticFiles(directory=folder), name="docs-assets")
    app.router.routes.extend(router.routes)


@router.get("/")
async def index(request: Request) -> Response:
    """Lead whoever opens the bare address to the documentation."""
    return RedirectResponse(below(_root(request), "/docs"))


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Swagger UI; not one address of it lies elsewhere."""
    root = _root(request)
    page = get_swagger_ui_html(
        openapi_url=below(root, "/openapi.json"),
        title=f"{request.app.title} API",
        swagger_js_url=below(root, f"{ASSETS}/swagger-ui-bundle.js"),
        swagger_css_url=below(root, f"{ASSETS}/swagger-ui.css"),
        swagger_favicon_url=below(root, f"{ASSETS}/favicon.png"),
        # Its standard is to have every document judged by a validator on the web.
        swagger_ui_parameters={"validatorUrl": None, "docExpansion": "list"},
    )
    return _guarded(page)


@router.get("/docs/errors")
async def error_guide() -> HTMLResponse:
    """Where the ``type`` of every problem document leads."""
    rows = "\n".join(
        f'<tr id="{error.code}"><td><code>{error.code}</code></td><td>{STATUS[error.kind]}</td>'
        f"<td>{html.escape(error.title)}</td><td>{_inline(GUIDE[error.code].when)}</td>"
        f"<td>{_inline(GUIDE[error.code].remedy)}</td></tr>"
        for error in catalogue()
    )
    return _guarded(HTMLResponse(_PAGE.replace("ROWS", rows)))


def _inline(text: str) -> str:
    pieces = html.escape(text).split("`")
    return "".join(
        f"<code>{piece}</code>" if place % 2 else piece for place, piece in enumerate(pieces)
    )


def _root(request: Request) -> str:
    root: str = request.scope.get("root_path", "")
    return root


def _guarded(page: HTMLResponse) -> HTMLResponse:
    page.headers["content-security-policy"] = _CONTENT_POLICY
    page.headers["x-content-type-options"] = "nosniff"
    return page


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Errors - Tidemill</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; }
td { border-top: 1px solid #ddd; }
tr:target { background: #fff6cc; }
</style>
</head>
<body>
<h1>Errors</h1>
<p>Every error is a problem document (RFC 9457). Decide by <code>code</code>; <code>detail</code> says
what happened, and <code>request_id</code> finds it in the log. A job that fails carries one of these
codes as <code>error.code</code>.</p>
<table>
<thead><tr><th>code</th><th>status</th><th>title</th><th>when</th><th>what to do</th></tr></thead>
<tbody>
ROWS
</tbody>
</table>
</body>
</html>
"""
