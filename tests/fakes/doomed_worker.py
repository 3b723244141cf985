"""A process that runs one job and is killed (or stopped) at a named point of it.

    python -m tests.fakes.doomed_worker ROOT POINT

The kill is a real SIGKILL that the process sends itself from a port it was wired with, so that it
falls exactly between two of the steps and no code of the service knows of it.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from app.services.ports import Database, Files, Transaction
from tests.fakes.job_house import House

T = TypeVar("T")

POINTS = ("before_rows", "after_rows", "after_rename", "after_commit", "mid_step")
KEEPING_POINTS = ("after_promise", "after_link", "after_kept")
"""Around a clip that is being kept."""


def die() -> None:
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class DoomedDatabase(Database):
    """Dies around the transaction that inserts output rows, or after the one that completes; or after
    the first or second one that keeps a clip.
    """

    def __init__(self, inner: Database, point: str) -> None:
        self._inner = inner
        self._point = point
        self._keeping = 0

    async def write(self, work: Callable[[Transaction], T]) -> T:
        name = work.__qualname__
        if self._point == "before_rows" and "Publication" in name:
            die()
        result = await self._inner.write(work)
        if self._point == "after_rows" and "Publication" in name:
            die()
        if self._point == "after_commit" and "Closing" in name:
            die()
        self._keeping += "KeptClips" in name
        if self._keeping == {"after_promise": 1, "after_kept": 2}.get(self._point):
            die()
        return result

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await self._inner.read(work)

    async def check(self) -> None:
        await self._inner.check()

    async def checkpoint(self) -> None:
        await self._inner.checkpoint()


class DoomedFiles:
    """Dies when an output's or a kept clip's file has its name and no transaction says so yet."""

    def __init__(self, inner: Files, point: str) -> None:
        self._inner = inner
        self._point = point

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def publish(self, source: Path, output_id: str) -> None:
        await self._inner.publish(source, output_id)
        if self._point == "after_rename":
            die()

    async def keep_clip(self, source: Path, clip_id: str) -> int:
        size_bytes: int = await self._inner.keep_clip(source, clip_id)
        if self._point == "after_link":
            die()
        return size_bytes


async def main(root: Path, point: str) -> None:
    """Run the oldest queued job, and die on the way."""
    house = House.build(
        root,
        db_through=lambda db: DoomedDatabase(db, point),
        files_through=lambda files: DoomedFiles(files, point),
    )

    async def script(folder: Path, _: object) -> None:
        (folder / "half").write_bytes(b"half a film")
        if point == "mid_step":
            die()
        if point == "stopped":
            # Until somebody says SIGCONT; the step goes on then, as a child of a frozen host would.
            os.kill(os.getpid(), signal.SIGSTOP)
            await asyncio.sleep(0.2)

    house.steps.script = script
    (job,) = await house.real_db.read(lambda tx: tx.jobs.list_claimable(1))
    await house.runner.run(job.id, job.attempt)
    await house.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
