"""/api/v1/batches: making, reading and removing batches."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.api.dependencies import Batches, Owner
from app.api.json_route import JsonRoute
from app.api.pagination import PageDep, encode_cursor
from app.api.schemas.base import EXAMPLE_BATCH, BatchId, below
from app.api.schemas.batches import BatchList, BatchOut, NewBatch, batch_out
from app.api.schemas.downloads import made
from app.api.schemas.problems import problems
from app.domain.errors import (
    BatchGone,
    BatchNotFound,
    ConflictingUpdate,
    JobRunning,
    MalformedRequest,
    NotSupported,
    RequestTooLarge,
    SessionEmpty,
    SessionGone,
    SessionNotFound,
    UnsupportedMediaType,
    UploadsUnfinished,
)

router = APIRouter(route_class=JsonRoute, tags=["batches"])


@router.post(
    "/batches",
    status_code=201,
    summary="Make a session a batch",
    responses={
        **made(201, "Made now.", f"/api/v1/batches/{EXAMPLE_BATCH}"),
        200: {"model": BatchOut, "description": "The session was a batch already: this one."},
        **problems(
            SessionNotFound,
            SessionGone,
            SessionEmpty,
            UploadsUnfinished,
            MalformedRequest,
            NotSupported,
            RequestTooLarge,
            UnsupportedMediaType,
        ),
    },
)
async def create_batch(
    request: Request, response: Response, body: NewBatch, owner: Owner, batches: Batches
) -> BatchOut:
    """For sessions without `expected_files`, or to go on with fewer files than expected.

    Every upload of the session must be complete: 409 lists those that are not. Asking again is
    harmless and answers 200 with the same batch.
    """
    view, created = await batches.create(owner, body.session_id)
    response.status_code = 201 if created else 200
    root = request.scope.get("root_path", "")
    response.headers["location"] = below(root, f"/api/v1/batches/{view.batch.id}")
    return batch_out(view)


@router.get("/batches", summary="List batches", responses=problems())
async def list_batches(owner: Owner, batches: Batches, page: PageDep) -> BatchList:
    """Newest first, in pages."""
    views, following = await batches.list(owner, page.cursor, page.limit)
    cursor = encode_cursor(following) if following else None
    return BatchList(items=[batch_out(view) for view in views], next=cursor)


@router.get(
    "/batches/{batch_id}",
    summary="Look at a batch",
    responses=problems(BatchNotFound, BatchGone),
)
async def get_batch(batch_id: BatchId, owner: Owner, batches: Batches) -> BatchOut:
    """Its files, its jobs and the status derived from them. Looking moves its expiry on."""
    return batch_out(await batches.get(owner, batch_id))


@router.delete(
    "/batches/{batch_id}",
    status_code=204,
    response_class=Response,
    summary="Remove a batch",
    responses=problems(BatchNotFound, BatchGone, JobRunning, ConflictingUpdate),
)
async def delete_batch(
    batch_id: BatchId,
    owner: Owner,
    batches: Batches,
    cancel: Annotated[bool, Query(description="End jobs that still run, too.")] = False,  # noqa: FBT002
) -> Response:
    """Removes its files, its jobs and their outputs. 409 while jobs run, unless `cancel=true`."""
    await batches.delete(owner, batch_id, cancel=cancel)
    return Response(status_code=204)
