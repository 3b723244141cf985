"""Work that a cancellation must not cut in half, since a thread would go on with it unseen."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end even when cancelled; the cancellation comes through afterwards.

    For short sequences of transactions and file operations only: whoever stops the caller waits.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as request:
            cancelled = request
    if cancelled is not None:
        if not task.cancelled():
            # Whatever the work ended with is in its rows; being cancelled is the news here.
            task.exception()
        raise cancelled
    return task.result()
