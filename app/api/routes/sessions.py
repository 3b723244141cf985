"""/api/v1/upload: opening, reading and leaving a session; /api/v1/uploads: looking at one upload."""

from typing import Annotated

from fastapi import APIRouter, Body, Request, Response

from app.api.dependencies import Owner, Sessions, Uploads
from app.api.json_route import JsonRoute
from app.api.schemas.base import EXAMPLE_SESSION, SessionId, UploadId, absolute_below, below
from app.api.schemas.downloads import made
from app.api.schemas.problems import problems
from app.api.schemas.sessions import TUS_ENDPOINT, NewSession, SessionOut, session_out
from app.api.schemas.uploads import UploadOut, upload_out
from app.domain.errors import (
    InvalidInputs,
    InvalidParams,
    MalformedRequest,
    NotSupported,
    RequestTooLarge,
    SessionBatched,
    SessionGone,
    SessionNotFound,
    TrimOutOfRange,
    UnknownOperation,
    UnsupportedMediaType,
    UploadGone,
    UploadLocked,
    UploadNotFound,
)

router = APIRouter(route_class=JsonRoute, tags=["uploads and sessions"])

_EXAMPLES = {
    "trim one clip": {
        "value": {
            "expected_files": 1,
            "then": {"operation": "trim", "params": {"start": 2, "end": 7}},
        }
    },
    "anything goes": {"value": {}},
}


@router.post(
    "/upload",
    status_code=201,
    summary="Open a session",
    responses={
        **made(201, "Opened.", f"/api/v1/upload/{EXAMPLE_SESSION}"),
        **problems(
            UnknownOperation,
            InvalidParams,
            InvalidInputs,
            TrimOutOfRange,
            MalformedRequest,
            NotSupported,
            RequestTooLarge,
            UnsupportedMediaType,
        ),
    },
)
async def open_session(
    request: Request,
    response: Response,
    owner: Owner,
    sessions: Sessions,
    body: Annotated[NewSession | None, Body(openapi_examples=_EXAMPLES)] = None,
) -> SessionOut:
    """Group uploads that belong together.

    Upload by tus to `tus.endpoint` with `session` in Upload-Metadata. With `expected_files` the
    session becomes a batch by itself once so many uploads are complete; `then` starts at that
    moment and is checked now. Without `expected_files`: `POST /api/v1/batches`. Files as multipart
    are not taken yet (415).
    """
    new = body or NewSession()
    then = new.then.to_domain() if new.then else None
    view = await sessions.create(owner, new.expected_files, then)
    root = request.scope.get("root_path", "")
    response.headers["location"] = below(root, f"/api/v1/upload/{view.session.id}")
    return session_out(view, _tus_endpoint(request))


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
