"""/api/v1/outputs: the bytes that jobs produced."""

import structlog
from fastapi import Request, Response

from app.api.dependencies import Outputs, Owner
from app.api.file_response import FileResponse, OnSent, Sent, StoredFile
from app.api.json_route import json_router
from app.api.schemas.base import OutputId
from app.api.schemas.downloads import DOWNLOAD, DOWNLOAD_HEAD
from app.api.schemas.outputs import OutputChange, OutputOut, output_out
from app.api.schemas.problems import problems
from app.domain.errors import (
    AppError,
    ConflictingUpdate,
    JobRunning,
    MalformedRequest,
    OutputGone,
    OutputNotFound,
    OutputNotReady,
    PreconditionFailed,
    RangeNotSatisfiable,
    RequestTooLarge,
    StorageFailed,
    UnsupportedMediaType,
)
from app.domain.outputs import Output, OutputStatus
from app.services.outputs import OutputService

log = structlog.get_logger(__name__)

router = json_router("outputs")

_ABSENT = (OutputNotFound, OutputGone, OutputNotReady, StorageFailed)


@router.get(
    "/outputs/{output_id}",
    response_class=Response,
    summary="Download an output",
    responses={**DOWNLOAD, **problems(*_ABSENT, PreconditionFailed, RangeNotSatisfiable)},
)
async def get_output(output_id: OutputId, owner: Owner, outputs: Outputs) -> Response:
    """The bytes, as an attachment. Range, If-Range and the other conditions of RFC 9110 work.

    One of a `one_time` job is `delivered` once downloads that came to their end, whole or in parts,
    have brought every byte of it to its owner's system; it goes after a grace. `DELETE` is the
    certain receipt: what is delivered to a proxy may never have come further.
    """
    return await send_output(outputs, owner, output_id)


@router.head(
    "/outputs/{output_id}",
    response_class=Response,
    summary="Ask what a download would be",
    responses={**DOWNLOAD_HEAD, **problems(*_ABSENT, PreconditionFailed)},
)
async def head_output(output_id: OutputId, owner: Owner, outputs: Outputs) -> Response:
    """The headers of GET: length, name, ETag and digest."""
    return await send_output(outputs, owner, output_id)


@router.patch(
    "/outputs/{output_id}",
    summary="Keep an output longer or shorter",
    responses=problems(
        *(OutputNotFound, OutputGone, OutputNotReady, ConflictingUpdate),
        *(MalformedRequest, RequestTooLarge, UnsupportedMediaType),
    ),
)
async def move_output_expiry(
    request: Request, output_id: OutputId, body: OutputChange, owner: Owner, outputs: Outputs
) -> OutputOut:
    """Moves its end; its job stays as long. 422 for one that was delivered: it goes anyway."""
    output = await outputs.move_expiry(owner, output_id, body.expires_at)
    return output_out(output, request.scope.get("root_path", ""))


@router.delete(
    "/outputs/{output_id}",
    status_code=204,
    response_class=Response,
    summary="Remove an output",
    responses=problems(OutputNotFound, OutputGone, OutputNotReady, JobRunning),
)
async def delete_output(output_id: OutputId, owner: Owner, outputs: Outputs) -> Response:
    """Its bytes go at once; its job stays. Of a one-time output this is the client's receipt."""
    await outputs.delete(owner, output_id)
    return Response(status_code=204)


async def send_output(outputs: OutputService, owner: str, output_id: str) -> Response:
    """Return the response that sends an output's bytes and, of a one-time one, notes their delivery."""
    output, path = await outputs.get(owner, output_id)
    file = StoredFile(
        path=path,
        filename=output.filename,
        media_type=output.media_type,
        modified_at=output.created_at,
        sha256=output.sha256,
        size_bytes=output.size_bytes,
    )
    return FileResponse(
        file,
        missing=OutputGone("The output has just been deleted."),
        on_sent=_note_delivery(outputs, owner, output),
    )


def _note_delivery(outputs: OutputService, owner: str, output: Output) -> OnSent | None:
    if not output.one_time or output.status is OutputStatus.DELIVERED:
        return None

    async def note(sent: Sent) -> None:
        if not sent.is_taken:
            return
        try:
            await outputs.deliveries.record(output.id, owner, sent.span)
        except AppError as error:
            # The answer is over: all that is lost is that the output stays longer.
            log.warning("delivery.not_recorded", output_id=output.id, code=error.code)

    return note
