"""/api/v1/jobs and /api/v1/operations: asking for work and watching it."""

from typing import Annotated

from fastapi import Depends, Query, Request, Response

from app.api.dependencies import Jobs, Outputs, Owner
from app.api.idempotency import Idempotent, mark_replayed, replayable
from app.api.json_route import json_router
from app.api.pagination import PageDep, encode_cursor
from app.api.routes.outputs import send_output
from app.api.schemas.base import EXAMPLE_JOB, JobId, below
from app.api.schemas.downloads import DOWNLOAD, DOWNLOAD_HEAD, made
from app.api.schemas.jobs import (
    JobChange,
    JobList,
    JobOut,
    NewJobIn,
    OperationList,
    job_out,
    operation_out,
)
from app.api.schemas.logs import LOOKS
from app.api.schemas.problems import problems
from app.domain.errors import (
    AppError,
    BatchGone,
    BatchNotFound,
    CannotCopy,
    ConflictingUpdate,
    Draining,
    EmptyFile,
    IdempotencyKeyReused,
    InputDamaged,
    InputsDeleted,
    InvalidHeader,
    InvalidInputs,
    InvalidParams,
    JobFinished,
    JobGone,
    JobNotFound,
    JobRunning,
    JobTimedOut,
    MalformedRequest,
    MediaOverLimits,
    NotAnImage,
    NotMedia,
    NotSupported,
    NoVideoStream,
    OutputGone,
    OutputNotFound,
    OutputNotReady,
    PreconditionFailed,
    QueueFull,
    RangeNotSatisfiable,
    RequestTooLarge,
    StorageFailed,
    TrimOutOfRange,
    UnknownOperation,
    UnsupportedCharacters,
    UnsupportedMediaType,
    UploadNotFound,
    WouldExceedTimeout,
)
from app.domain.jobs import JobStatus
from app.services.job_views import JobView
from app.services.ports import JobFilter

router = json_router("jobs")

ASK_AGAIN_SECONDS = 1


async def _get_filter(
    batch_id: Annotated[
        str | None, Query(pattern="^[0-9a-f]{32}$", description="Jobs of this batch only.")
    ] = None,
    status: Annotated[JobStatus | None, Query(description="Jobs in this state only.")] = None,
    operation: Annotated[
        str | None, Query(max_length=64, description="Jobs of this operation only.")
    ] = None,
) -> JobFilter:
    return JobFilter(batch_id, status, operation)


Where = Annotated[JobFilter, Depends(_get_filter)]


@router.get("/operations", summary="What can be done", responses=problems())
async def list_operations(jobs: Jobs) -> OperationList:
    """Every operation with its inputs and the JSON Schema of its parameters."""
    return OperationList(items=[operation_out(view) for view in jobs.operations()], next=None)


@router.post(
    "/jobs",
    status_code=202,
    summary="Start a job",
    responses={
        **replayable(made(202, "Queued.", f"/api/v1/jobs/{EXAMPLE_JOB}")),
        **problems(
            *(IdempotencyKeyReused, InvalidHeader, JobGone, WouldExceedTimeout, Draining),
            *(UnknownOperation, InvalidParams, InvalidInputs, InputsDeleted),
            *(BatchNotFound, BatchGone, UploadNotFound, OutputNotFound, QueueFull),
            *(NotMedia, EmptyFile, NoVideoStream, MediaOverLimits, TrimOutOfRange, InputDamaged),
            *(CannotCopy, JobTimedOut, StorageFailed, NotAnImage, UnsupportedCharacters),
            *LOOKS,
            *(MalformedRequest, NotSupported, RequestTooLarge, UnsupportedMediaType),
        ),
    },
)
async def create_job(
    request: Request,
    response: Response,
    body: NewJobIn,
    owner: Owner,
    jobs: Jobs,
    idempotent: Idempotent,
) -> JobOut:
    """Queue an operation on uploads of batches or on outputs of other jobs.

    What cannot work is refused now: clips are looked at, and the parameters are held against them.
    With an `Idempotency-Key`, the same request sent again answers with the job that the first made.
    """
    wish = body.to_domain(jobs.main_role(body.operation))
    answer = await jobs.create(owner, wish, idempotent)
    if answer.is_replay:
        mark_replayed(response)
    return _accepted(request, response, answer.view)


@router.get("/jobs", summary="List jobs", responses=problems())
async def list_jobs(
    request: Request,
    owner: Owner,
    jobs: Jobs,
    page: PageDep,
    where: Where,
) -> JobList:
    """Newest first, in pages; narrowed by batch, status and operation."""
    views, following = await jobs.list(owner, where, page.cursor, page.limit)
    root = request.scope.get("root_path", "")
    cursor = encode_cursor(following) if following else None
    return JobList(items=[job_out(view, root) for view in views], next=cursor)


@router.get("/jobs/{job_id}", summary="Look at a job", responses=problems(JobNotFound, JobGone))
async def get_job(request: Request, job_id: JobId, owner: Owner, jobs: Jobs) -> JobOut:
    """Its status, progress, error and outputs, as they are now."""
    return job_out(await jobs.get(owner, job_id), request.scope.get("root_path", ""))


@router.post(
    "/jobs/{job_id}/cancel",
    summary="Cancel a job",
    responses=problems(JobNotFound, JobGone, JobFinished, ConflictingUpdate, NotSupported),
)
async def cancel_job(request: Request, job_id: JobId, owner: Owner, jobs: Jobs) -> JobOut:
    """Queued ones end at once, running ones within a second. Asking again is harmless."""
    return job_out(await jobs.cancel(owner, job_id), request.scope.get("root_path", ""))


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    summary="Try a job again",
    responses={
        **made(202, "Queued again.", f"/api/v1/jobs/{EXAMPLE_JOB}"),
        **problems(
            *(JobNotFound, JobGone, JobRunning, JobFinished, InputsDeleted, QueueFull),
            *(ConflictingUpdate, NotSupported, Draining),
        ),
    },
)
async def retry_job(
    request: Request, response: Response, job_id: JobId, owner: Owner, jobs: Jobs
) -> JobOut:
    """The same job once more, from failed or cancelled, with all its attempts; its inputs must still be
    there (410).
    """
    return _accepted(request, response, await jobs.retry(owner, job_id))


@router.patch(
    "/jobs/{job_id}",
    summary="Keep a job longer or shorter",
    responses=problems(
        *(JobNotFound, JobGone, JobRunning, ConflictingUpdate),
        *(MalformedRequest, RequestTooLarge, UnsupportedMediaType),
    ),
)
async def move_job_expiry(
    request: Request, job_id: JobId, body: JobChange, owner: Owner, jobs: Jobs
) -> JobOut:
    """Moves the end of a job that has ended, and of all its outputs with it."""
    view = await jobs.move_expiry(owner, job_id, body.expires_at)
    return job_out(view, request.scope.get("root_path", ""))


@router.delete(
    "/jobs/{job_id}",
    status_code=204,
    response_class=Response,
    summary="Remove a job",
    responses=problems(JobNotFound, JobGone, JobRunning, ConflictingUpdate),
)
async def delete_job(
    job_id: JobId,
    owner: Owner,
    jobs: Jobs,
    cancel: Annotated[bool, Query(description="End it first if it runs.")] = False,  # noqa: FBT002
) -> Response:
    """Removes the job and its outputs; its inputs stay. 409 while it runs, unless `cancel=true`."""
    await jobs.delete(owner, job_id, cancel=cancel)
    return Response(status_code=204)


@router.get(
    "/jobs/{job_id}/output",
    response_class=Response,
    summary="Download a job's one output",
    responses={
        **DOWNLOAD,
        **problems(
            *(JobNotFound, JobGone, OutputNotReady, OutputGone, StorageFailed),
            *(PreconditionFailed, RangeNotSatisfiable),
        ),
    },
)
async def get_job_output(
    request: Request, job_id: JobId, owner: Owner, jobs: Jobs, outputs: Outputs
) -> Response:
    """The bytes, as from `/api/v1/outputs/{id}`. 409 with Retry-After while the job is active."""
    view = await jobs.get(owner, job_id)
    if view.job.status is JobStatus.COMPLETED and not view.outputs:
        raise await outputs.why_missing(owner, job_id)
    if view.job.status is not JobStatus.COMPLETED or len(view.outputs) != 1:
        raise _no_output(view, request.scope.get("root_path", ""))
    return await send_output(outputs, owner, view.outputs[0].id)


@router.head(
    "/jobs/{job_id}/output",
    response_class=Response,
    summary="Ask what a job's one output is",
    responses={
        **DOWNLOAD_HEAD,
        **problems(JobNotFound, JobGone, OutputNotReady, OutputGone, StorageFailed),
    },
)
async def head_job_output(
    request: Request, job_id: JobId, owner: Owner, jobs: Jobs, outputs: Outputs
) -> Response:
    """The headers of GET."""
    return await get_job_output(request, job_id, owner, jobs, outputs)


def _accepted(request: Request, response: Response, view: JobView) -> JobOut:
    root = request.scope.get("root_path", "")
    response.headers["location"] = below(root, f"/api/v1/jobs/{view.job.id}")
    return job_out(view, root)


def _no_output(view: JobView, root_path: str) -> AppError:
    job = view.job
    facts = {"job_id": job.id, "job_status": job.status.value}
    if job.status.is_active:
        return OutputNotReady(
            "The job has not finished yet; ask again later.",
            extra={**facts, "progress": round(job.progress, 1)},
            retry_after_seconds=ASK_AGAIN_SECONDS,
        )
    if job.status is JobStatus.FAILED and job.error is not None:
        msg = f"The job failed and has no output: {job.error.message}"
        return OutputNotReady(msg, extra={**facts, "error_code": job.error.code})
    if job.status is not JobStatus.COMPLETED:
        return OutputNotReady(f"The job was {job.status} and has no output.", extra=facts)
    urls = [below(root_path, f"/api/v1/outputs/{output.id}") for output in view.outputs]
    msg = f"The job has {len(urls)} outputs; download each by its own address."
    return OutputNotReady(msg, extra={**facts, "outputs": urls})
