"""/api/upload and its other name /api/v1/logs: a Moodle log comes, a job is made of it."""

from fastapi import Request, Response

from app.api.dependencies import Logs, Owner
from app.api.json_route import json_router
from app.api.log_form import receive_log
from app.api.schemas.base import below
from app.api.schemas.logs import LOG_FORM, LOOKS, LogAccepted, accepted
from app.api.schemas.problems import problems
from app.api.tus.headers import completion_headers
from app.domain.errors import (
    Draining,
    InvalidParams,
    MalformedRequest,
    NoSpace,
    NotSupported,
    QueueFull,
    RequestTooLarge,
    StorageFailed,
    UnsupportedMediaType,
    UploadTooLarge,
)

router = json_router("logs")
short_router = json_router("logs", prefix="/api")

_RESPONSES = {
    **accepted(),
    **problems(
        *(InvalidParams, QueueFull, NoSpace, StorageFailed, UploadTooLarge, Draining),
        *(MalformedRequest, NotSupported, RequestTooLarge, UnsupportedMediaType),
        *LOOKS,
    ),
}


@short_router.post(
    "/upload",
    status_code=202,
    summary="Turn a Moodle log into an event log",
    responses=_RESPONSES,
    openapi_extra=LOG_FORM,
)
async def process_log(
    request: Request, response: Response, owner: Owner, logs: Logs
) -> LogAccepted:
    """Send the CSV export of a Moodle log as `file` (`multipart/form-data`), the wishes as text fields.

    The answer names the job; its output is a ZIP with `events.csv`, the same as `events.xes`,
    `summary.json` and `rejected.csv`. What the first 64 KiB of the file show to be no such log is
    refused at once. The log is removed as soon as the job has ended, however it did.

    Logs that shall survive a lost connection, or are larger than a form may be, go by tus, as the file
    of a session whose `then` is the operation `moodle-log`.
    """
    return await _take(request, response, owner, logs)


@router.post(
    "/logs",
    status_code=202,
    summary="Turn a Moodle log into an event log (another name)",
    responses=_RESPONSES,
    openapi_extra=LOG_FORM,
)
async def create_log(request: Request, response: Response, owner: Owner, logs: Logs) -> LogAccepted:
    """The same as `POST /api/upload`, for those who want all they call below `/api/v1`."""
    return await _take(request, response, owner, logs)


async def _take(request: Request, response: Response, owner: str, logs: Logs) -> LogAccepted:
    async with receive_log(request, logs) as form:
        done = await logs.start(owner, form.params, form.timeout_seconds, form.arrival)
    (job_id,) = done.job_ids
    response.headers.update(completion_headers(done))
    root = request.scope.get("root_path", "")
    response.headers["location"] = below(root, f"/api/v1/jobs/{job_id}")
    return LogAccepted(job_id=job_id)
