"""/api/v1/upload: opening, filling, reading and leaving a session; /api/v1/uploads: one upload."""

from typing import Annotated

from fastapi import Body, Request, Response

from app.api.dependencies import Forms, Owner, Sessions, Uploads
from app.api.idempotency import Idempotent, mark_replayed, replayable
from app.api.json_route import json_router
from app.api.multipart import FormRoute
from app.api.schemas.base import EXAMPLE_SESSION, SessionId, UploadId, absolute_below, below
from app.api.schemas.downloads import made
from app.api.schemas.forms import ADDING_FORM, OPENING_FORM, filled
from app.api.schemas.problems import problems
from app.api.schemas.sessions import TUS_ENDPOINT, NewSession, SessionOut, session_out
from app.api.schemas.uploads import UploadOut, upload_out
from app.api.session_form import receive_form
from app.api.tus.headers import MOST_JOBS_TOLD, completion_headers
from app.domain.errors import (
    AppError,
    ConflictingUpdate,
    Draining,
    IdempotencyKeyReused,
    InvalidHeader,
    InvalidInputs,
    InvalidParams,
    MalformedRequest,
    NoSpace,
    NotSupported,
    RequestTooLarge,
    SessionBatched,
    SessionClosed,
    SessionGone,
    SessionNotFound,
    StorageFailed,
    TrimOutOfRange,
    UnknownOperation,
    UnsupportedMediaType,
    UploadGone,
    UploadLocked,
    UploadNotFound,
    UploadTooLarge,
)
from app.services.form_uploads import Filled
from app.services.sessions import SessionView

router = json_router("uploads and sessions")
form_router = json_router(route_class=FormRoute)

_LOCATION = f"/api/v1/upload/{EXAMPLE_SESSION}"
_EXAMPLES = {
    "trim one clip": {
        "value": {
            "expected_files": 1,
            "then": {"operation": "trim", "params": {"start": 2, "end": 7}},
        }
    },
    "anything goes": {"value": {}},
}
_BODY_ERRORS: tuple[type[AppError], ...] = (
    MalformedRequest,
    NotSupported,
    RequestTooLarge,
    UnsupportedMediaType,
)
_FORM_ERRORS: tuple[type[AppError], ...] = (
    *(NoSpace, StorageFailed, UploadTooLarge, UploadGone),
    *(SessionClosed, Draining),
)


@form_router.post("/upload", status_code=201, include_in_schema=False)
async def open_session_with_files(
    request: Request, response: Response, owner: Owner, forms: Forms
) -> SessionOut:
    """See ``open_session``, which describes both."""
    async with receive_form(request, forms, None) as form:
        filled = await forms.open_session(owner, form.wishes, form.arrival)
    return _tell(request, response, filled)


@router.post(
    "/upload",
    status_code=201,
    summary="Open a session",
    responses={
        **replayable(filled(made(201, "Opened.", _LOCATION))),
        **problems(
            *(UnknownOperation, InvalidParams, InvalidInputs, TrimOutOfRange),
            *(ConflictingUpdate, IdempotencyKeyReused, InvalidHeader, SessionGone, Draining),
            *_BODY_ERRORS,
            *_FORM_ERRORS,
        ),
    },
    openapi_extra=OPENING_FORM,
)
async def open_session(
    request: Request,
    response: Response,
    owner: Owner,
    sessions: Sessions,
    idempotent: Idempotent,
    body: Annotated[NewSession | None, Body(openapi_examples=_EXAMPLES)] = None,
) -> SessionOut:
    """Group uploads that belong together.

    Upload by tus to `tus.endpoint` with `session` in Upload-Metadata. With `expected_files` the
    session becomes a batch by itself once so many uploads are complete; `then` starts at that
    moment and is checked now. Without `expected_files`: `POST /api/v1/batches`, and `then` starts
    with it.

    Small files may come along as an ordinary form (`multipart/form-data`): the field `files`, once
    for each, and the other fields as text, `then` as JSON. The parts may come in any order. A form is
    all or nothing: when it is refused or breaks off, nothing of it is kept. Larger files, and those
    that shall survive a lost connection, go by tus.

    An `Idempotency-Key` is for JSON only.
    """
    done = await sessions.create(owner, (body or NewSession()).to_domain(), idempotent)
    if done.is_replay:
        mark_replayed(response)
    return _answer(request, response, done.view)


@router.post(
    "/upload/{session_id}",
    status_code=201,
    summary="Put files into a session",
    responses={
        **filled(made(201, "Stored.", _LOCATION)),
        **problems(SessionNotFound, SessionGone, Draining, *_BODY_ERRORS, *_FORM_ERRORS),
    },
    openapi_extra=ADDING_FORM,
)
async def add_files(
    request: Request, response: Response, session_id: SessionId, owner: Owner, forms: Forms
) -> SessionOut:
    """More files for an open session, as an ordinary form with the field `files`, once for each.

    They join those that came before, by tus or as a form. When they are the last that were expected,
    the session is a batch, and `then` has started. A form is all or nothing.
    """
    session = await forms.find_open(owner, session_id)
    async with receive_form(request, forms, session) as form:
        filled = await forms.add(owner, session_id, form.arrival)
    return _tell(request, response, filled)


@router.get(
    "/upload/{session_id}",
    summary="Look at a session",
    responses=problems(SessionNotFound, SessionGone),
)
async def get_session(
    request: Request, session_id: SessionId, owner: Owner, sessions: Sessions
) -> SessionOut:
    """The session with its uploads and their offsets right now. Looking keeps it alive."""
    view = await sessions.get(owner, session_id)
    return session_out(view, _tus_endpoint(request))


@router.delete(
    "/upload/{session_id}",
    status_code=204,
    response_class=Response,
    summary="Leave a session",
    responses=problems(SessionNotFound, SessionGone, SessionBatched, UploadLocked),
)
async def delete_session(session_id: SessionId, owner: Owner, sessions: Sessions) -> Response:
    """Stops whoever writes into it, then removes it with its files. 409 once it is a batch."""
    await sessions.delete(owner, session_id)
    return Response(status_code=204)


@router.get(
    "/uploads/{upload_id}",
    summary="Look at an upload",
    responses=problems(UploadNotFound, UploadGone),
)
async def get_upload(upload_id: UploadId, owner: Owner, uploads: Uploads) -> UploadOut:
    """State, offset and batch of one upload; 410 with the reason once it was deleted."""
    return upload_out(await uploads.get(owner, upload_id))


def _tus_endpoint(request: Request) -> str:
    public_url: str | None = request.app.state.public_url
    return absolute_below(public_url, request.scope.get("root_path", ""), TUS_ENDPOINT)


def _answer(request: Request, response: Response, view: SessionView) -> SessionOut:
    root = request.scope.get("root_path", "")
    response.headers["location"] = below(root, f"/api/v1/upload/{view.session.id}")
    return session_out(view, _tus_endpoint(request))


def _tell(request: Request, response: Response, filled: Filled) -> SessionOut:
    """Answer with the headers that every response has which finishes uploads."""
    headers = completion_headers(filled.completion)
    headers["Tidemill-Upload"] = ",".join(filled.upload_ids)
    if len(filled.upload_ids) > MOST_JOBS_TOLD:
        del headers["Tidemill-Upload"]  # as with jobs: the body has them all
    response.headers.update(headers)
    return _answer(request, response, filled.view)
