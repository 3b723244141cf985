"""The phases of a stop: each has a limit of its own, says how it went, and never keeps the next."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from app.domain.errors import AppError

log = structlog.get_logger(__name__)

GIVE_UP_SECONDS = 0.5
"""How long work that is past its limit may take to be cancelled; a thread in a disk call cannot be."""


async def stop_phase(
    name: str, limit_seconds: float, work: Callable[[], Awaitable[object]]
) -> None:
    """Run one phase, for ``AsyncExitStack.push_async_callback``, whose next callback runs anyway.

    Work that takes longer than its limit is cancelled, or left where it does not heed that: what it
    would have done is the next start's. So is what ended with an ``AppError``; others are raised.
    """
    began = time.monotonic()
    task = asyncio.ensure_future(work())
    _, late = await asyncio.wait([task], timeout=limit_seconds)
    if late:
        log.warning("stop.phase_late", phase=name, limit_seconds=limit_seconds)
        task.cancel()
        _, late = await asyncio.wait([task], timeout=GIVE_UP_SECONDS)
    if late or task.cancelled():
        return
    error = task.exception()
    if isinstance(error, AppError):
        log.error("stop.phase_failed", phase=name, code=error.code)
        return
    if error is not None:
        log.error("stop.phase_failed", phase=name, error=repr(error))
        raise error
    log.info("stop.phase_ended", phase=name, seconds=round(time.monotonic() - began, 3))
