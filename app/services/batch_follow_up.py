"""What follows once a new batch is committed: the engine is told, and what was left out ends."""

import asyncio

import structlog

from app.domain.errors import AppError
from app.domain.tombstones import Reason
from app.services.batching import BatchMade
from app.services.disposal import Disposal
from app.services.ports import JobQueue, Metrics, UploadLocks

log = structlog.get_logger(__name__)

SUPERSEDED_WAIT_SECONDS = 2.0
"""How long an answer waits for all the writers of superseded uploads together to let go."""


async def follow_up(
    made: BatchMade,
    *,
    queue: JobQueue,
    locks: UploadLocks,
    disposal: Disposal,
    metrics: Metrics,
) -> None:
    """Tell log and engine of ``made``, stop the writers of its superseded uploads, delete their bytes.

    Nothing in here can undo the batch, and nothing is lost when it does not happen: the engine finds
    queued rows, and the sweep ``spent_inputs`` settles the cleanup rows.
    """
    log.info("batch.created", batch_id=made.batch.id, session_id=made.batch.session_id)
    for job in made.jobs:
        await queue.enqueue(job.id, job.attempt)
    loop = asyncio.get_running_loop()
    until = loop.time() + SUPERSEDED_WAIT_SECONDS
    for upload_id, path in zip(made.superseded, made.paths, strict=True):
        metrics.count("upload_finished_total", outcome=Reason.SUPERSEDED.value)
        try:
            async with locks.hold(upload_id, wait_seconds=max(until - loop.time(), 0)):
                await disposal.settle([path])
        except AppError as error:
            log.info("upload.superseded_busy", upload_id=upload_id, code=error.code)
