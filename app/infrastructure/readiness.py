"""Looks at the parts of this process one by one, side by side, never longer than a limit."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from app.domain.errors import AppError
from app.services.readiness import Part, PartState

LIMIT_SECONDS = 3.0


class PartChecks:
    """Implements ``app.services.readiness.Readiness`` over looks that are added by whoever has them.

    A look that hangs (a disk that does not answer) fails its part after the limit; it is not asked
    again before it has come back, so that hanging threads do not pile up.
    """

    def __init__(self, *, limit_seconds: float = LIMIT_SECONDS) -> None:
        self._limit = limit_seconds
        self._looks: dict[str, Callable[[], Awaitable[Part]]] = {}
        self._pending: dict[str, asyncio.Task[Part]] = {}

    def add(self, name: str, look: Callable[[], Awaitable[Part]]) -> None:
        """Add a part, or replace the look at it. A look may raise ``AppError`` or ``OSError``."""
        self._looks[name] = look

    async def check(self) -> Sequence[Part]:
        if not self._looks:
            return []
        tasks = {name: self._task(name) for name in self._looks}
        await asyncio.wait(tasks.values(), timeout=self._limit)
        return [self._part(name, task) for name, task in tasks.items()]

    def _task(self, name: str) -> asyncio.Task[Part]:
        pending = self._pending.get(name)
        if pending is None:
            pending = asyncio.get_running_loop().create_task(self._look(name), name=f"look:{name}")
            self._pending[name] = pending
        return pending

    async def _look(self, name: str) -> Part:
        try:
            return await self._looks[name]()
        except AppError as error:
            return Part(name, PartState.FAILING, f"{error.code}: {error.detail}")
        except OSError as error:
            return Part(name, PartState.FAILING, error.strerror or type(error).__name__)

    def _part(self, name: str, task: asyncio.Task[Part]) -> Part:
        if not task.done():
            return Part(name, PartState.FAILING, f"no answer within {self._limit:g} s")
        self._pending.pop(name, None)
        return task.result()

    async def close(self) -> None:
        """Cancel the looks that still hang."""
        pending = list(self._pending.values())
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=self._limit)
