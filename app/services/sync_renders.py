"""Requests whose answer is a file: each makes a job, waits for it, hands its output out, and removes
all of it, whatever happens.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog

from app.domain.errors import (
    AppError,
    Draining,
    JobTimedOut,
    RenderCancelled,
    RenderFailed,
    every_error,
)
from app.domain.ids import new_id
from app.domain.jobs import InputRole, JobError, JobInput, JobPolicy, JobStatus
from app.domain.outputs import Output
from app.domain.requests import OpenRequest
from app.domain.sessions import Session, SessionStatus
from app.operations.base import Operation
from app.operations.registry import Registry
from app.services.cancellation import uninterrupted
from app.services.disposal import Settled
from app.services.draining import RETRY_AFTER_SECONDS, Drain
from app.services.form_uploads import Arrival, FormUploads
from app.services.job_inputs import check_input
from app.services.job_queueing import check_queue
from app.services.job_requests import JobRequest, check_given, check_params, check_roles
from app.services.job_views import JobView, find_job, view_job
from app.services.jobs import JobService
from app.services.outputs import OutputService
from app.services.ports import Clock, Database, Metrics
from app.services.sync_removal import RequestRemoval

log = structlog.get_logger(__name__)

FIRST_LOOK_SECONDS, PATIENCE, LAST_LOOK_SECONDS = 0.02, 1.1, 0.2
"""How soon a job is looked at again; each look comes later than the one before by that factor. What
takes long may be told of later, and a preview of a second at once; a look costs microseconds.
"""
STOP_MARGIN_SECONDS = 2.0
"""What ending a job and saying so need before a stopping service cuts its connections."""


class Outcome(StrEnum):
    """How a request ended that had begun something."""

    DELIVERED = "delivered"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    ABANDONED = "abandoned"
    STOPPED = "stopped"
    RELEASED = "released"


class ClientLeft(Exception):  # noqa: N818 - nobody made a mistake
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class SyncInput:
    """One input: an id, or by ``arrived`` a file that came with the request, counted from 0."""

    role: InputRole
    order: int = 0
    arrived: int | None = None
    upload_id: str | None = None
    output_id: str | None = None

    def to_domain(self, upload_ids: Sequence[str] = ()) -> JobInput:
        """Return the job's input; ``upload_ids`` are what the files became."""
        if self.arrived is None:
            return JobInput(self.role, self.upload_id, self.output_id, self.order)
        upload_id = upload_ids[self.arrived] if upload_ids else new_id()
        return JobInput(self.role, upload_id, None, self.order)


@dataclass(frozen=True, slots=True)
class SyncWish:
    """What a request asks for, once it has come whole."""

    params: dict[str, Any]
    inputs: tuple[SyncInput, ...]
    output_name: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a job made, at the absolute path ``path``, and what it tells besides: the job goes too."""

    output: Output
    path: Path
    result: Mapping[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRenders:
    """Use cases of the synchronous endpoints.

    ``timeout_seconds``: from the end of the body to the beginning of the answer.
    """

    db: Database
    clock: Clock
    metrics: Metrics
    forms: FormUploads
    jobs: JobService
    outputs: OutputService
    registry: Registry
    drain: Drain
    removal: RequestRemoval
    policy: JobPolicy
    timeout_seconds: float

    async def check_can_begin(self, operation: Operation, size_bytes: int) -> None:
        """Raise Draining, QueueFull, or NoSpace for a body of so many bytes and the work it needs."""
        self.drain.refuse_new()
        await self.db.read(lambda tx: check_queue(tx, self.policy))
        await self.forms.check_room(int(size_bytes * (1 + operation.work_factor)))

    @asynccontextmanager
    async def open(self, owner: str, operation: Operation) -> AsyncIterator["SyncRender"]:
        """Answer one request in the block. What it brought and made is gone behind it, unless
        ``SyncRender.release`` was called.
        """
        request = OpenRequest(
            id=new_id(),
            owner=owner,
            worker=self.forms.worker,
            session_id=new_id(),
            job_id=new_id(),
            is_over=False,
            created_at=self.clock.now(),
        )
        await self.removal.begin(request)
        render = SyncRender(self, request, operation)
        try:
            async with self.forms.receiving(None, request.folder) as arrival:
                render.arrival = arrival
                yield render
        except (AppError, ClientLeft, asyncio.CancelledError) as error:
            render.note_end(error)
            raise
        finally:
            await render.remove()
            render.tell()


class SyncRender:
    """One request under way. ``stage`` is what it is at: upload, render or download."""

    arrival: Arrival

    def __init__(self, renders: SyncRenders, request: OpenRequest, operation: Operation) -> None:
        self._renders = renders
        self._request = request
        self._began_at = time.monotonic()
        self._outcome: Outcome | None = None
        self._code: str | None = None
        self._sent_bytes = 0
        self._input_bytes = 0
        self.operation = operation
        self.job_id = request.job_id
        self.owner = request.owner
        self.stage = "upload"
        self._is_made = False
        self._is_removed = False
        self._removed: list[Settled] = []

    # --- while it comes --------------------------------------------------------------------------

    def check_given(self, params: dict[str, Any], name: str, *, is_whole: bool = True) -> None:
        """Look at one parameter as soon as it is there. Raises InvalidParams."""
        check_given(self.operation, params, name, is_whole=is_whole)

    async def check_source(self, item: SyncInput) -> None:
        """Look at an input that is named by its id. Raises UploadNotFound, OutputNotFound,
        InputsDeleted, InvalidInputs.
        """
        self._input_bytes += await self._renders.db.read(
            lambda tx: check_input(tx, self.owner, item.to_domain())
        )

    # --- once it has come ------------------------------------------------------------------------

    async def start(self, wish: SyncWish, *, is_waited_for: bool = False) -> JobView:
        """Make the job that ``POST /api/v1/jobs`` would, of the files that came too.

        Raises NoSpace where the work on its inputs does not fit, and what ``FormUploads.fill`` and
        ``JobCreation.create`` raise.
        """
        renders = self._renders
        self.stage = "render"
        check_params(self.operation, wish.params).check()
        check_roles(self.operation, [item.to_domain() for item in wish.inputs])
        # Only now is it known how large they are: ids say nothing of that, nor chunked bodies.
        self._input_bytes += sum(file.size_bytes for file in self.arrival.files)
        await renders.forms.check_room(int(self._input_bytes * self.operation.work_factor))
        upload_ids: tuple[str, ...] = ()
        if self.arrival.files:
            upload_ids = await renders.forms.fill(self._session(), self.arrival)
            await renders.forms.clear(self.arrival)
        limit = min(renders.policy.timeout_seconds, renders.timeout_seconds)
        asked = JobRequest(
            operation=self.operation.name,
            params=wish.params,
            inputs=tuple(item.to_domain(upload_ids) for item in wish.inputs),
            timeout_seconds=limit if is_waited_for else None,
            output_name=wish.output_name,
        )
        made = await renders.jobs.creation.create(self.owner, asked, job_id=self.job_id)
        self._is_made = True
        return made.view

    async def release(self) -> None:
        """Let the job go on by itself, as if it had been asked for at ``/api/v1/jobs``."""
        await uninterrupted(self._renders.removal.release(self._request))
        self._is_removed = True
        self._outcome = Outcome.RELEASED

    async def remove(self) -> None:
        """Remove what the request brought and made; a repeat is harmless.

        Whoever has the result open goes on reading it: so nothing is left by the time that a client
        has it, and nothing would be if the process died while it is sent.
        """
        if not self._is_removed:
            settled = await uninterrupted(self._renders.removal.end(self._request))
            self._is_removed = settled is not None
            self._removed = settled or []

    async def finish(self, wish: SyncWish, until_gone: Callable[[], Awaitable[None]]) -> "Rendered":
        """Make the job, wait for it, and return what it made and told.

        ``until_gone`` ends when the client has left. Raises ClientLeft, Draining, JobTimedOut,
        RenderCancelled, JobGone, what ``start`` raises, and whatever the job failed with.
        """
        view = await self._first_of(self._run(wish), until_gone)
        job = view.job
        if job.status is JobStatus.COMPLETED and len(view.outputs) == 1:
            self.stage = "download"
            output, path = await self._renders.outputs.get(self.owner, view.outputs[0].id)
            return Rendered(output, path, job.result or {}, job.warnings)
        if job.status is JobStatus.CANCELLED:
            raise RenderCancelled("The job was cancelled by another request.", extra=self._facts)
        if job.error is not None:
            raise as_error(job.error, self._facts)
        raise RenderFailed("The job ended without the output it should have.", extra=self._facts)

    def note_sent(self, count: int, *, is_whole: bool) -> None:
        """Say how many bytes of the answer were handed to the client's side."""
        self._sent_bytes = count
        self._outcome = Outcome.DELIVERED if is_whole else Outcome.ABANDONED

    def _session(self) -> Session:
        now = self._renders.clock.now()
        return Session(
            id=self._request.session_id,
            owner=self.owner,
            status=SessionStatus.OPEN,
            expected_files=len(self.arrival.files),
            then=None,
            batch_id=None,
            implicit=True,
            keep_inputs_hours=None,
            created_at=now,
            active_at=now,
        )

    # --- waiting ---------------------------------------------------------------------------------

    async def _first_of(
        self, work: Coroutine[Any, Any, JobView], until_gone: Callable[[], Awaitable[None]]
    ) -> JobView:
        """Return what ``work`` returns, unless the client, the service or the time goes before."""
        limit_seconds = self._renders.timeout_seconds
        ended = asyncio.ensure_future(work)
        left = asyncio.ensure_future(until_gone())
        stopping = asyncio.ensure_future(self._until_stopping())
        tasks: set[asyncio.Future[Any]] = {ended, left, stopping}
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=limit_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in tasks:
                task.cancel()
            # What was begun comes to its end: a job that is just being made is made.
            await uninterrupted(_wait_for(tasks))
        if ended in done:
            return ended.result()
        if left in done:
            raise ClientLeft
        if stopping in done:
            raise Draining(
                "The service is stopping; nothing of the render was kept.",
                extra=self._facts,
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        msg = f"The render did not end within {limit_seconds:g} s (TIDEMILL_SYNC_TIMEOUT_SECONDS)."
        facts = {"limit": "sync_timeout_seconds", "timeout_seconds": limit_seconds}
        raise JobTimedOut(msg, extra={**self._facts, **facts})

    async def _run(self, wish: SyncWish) -> JobView:
        """Make the job and return it once it has ended. Raises JobGone when somebody deletes it."""
        # Not cut in half: whoever cleans up afterwards must find what there is.
        view, job_id = await uninterrupted(self.start(wish, is_waited_for=True)), self.job_id
        renders, pause = self._renders, FIRST_LOOK_SECONDS
        while view.job.status.is_active:
            await asyncio.sleep(pause)
            pause = min(pause * PATIENCE, LAST_LOOK_SECONDS)
            view = await renders.db.look(lambda tx: view_job(tx, find_job(tx, self.owner, job_id)))
        return view

    async def _until_stopping(self) -> None:
        """Return when the service stops and can wait no longer, or will not begin the job any more."""
        drain = self._renders.drain
        await drain.begun()
        if await self._is_running():
            await drain.until_limit(STOP_MARGIN_SECONDS)

    async def _is_running(self) -> bool:
        job = await self._renders.db.read(lambda tx: tx.jobs.find(self.job_id))
        return job is not None and job.status is not JobStatus.QUEUED

    # --- how it ended ----------------------------------------------------------------------------

    def note_end(self, error: BaseException) -> None:
        """Say what ended it early."""
        if isinstance(error, ClientLeft):
            self._outcome = Outcome.ABANDONED
        elif isinstance(error, asyncio.CancelledError | Draining):
            self._outcome = Outcome.STOPPED
        elif isinstance(error, AppError) and self._is_made:
            is_late = isinstance(error, JobTimedOut)
            self._outcome = Outcome.TIMED_OUT if is_late else Outcome.FAILED
            self._code = error.code

    def tell(self) -> None:
        """Tell the log and the metrics how it ended; nothing of what was refused on its way in."""
        if self._outcome is None and self._is_made:
            self._outcome = Outcome.FAILED  # the result was lost on the way to its sending
        if self._outcome is None:
            return
        self._renders.metrics.count(
            "renders_total", operation=self.operation.name, outcome=self._outcome.value
        )
        facts = {
            "job_id": self.job_id,
            "operation": self.operation.name,
            "seconds": round(time.monotonic() - self._began_at, 3),
            "removed": sum(each.error is None for each in self._removed),
            "bytes_freed": sum(each.freed_bytes for each in self._removed),
        }
        match self._outcome:
            case Outcome.DELIVERED:
                log.info("render.delivered", **facts, bytes=self._sent_bytes)
            case Outcome.FAILED:
                log.warning("render.failed", **facts, code=self._code)
            case Outcome.TIMED_OUT:
                log.warning("render.timed_out", **facts)
            case Outcome.ABANDONED:
                log.info("render.abandoned", **facts, stage=self.stage, bytes=self._sent_bytes)
            case Outcome.STOPPED:
                log.info("render.stopped", **facts, stage=self.stage)
            case Outcome.RELEASED:
                log.info("render.released", **facts)

    @property
    def _facts(self) -> dict[str, Any]:
        return {"job_id": self.job_id}


def as_error(failure: JobError, facts: Mapping[str, Any]) -> AppError:
    """Return what a job failed with as the error it was."""
    kinds = {kind.code: kind for kind in every_error()}
    kind = kinds.get(failure.code, RenderFailed)
    return kind(failure.message, extra={**(failure.detail or {}), **facts})


async def _wait_for(tasks: set[asyncio.Future[Any]]) -> None:
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # told by whoever looks at the result, else of no interest
