"""/api/v1/outputs: the bytes that jobs produced."""

from fastapi import APIRouter, Response

from app.api.dependencies import Outputs, Owner
from app.api.file_response import FileResponse, StoredFile
from app.api.json_route import JsonRoute
from app.api.schemas.base import OutputId
from app.api.schemas.downloads import DOWNLOAD, DOWNLOAD_HEAD
from app.api.schemas.problems import problems
from app.domain.errors import (
    JobRunning,
    OutputGone,
    OutputNotFound,
    OutputNotReady,
    RangeNotSatisfiable,
    StorageFailed,
)
from app.services.outputs import OutputService

router = APIRouter(route_class=JsonRoute, tags=["outputs"])

_ABSENT = (OutputNotFound, OutputGone, OutputNotReady, StorageFailed)


@router.get(
    "/outputs/{output_id}",
    response_class=Response,
    summary="Download an output",
    responses={**DOWNLOAD, **problems(*_ABSENT, RangeNotSatisfiable)},
)
async def get_output(output_id: OutputId, owner: Owner, outputs: Outputs) -> Response:
    """The bytes, as an attachment. Range, If-Range, If-None-Match and If-Modified-Since work."""
    return await send_output(outputs, owner, output_id)


@router.head(
    "/outputs/{output_id}",
    response_class=Response,
    summary="Ask what a download would be",
    responses={**DOWNLOAD_HEAD, **problems(*_ABSENT)},
)
async def head_output(output_id: OutputId, owner: Owner, outputs: Outputs) -> Response:
    """The headers of GET: length, name, ETag and digest."""
    return await send_output(outputs, owner, output_id)


@router.delete(
    "/outputs/{output_id}",
    status_code=204,
    response_class=Response,
    summary="Remove an output",
    responses=problems(OutputNotFound, OutputGone, OutputNotReady, JobRunning),
)
async def delete_output(output_id: OutputId, owner: Owner, outputs: Outputs) -> Response:
    """Its bytes go at once; its job stays and says so."""
    await outputs.delete(owner, output_id)
    return Response(status_code=204)


async def send_output(outputs: OutputService, owner: str, output_id: str) -> Response:
    """Return the response that sends an output's bytes."""
    output, path = await outputs.get(owner, output_id)
    file = StoredFile(
        path=path,
        filename=output.filename,
        media_type=output.media_type,
        modified_at=output.created_at,
        sha256=output.sha256,
    )
    return FileResponse(file, missing=OutputGone("The output has just been deleted."))
