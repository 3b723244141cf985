"""Runs operations as a worker does, without rows and HTTP, and FFmpeg bare, in a folder of its own."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.bootstrap.media import PROGRAMS
from app.domain.media import MediaLimits
from app.infrastructure.drawing.fonts import FontAlphabet
from app.infrastructure.media.ffmpeg_locator import FFmpeg, locate_ffmpeg
from app.infrastructure.media.probe import ProbeChild
from app.infrastructure.media.process_runner import Command, ProcessRunner
from app.infrastructure.media.python_steps import PythonStepRunner
from app.infrastructure.media.sandbox import detect_sandbox
from app.infrastructure.media.step_kinds import StepKinds
from app.infrastructure.media.step_runner import FFmpegStepRunner
from app.operations.base import ClipInput, FFmpegStep, Plan, Step
from app.operations.ffmpeg import put_in
from app.operations.registry import default_registry

LIMITS = MediaLimits(max_seconds=1800, max_pixels=16_777_216, max_streams=16)
STALL_SECONDS = 60.0


class BareFailedError(RuntimeError):
    """The plain FFmpeg that ours is compared with did not do its work."""


@dataclass(frozen=True, slots=True)
class Workbench:
    """A folder, and what a worker has to work in it. ``threads`` is what every FFmpeg gets."""

    folder: Path
    ffmpeg: FFmpeg
    runner: ProcessRunner
    probe: ProbeChild
    steps: StepKinds
    threads: int

    async def source(self, clip: Path, name: str) -> ClipInput:
        """Link a clip into the folder under ``name``, which looks like an id, and probe it."""
        link = self.folder / name
        if not link.exists():
            link.hardlink_to(clip)
        return ClipInput(name, await self.probe.probe(link), clip.name)

    def plan(self, operation: str, params: dict[str, Any], sources: Sequence[ClipInput]) -> Plan:
        found = default_registry(FontAlphabet()).get(operation)
        return found.plan(found.params_model.model_validate(params), sources)

    async def run(self, plan: Plan) -> float:
        """Run every step of a plan, with the checks of its results; return the seconds it took."""
        began, numbers = time.perf_counter(), dict[str, int]()
        for planned in plan.steps:
            step = _filled(planned, numbers)
            facts = await self.steps.run(step, self.folder, lambda _: None)
            numbers.update(facts.numbers)
        return time.perf_counter() - began

    async def bare(self, *arguments: str) -> float:
        """Run FFmpeg without anything around it but the same sandbox; return the seconds it took."""
        words = (str(self.ffmpeg.path), "-v", "error", "-nostdin", "-y", *arguments)
        command = Command(words, self.folder, readable=(self.ffmpeg.path,))
        began = time.perf_counter()
        async with self.runner.start(command, on_stdout=lambda _: None) as child:
            finished = await child.wait()
        if not finished.succeeded:
            raise BareFailedError(finished.stderr)
        return time.perf_counter() - began


def _filled(step: Step, numbers: dict[str, int]) -> Step:
    if not isinstance(step, FFmpegStep):
        return step
    return replace(step, arguments=put_in(step.arguments, numbers))


@asynccontextmanager
async def workbench(
    folder: Path, threads: int, ffmpeg_path: str | None
) -> AsyncIterator[Workbench]:
    """Open a bench in ``folder``, which goes with it."""
    await asyncio.to_thread(folder.mkdir, parents=True)
    ffmpeg, runner = locate_ffmpeg(ffmpeg_path), ProcessRunner(detect_sandbox())
    probe = ProbeChild(runner, LIMITS)
    steps = StepKinds(
        FFmpegStepRunner(ffmpeg, runner, probe, stall_seconds=STALL_SECONDS, threads=threads),
        PythonStepRunner(runner, PROGRAMS, stall_seconds=STALL_SECONDS),
    )
    try:
        yield Workbench(folder, ffmpeg, runner, probe, steps, threads)
    finally:
        await runner.close()
        await asyncio.to_thread(shutil.rmtree, folder)
