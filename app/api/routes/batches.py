"""/api/v1/batches: making, reading and removing batches."""

from typing import Annotated

from fastapi import Query, Request, Response

from app.api.dependencies import Batches, Owner
from app.api.idempotency import Idempotent, mark_replayed, replayable
from app.api.json_route import json_router
from app.api.pagination import PageDep, encode_cursor
from app.api.schemas.base import EXAMPLE_BATCH, BatchId, below
from app.api.schemas.batches import BatchList, BatchOut, ChangedBatch, NewBatch, batch_out
from app.api.schemas.downloads import made
from app.api.schemas.problems import problems
from app.domain.errors import (
    BatchGone,
    BatchNotFound,
    ConflictingUpdate,
    Draining,
    IdempotencyKeyReused,
    InvalidHeader,
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

router = json_router("batches")


_LOCATION = f"/api/v1/batches/{EXAMPLE_BATCH}"


@router.post(
    "/batches",
    status_code=201,
    summary="Make a session a batch",
    responses={
        **replayable(
            {
                **made(201, "Made now.", _LOCATION),
                200: {
                    **made(200, "The session was a batch already: this one.", _LOCATION)[200],
                    "model": BatchOut,
                },
            }
        ),
        **problems(
            *(SessionNotFound, SessionGone, SessionEmpty, UploadsUnfinished, BatchGone),
            *(IdempotencyKeyReused, InvalidHeader, Draining),
            *(MalformedRequest, NotSupported, RequestTooLarge, UnsupportedMediaType),
        ),
    },
)
async def create_batch(
    request: Request,
    response: Response,
    body: NewBatch,
    owner: Owner,
    batches: Batches,
    idempotent: Idempotent,
) -> BatchOut:
    """For sessions without `expected_files`, or to go on with fewer files than expected.

    Every upload of the session must be complete: 409 lists those that are not. With
    `only_completed` they end instead: who still writes one is stopped, its bytes go, and its URL
    answers 410. Asking again is harmless and answers 200 with the same batch; with an
    `Idempotency-Key`, the same request sent again is answered as the first one was.
    """
    answer = await batches.create(owner, body.session_id, body.only_completed, idempotent)
    if answer.is_replay:
        mark_replayed(response)
    response.status_code = 201 if answer.is_new else 200
    root = request.scope.get("root_path", "")
    response.headers["location"] = below(root, f"/api/v1/batches/{answer.view.batch.id}")
    return batch_out(answer.view)


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
    """Its files, its jobs and the status derived from them. Looking moves its expiry on, unless
    a client has put it somewhere.
    """
    return batch_out(await batches.get(owner, batch_id))


@router.patch(
    "/batches/{batch_id}",
    summary="Keep a batch or its files for another time",
    responses=problems(
        *(BatchNotFound, BatchGone),
        *(MalformedRequest, NotSupported, RequestTooLarge, UnsupportedMediaType),
    ),
)
async def change_batch(
    batch_id: BatchId, body: ChangedBatch, owner: Owner, batches: Batches
) -> BatchOut:
    """Moves `expires_at`, or `keep_inputs_hours` also for jobs that have ended, forward or back.

    A batch never ends before its files may go: while a job reads them, after a failed or cancelled
    one for as long as a retry is possible, after a completed one for `keep_inputs_hours`. An end
    that was asked for stays: looking at the batch does not move it on any more, a new job does.
    Files that are gone stay gone.
    """
    return batch_out(await batches.change(owner, batch_id, body.to_domain()))


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
