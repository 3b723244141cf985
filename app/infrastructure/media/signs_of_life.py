"""Waiting for a child while it shows signs of life: progress, or computing, reading and writing."""

import asyncio
from collections.abc import Callable

from app.domain.errors import JobTimedOut
from app.infrastructure.media.process_output import activity
from app.infrastructure.media.process_runner import Child, Finished

LOOK_SECONDS = 1.0


async def watch(
    child: Child,
    progress: Callable[[], float],
    *,
    stall_seconds: float,
    what: str = "The encoder",
) -> Finished:
    """Return how ``child`` ended. Raises JobTimedOut after ``stall_seconds`` without a sign of life.

    The caller's block around the child then stops it.
    """
    loop = asyncio.get_running_loop()
    seen, since = None, loop.time()
    while True:
        try:
            async with asyncio.timeout(min(LOOK_SECONDS, stall_seconds / 4)):
                return await child.wait()
        except TimeoutError:
            sign = (progress(), await asyncio.to_thread(activity, child.pid))
        if sign != seen:
            seen, since = sign, loop.time()
        elif loop.time() - since >= stall_seconds:
            msg = (
                f"{what} showed no sign of life for the limit of {stall_seconds:g} s"
                " (stall_seconds)."
            )
            raise JobTimedOut(msg, extra={"limit": "stall_seconds"})
