"""Looking at foreign files, and running the steps of a job."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from app.domain.media import MediaInfo, StillInfo
from app.operations.base import Step, StepFacts


class MediaProbe(Protocol):
    async def probe(self, path: Path) -> MediaInfo:
        """Look at a foreign file in a limited child process.

        Raises EmptyFile, NotMedia, NoVideoStream, MediaOverLimits, InputDamaged; JobTimedOut when
        the child takes too long. Never more than a few at a time.
        """
        ...


class StillProbe(Protocol):
    async def probe_still(self, path: Path) -> StillInfo:
        """Look at a foreign picture in a limited child process.

        Raises EmptyFile, NotAnImage, MediaOverLimits (too many pixels), InputDamaged; JobTimedOut
        when the child takes too long.
        """
        ...


ProgressCallback = Callable[[float], None]
"""Called with the finished fraction of a step, 0..1, monotonic, from the event loop's thread."""


class StepRunner(Protocol):
    async def run(self, step: Step, folder: Path, on_progress: ProgressCallback) -> StepFacts:
        """Run one step in ``folder``, check its result, and return what it learned.

        Cancelling the call stops the whole process group (TERM, 1 s, KILL) and reaps it before it
        returns. Raises RenderFailed, InputDamaged, NoSpace, JobTimedOut (no sign of life), and what
        the step itself found wrong with its input.
        """
        ...
