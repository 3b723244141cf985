"""What runs FFmpeg and the probe in this process, or says why nothing can."""

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.bootstrap.policies import media_limits
from app.domain.errors import LogFailed, NotReady, RenderFailed
from app.domain.media import MediaInfo, StillInfo
from app.infrastructure.drawing import CHILD as DRAW_CHILD
from app.infrastructure.media import COPY_CHILD, JOIN_CHILD
from app.infrastructure.media.ffmpeg_locator import FFmpeg, FFmpegUnusableError, locate_ffmpeg
from app.infrastructure.media.probe import ProbeChild
from app.infrastructure.media.process_runner import ProcessRunner
from app.infrastructure.media.python_steps import Program, PythonStepRunner
from app.infrastructure.media.quiet_digests import QuietDigests
from app.infrastructure.media.sandbox import (
    SandboxLevel,
    SandboxUnavailableError,
    can_run,
    detect_sandbox,
)
from app.infrastructure.media.step_kinds import StepKinds
from app.infrastructure.media.step_runner import FFmpegStepRunner
from app.infrastructure.media.still_probe import StillProbeChild
from app.infrastructure.moodle import CHILD
from app.infrastructure.storage.paths import StartRefused
from app.operations.base import Step, StepFacts
from app.operations.house_parts import PROGRAM as JOIN
from app.operations.moodle_log import PROGRAM as MOODLE_LOG
from app.operations.templates.scene import PROGRAM as DRAW
from app.operations.trim_copy import PROGRAM as COPY_CUT
from app.services.ports import Digest, Digests, MediaProbe, ProgressCallback, StepRunner, StillProbe
from app.services.readiness import Part, PartState
from app.services.stop_phases import stop_phase
from app.settings import Settings

log = structlog.get_logger(__name__)

NAME = "ffmpeg"
PROGRAMS = {
    MOODLE_LOG: Program(CHILD, LogFailed),
    COPY_CUT: Program(COPY_CHILD, RenderFailed),
    JOIN: Program(JOIN_CHILD, RenderFailed),
    DRAW: Program(DRAW_CHILD, RenderFailed),
}
"""The programs of ours that steps run, by the name that operations know."""
CHILDREN_SECONDS = 3.0
"""How long a stop waits for the last children, which are killed after a second."""


class NoMedia:
    """What a process without FFmpeg has in its place; its engine claims no jobs."""

    async def probe(self, path: Path) -> MediaInfo:
        del path
        raise NotReady("There is no FFmpeg here.")

    async def probe_still(self, path: Path) -> StillInfo:
        del path
        raise NotReady("There is no FFmpeg here.")

    async def run(self, step: Step, folder: Path, on_progress: ProgressCallback) -> StepFacts:
        del step, folder, on_progress
        raise NotReady("There is no FFmpeg here.")

    async def of(self, path: Path) -> Digest:
        del path
        raise NotReady("This process measures no uploads.")


@dataclass(frozen=True, slots=True)
class MediaTools:
    """``ffmpeg`` is None where there is none. ``trouble`` says why, or why jobs will fail with it.

    ``digests`` measures uploads, and needs no FFmpeg.
    """

    probe: MediaProbe
    stills: StillProbe
    steps: StepRunner
    digests: Digests
    level: SandboxLevel
    ffmpeg: FFmpeg | None = None
    trouble: str = ""

    @property
    def version(self) -> str:
        """FFmpeg's own, "" where there is none: no step runs then."""
        return "" if self.ffmpeg is None else self.ffmpeg.version

    async def look(self) -> Part:
        """Whether FFmpeg is there: found at start, and still executable."""
        if self.ffmpeg is None:
            return Part(NAME, PartState.FAILING, self.trouble)
        if not os.access(self.ffmpeg.path, os.X_OK):
            return Part(NAME, PartState.FAILING, "the FFmpeg found at start is gone")
        if self.trouble:
            return Part(NAME, PartState.DEGRADED, self.trouble)
        found = f"{self.ffmpeg.version} ({self.ffmpeg.source}), sandbox {self.level.value}"
        return Part(NAME, PartState.OK, found)


def no_tools() -> MediaTools:
    """Return the tools of a process that runs no jobs, such as the command: none."""
    return MediaTools(
        probe=NoMedia(),
        stills=NoMedia(),
        steps=NoMedia(),
        digests=NoMedia(),
        level=SandboxLevel.LIMITS,
    )


async def open_tools(settings: Settings, stack: AsyncExitStack) -> MediaTools:
    """Find the sandbox and FFmpeg; ``stack`` kills and reaps every child when it closes.

    Without a usable FFmpeg the service starts all the same, is not ready, and runs no jobs: uploads
    can still be finished, and the log says what to do. Raises ``StartRefused`` when
    ``SANDBOX=require`` cannot be had.
    """
    try:
        sandbox = await asyncio.to_thread(detect_sandbox, settings.media.sandbox)
    except SandboxUnavailableError as error:
        raise StartRefused(str(error)) from error
    runner = ProcessRunner(sandbox)
    stack.push_async_callback(stop_phase, "children", CHILDREN_SECONDS, runner.close)
    probe, digests = ProbeChild(runner, media_limits(settings)), QuietDigests(runner)
    stills = StillProbeChild(runner, media_limits(settings), DRAW_CHILD)
    configured = settings.media.ffmpeg_path
    try:
        ffmpeg = await asyncio.to_thread(locate_ffmpeg, str(configured) if configured else None)
    except FFmpegUnusableError as error:
        log.error("ffmpeg.unusable", reason=str(error))  # noqa: TRY400 - the sentence says it all
        return MediaTools(probe, stills, NoMedia(), digests, sandbox.level, trouble=str(error))
    log.info("ffmpeg.found", version=ffmpeg.version, source=ffmpeg.source, sandbox=sandbox.level)
    stall_seconds = settings.jobs.stall_seconds
    threads = _threads(settings.jobs.workers)
    steps = StepKinds(
        FFmpegStepRunner(
            ffmpeg,
            runner,
            probe,
            stall_seconds=stall_seconds,
            threads=threads,
            max_output_bytes=settings.media.media_max_output_bytes,
        ),
        PythonStepRunner(
            runner,
            PROGRAMS,
            stall_seconds=stall_seconds,
            max_output_bytes=settings.media.media_max_output_bytes,
        ),
    )
    trouble = ""
    if not await asyncio.to_thread(can_run, sandbox, ffmpeg.path):
        trouble = (
            f"{ffmpeg.path} runs, but not inside the sandbox ({sandbox.level.value}), so that jobs "
            "will fail: use a self-contained FFmpeg or the system's, or set TIDEMILL_SANDBOX=off"
        )
        log.warning("ffmpeg.shut_out", reason=trouble)
    return MediaTools(probe, stills, steps, digests, sandbox.level, ffmpeg, trouble)


def _threads(workers: int) -> int:
    """How many threads each FFmpeg gets, so that jobs do not fight for cores."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, workers))
