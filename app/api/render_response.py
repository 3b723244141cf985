"""The answer of a synchronous call: made while the client waits, streamed, and gone with it."""

import json
import re
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.connection import connection_of
from app.api.file_response import FileResponse, StoredFile
from app.api.render_fields import RenderFields
from app.api.render_form import RenderBody
from app.api.schemas.base import below
from app.api.schemas.jobs import job_out
from app.api.source_file import SourceFile
from app.domain.delivery import ByteSpan
from app.domain.errors import OutputGone
from app.services.job_views import JobView
from app.services.sync_renders import ClientLeft, Rendered, SyncRender, SyncRenders

ASYNC = "respond-async"
MOST_TOLD = 2000
"""Characters of a header: proxies refuse an answer whose headers are larger than 4 or 8 KiB."""
NOBODY = 499
"""What the log and the metrics say where a client left before its answer; none ever sees it."""

_ASYNC = re.compile(r"(?:^|,)\s*respond-async\s*(?:;|,|$)", re.IGNORECASE)


class RenderResponse(Response):
    """Does all the work of one call, since what it brings and makes lasts as long as its answer."""

    def __init__(self, renders: SyncRenders, fields: RenderFields, owner: str) -> None:
        super().__init__()
        self._renders = renders
        self._fields = fields
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, connection = Request(scope, receive), connection_of(scope)
        # Who wants no wait has asked for work that goes on without anybody there.
        if connection is not None and not _wants_no_wait(request):
            connection.leave_with_client()
        try:
            response = await self._answer(request, receive, send)
        except ClientLeft:
            response = Response(status_code=NOBODY)
        if response is not None:
            await response(scope, receive, send)

    async def _answer(self, request: Request, receive: Receive, send: Send) -> Response | None:
        renders, scope = self._renders, request.scope
        operation = self._fields.operation
        body = RenderBody(request, renders.forms, self._fields)
        await renders.check_can_begin(operation, body.length)
        async with renders.open(self._owner, operation) as render:
            wish = await body.read(render)
            if _wants_no_wait(request):
                view = await render.start(wish)
                await render.release()
                return _accepted(request, view)
            rendered = await render.finish(wish, lambda: _until_gone(receive))
            await RenderedFile(rendered, render)(scope, receive, send)
        return None


class RenderedFile(FileResponse):
    """The result of a render, once: no part of it can be asked for, and it is not to be kept."""

    def __init__(self, rendered: Rendered, render: SyncRender) -> None:
        output = rendered.output
        file = StoredFile(
            path=rendered.path,
            filename=output.filename,
            media_type=output.media_type,
            modified_at=output.created_at,
            sha256=output.sha256,
            size_bytes=output.size_bytes,
        )
        super().__init__(file, missing=OutputGone("The output has just been deleted."))
        self._told = told_besides(rendered)
        self._render = render
        self._size = 0

    async def _answer(self, source: SourceFile, scope: Scope, receive: Receive, send: Send) -> None:
        self._size = source.size_bytes
        span = ByteSpan(0, self._size)
        self._render.note_sent(0, is_whole=False)
        await self._render.remove()  # we have it open
        await self._start(send, 200, self._describe(span, self._size, 200))
        await self._send_span(source, span, scope, receive, send)

    async def _tell(self, span: ByteSpan, *, is_taken: bool) -> None:
        del is_taken  # to wait for that would keep the files
        self._render.note_sent(span.length, is_whole=span.length == self._size)

    def _validators(self) -> dict[str, str]:
        return {"cache-control": "no-store"}

    def _describe(self, span: ByteSpan, size: int, status: int) -> dict[str, str]:
        headers = super()._describe(span, size, status)
        del headers["accept-ranges"]
        return {**headers, "tidemill-job": self._render.job_id, "tidemill-result": self._told}


def told_besides(rendered: Rendered) -> str:
    """Return as JSON in ASCII what the job tells of its result, with its ``warnings``.

    Of what would be more than ``MOST_TOLD`` characters, lists and objects are left out, then warnings
    from the last on, then the rest; ``is_shortened`` says so.
    """
    facts = dict(rendered.result)
    warnings = list(rendered.warnings)
    said = json.dumps({**facts, "warnings": warnings})
    if len(said) > MOST_TOLD:
        facts = {name: fact for name, fact in facts.items() if not isinstance(fact, list | dict)}
        said = json.dumps({**facts, "warnings": warnings, "is_shortened": True})
    while len(said) > MOST_TOLD and warnings:
        warnings.pop()
        said = json.dumps({**facts, "warnings": warnings, "is_shortened": True})
    return said if len(said) <= MOST_TOLD else json.dumps({"is_shortened": True})


def _wants_no_wait(request: Request) -> bool:
    return any(_ASYNC.search(value) for value in request.headers.getlist("prefer"))


def _accepted(request: Request, view: JobView) -> Response:
    root = request.scope.get("root_path", "")
    headers: Mapping[str, str] = {
        "location": below(root, f"/api/v1/jobs/{view.job.id}"),
        "preference-applied": ASYNC,
        "tidemill-job": view.job.id,
    }
    body = job_out(view, root).model_dump_json()
    return Response(body, 202, headers=headers, media_type="application/json")


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
