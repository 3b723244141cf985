"""/api/v1/…/events: following a job or a batch by Server-Sent Events."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response

from app.api.dependencies import ContainerDep, Owner
from app.api.event_stream import MEDIA_TYPE, EventStream, Followed, Snapshot
from app.api.json_route import json_router
from app.api.schemas.base import EXAMPLE_BATCH, EXAMPLE_JOB, BatchId, JobId
from app.api.schemas.batches import batch_out
from app.api.schemas.jobs import job_out
from app.api.schemas.problems import Responses, problems
from app.domain.batches import BatchStatus
from app.domain.errors import BatchGone, BatchNotFound, JobGone, JobNotFound
from app.domain.tombstones import ThingKind
from app.services.batches import BatchView
from app.services.container import Container
from app.services.job_watch import Subject, batch_version

router = json_router()

_KNOWN: Responses = {
    204: {
        "description": "The client has seen the end already: its `Last-Event-ID` is that of the `end`"
        " event. An EventSource stops coming back at this status."
    }
}
_STREAM_HEADERS: dict[str, Any] = {
    "Cache-Control": {"schema": {"type": "string"}, "example": "no-store"},
    "X-Accel-Buffering": {
        "description": "Tells nginx to pass every event on at once.",
        "schema": {"type": "string"},
        "example": "no",
    },
}


_EVENT: dict[str, Any] = {
    "description": "One event. Its fields are lines, as the HTML standard has them.",
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string", "enum": ["state", "end", "gone"]},
        "id": {"type": "string", "description": "What to send as `Last-Event-ID`."},
        "data": {"type": "string", "description": "The JSON that GET answers, in one line."},
    },
}


def _stream(**example: str) -> Responses:
    content = {MEDIA_TYPE: {"schema": _EVENT, "example": example}}
    description = "Events until the end; a comment now and then keeps the connection alive."
    return {
        200: {"description": description, "content": content, "headers": _STREAM_HEADERS},
        **_KNOWN,
    }


_HEAD: Responses = {
    200: {"description": "The headers of GET.", "headers": _STREAM_HEADERS},
    **_KNOWN,
}


@dataclass(frozen=True, slots=True)
class _Follower:
    """Who asks for events. ``known``: the id of the last event it got."""

    owner: str
    root_path: str
    known: str | None
    container: Container

    def follow(self, followed: Followed) -> Response:
        """Return the stream, or that there is nothing left to tell."""
        if followed.first.is_last and followed.first.version == self.known:
            return Response(status_code=204, headers={"cache-control": "no-store"})
        return EventStream(followed, self.container.watch, self.container.drain)


async def _get_follower(
    request: Request,
    owner: Owner,
    container: ContainerDep,
    last_event_id: Annotated[
        str | None,
        Header(
            description="The id of the last event that came: what the client has is not sent again."
            " An id that is not known here is as good as none."
        ),
    ] = None,
) -> _Follower:
    return _Follower(owner, request.scope.get("root_path", ""), last_event_id, container)


Follower = Annotated[_Follower, Depends(_get_follower)]


@router.get(
    "/jobs/{job_id}/events",
    tags=["jobs"],
    response_class=Response,
    summary="Follow a job",
    responses={
        **_stream(event="end", id="9", data=f'{{"id":"{EXAMPLE_JOB}","status":"completed", …}}'),
        **problems(JobNotFound, JobGone),
    },
)
async def get_job_events(job_id: JobId, follower: Follower) -> Response:
    """Server-Sent Events: the job as it is now, then each change, at most a few in a second.

    `state`: the job, as GET answers it. `end`: the same, once it is completed, failed or cancelled;
    then the stream closes, for those who come late too. `gone`: it was deleted; the data is the
    problem that GET answers. The id is the version of the job. When the service stops, a stream ends
    early with a `retry:` line: come back with `Last-Event-ID` and nothing is missed.

    A browser's EventSource cannot send an `Authorization` header: where a key is asked for, read
    the stream with `fetch`, or poll.
    """
    jobs = follower.container.jobs

    async def look() -> Snapshot:
        view = await jobs.get(follower.owner, job_id)
        body = job_out(view, follower.root_path).model_dump_json().encode()
        return Snapshot(str(view.job.version), body, is_last=not view.job.status.is_active)

    subject = Subject(ThingKind.JOB, job_id)
    return follower.follow(Followed(subject, look, await look(), follower.known))


@router.head(
    "/jobs/{job_id}/events",
    tags=["jobs"],
    response_class=Response,
    summary="Ask whether a job can be followed",
    responses={**_HEAD, **problems(JobNotFound, JobGone)},
)
async def head_job_events(job_id: JobId, follower: Follower) -> Response:
    """The status and headers of GET, without the events."""
    return await get_job_events(job_id, follower)


@router.get(
    "/batches/{batch_id}/events",
    tags=["batches"],
    response_class=Response,
    summary="Follow a batch",
    responses={
        **_stream(event="state", id="5e1f", data=f'{{"id":"{EXAMPLE_BATCH}","status":"ready", …}}'),
        **problems(BatchNotFound, BatchGone),
    },
)
async def get_batch_events(batch_id: BatchId, follower: Follower) -> Response:
    """Server-Sent Events: the batch as it is now, then each change of its jobs' states and its files.

    `state`: the batch, as GET answers it. `end`: the same, once it has jobs and all of them have
    ended; then the stream closes. While a batch has no job yet it stays open. `gone`: it was deleted;
    the data is the problem that GET answers. The id is opaque. A job's progress comes with the
    job's own events. Stopping and keys are as there.
    """
    batches = follower.container.batches

    async def look() -> Snapshot:
        view = await batches.get(follower.owner, batch_id)
        body = batch_out(view).model_dump_json().encode()
        return Snapshot(batch_version(view), body, is_last=_has_ended(view))

    subject = Subject(ThingKind.BATCH, batch_id)
    return follower.follow(Followed(subject, look, await look(), follower.known))


@router.head(
    "/batches/{batch_id}/events",
    tags=["batches"],
    response_class=Response,
    summary="Ask whether a batch can be followed",
    responses={**_HEAD, **problems(BatchNotFound, BatchGone)},
)
async def head_batch_events(batch_id: BatchId, follower: Follower) -> Response:
    """The status and headers of GET, without the events."""
    return await get_batch_events(batch_id, follower)


def _has_ended(view: BatchView) -> bool:
    """Whether nothing more is under way: all its jobs have ended, or retention took them."""
    if any(job.status.is_active for job in view.jobs):
        return False
    return bool(view.jobs) or view.status is not BatchStatus.READY
