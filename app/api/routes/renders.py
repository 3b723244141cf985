"""The synchronous endpoints: a clip comes with its wishes, the finished file goes out, nothing stays."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Response

from app.api.dependencies import Owner, Renders
from app.api.json_route import json_router
from app.api.render_fields import Shape, fields_of
from app.api.render_response import RenderResponse
from app.api.schemas.problems import problems
from app.api.schemas.renders import RENDERED, body_of
from app.domain.errors import (
    Draining,
    EmptyFile,
    InputDamaged,
    InputsDeleted,
    InvalidInputs,
    InvalidParams,
    JobGone,
    JobTimedOut,
    MalformedRequest,
    MediaOverLimits,
    NoSpace,
    NotAnImage,
    NotMedia,
    NotSupported,
    NoVideoStream,
    OutputGone,
    OutputNotFound,
    QueueFull,
    RenderCancelled,
    RenderFailed,
    RequestTooLarge,
    StorageFailed,
    TrimOutOfRange,
    UnknownOperation,
    UnsupportedCharacters,
    UnsupportedMediaType,
    UploadNotFound,
    UploadTooLarge,
    WorkerLost,
    WouldExceedTimeout,
)
from app.operations.base import Operation
from app.operations.registry import default_registry

router = json_router("renders", prefix="/api")


@dataclass(frozen=True, slots=True)
class _Call:
    """One address and what is done there."""

    path: str
    operation: str
    name: str
    summary: str
    shape: Shape = Shape.ONE


CALLS = (
    _Call("/intro/render", "intro", "render_intro", "Render an intro"),
    _Call("/announcement/render", "announcement", "render_announcement", "Render an announcement"),
    _Call("/how-it-works/render", "how-it-works", "render_how_it_works", "Render a how-it-works"),
    _Call("/persona/render", "persona", "render_persona", "Render a persona"),
    _Call("/demo/render", "demo", "render_demo", "Render a demo"),
    _Call("/closing/render", "closing", "render_closing", "Render a closing"),
    _Call("/trim", "trim", "render_trim", "Trim a clip"),
    _Call("/trim/preview", "trim-preview", "render_trim_preview", "Preview a trim"),
    _Call(
        *("/concatenate", "concatenate", "render_concatenation"),
        *("Concatenate clips that are there", Shape.JSON_SEGMENTS),
    ),
    _Call(
        *("/concatenate-multipart", "concatenate", "render_concatenation_of_files"),
        *("Concatenate clips that come along", Shape.FORM_SEGMENTS),
    ),
)
_ERRORS = problems(
    *(InvalidParams, InvalidInputs, InputsDeleted, UploadNotFound, OutputNotFound, OutputGone),
    *(EmptyFile, NotMedia, NotAnImage, NoVideoStream, MediaOverLimits, InputDamaged),
    *(TrimOutOfRange, UnsupportedCharacters, WouldExceedTimeout, UnknownOperation),
    *(QueueFull, Draining, NoSpace, StorageFailed, RenderFailed, WorkerLost, JobTimedOut),
    *(RenderCancelled, JobGone, UploadTooLarge),
    *(MalformedRequest, NotSupported, RequestTooLarge, UnsupportedMediaType),
)
_HOW = """\
Makes the job that `POST /api/v1/jobs` would make of it, waits for it and answers with its output.
All that the call brought and made is removed with it, whatever its end; what it names by an id stays.
A client that leaves cancels the render.

Files come as `multipart/form-data`; where everything is there already, JSON with the same fields will
do. Lists and objects in a form are JSON text, a list of texts may be a repeated field, and an empty
text field counts as left out. Nothing is sent before the result is there: proxies need time limits to
match."""


class _AnyText:
    """An alphabet for those who only look at what operations take."""

    def lacking(self, text: str) -> tuple[str, ...]:
        del text
        return ()


def _handler(call: _Call) -> Callable[..., Awaitable[Response]]:
    async def render(owner: Owner, renders: Renders) -> Response:
        fields = fields_of(renders.registry.get(call.operation), call.shape)
        return RenderResponse(renders, fields, owner)

    return render


def _add(call: _Call, operation: Operation) -> None:
    router.add_api_route(
        call.path,
        _handler(call),
        methods=["POST"],
        name=call.name,
        summary=call.summary,
        description=f"{operation.description}\n\n{_HOW}",
        response_class=Response,
        responses={**RENDERED, **_ERRORS},
        openapi_extra=body_of(fields_of(operation, call.shape)),
    )


def _add_all() -> None:
    known = {operation.name: operation for operation in default_registry(_AnyText()).all()}
    for call in CALLS:
        if call.operation in known:
            _add(call, known[call.operation])


_add_all()
