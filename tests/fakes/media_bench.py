"""The real media stack on a folder of its own, for tests: locate, sandbox, probe, run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from app.bootstrap.media import PROGRAMS
from app.domain.media import MediaInfo, MediaLimits
from app.infrastructure.drawing import CHILD as DRAW_CHILD
from app.infrastructure.media.ffmpeg_locator import FFmpeg, locate_ffmpeg
from app.infrastructure.media.probe import ProbeChild
from app.infrastructure.media.process_runner import Isolation, ProcessRunner
from app.infrastructure.media.python_steps import PythonStepRunner
from app.infrastructure.media.sandbox import detect_sandbox
from app.infrastructure.media.step_kinds import StepKinds
from app.infrastructure.media.step_runner import FFmpegStepRunner
from app.infrastructure.media.still_probe import StillProbeChild
from app.operations.base import ClipInput, FFmpegStep, Plan, PythonStep, Step, StepFacts
from app.operations.ffmpeg import put_in
from app.operations.trim import Trim, TrimParams

Mode = Literal["exact", "copy", "auto"]
LIMITS = MediaLimits(max_seconds=1800, max_pixels=16_777_216, max_streams=16)
INPUT = "0123456789abcdef0123456789abcdef"


@dataclass
class MediaBench:
    """Everything that a worker has, without rows. ``folder`` stands for a job's scratch folder."""

    folder: Path
    ffmpeg: FFmpeg
    runner: ProcessRunner
    probe: ProbeChild
    steps: StepKinds
    stills: StillProbeChild
    reported: list[float] = field(default_factory=list)

    async def plan(self, clip: Path, params: TrimParams) -> Plan:
        """Link the clip into the folder as a worker does, probe it and plan."""
        link = self.folder / INPUT
        link.unlink(missing_ok=True)
        link.hardlink_to(clip)
        media = await self.probe.probe(link)
        return Trim().plan(params, [ClipInput(INPUT, media, clip.name)])

    async def run(self, step: Step) -> Path:
        await self.steps.run(step, self.folder, self.reported.append)
        return self.folder / outputs_of(step)[0]

    async def run_plan(self, plan: Plan) -> list[StepFacts]:
        """Run every step, with the numbers that earlier ones told, as a worker does."""
        numbers: dict[str, int] = {}
        learned = []
        for planned in plan.steps:
            step = planned
            if isinstance(step, FFmpegStep):
                step = replace(step, arguments=put_in(step.arguments, numbers))
            learned.append(await self.steps.run(step, self.folder, self.reported.append))
            numbers.update(learned[-1].numbers)
        return learned

    async def trim(
        self,
        clip: Path,
        start: float | str | None,
        end: float | str | None,
        mode: Mode = "exact",
    ) -> tuple[Path, Plan]:
        """Return the result and the plan, with what the run learned put into its ``result``."""
        plan = await self.plan(clip, TrimParams(start=start, end=end, mode=mode))
        learned = {
            key: told for facts in await self.run_plan(plan) for key, told in facts.result.items()
        }
        (output,) = plan.outputs
        return self.folder / output.file, replace(plan, result={**plan.result, **learned})

    async def look(self, path: Path) -> MediaInfo:
        return await self.probe.probe(path)


def one_step(plan: Plan) -> FFmpegStep:
    """The only step of a plan, which is FFmpeg's."""
    (step,) = plan.steps
    assert isinstance(step, FFmpegStep)
    return step


def outputs_of(step: Step) -> tuple[str, ...]:
    """The files that a step writes, of whatever kind it is."""
    return step.outputs if isinstance(step, PythonStep) else (step.output,)


@asynccontextmanager
async def open_bench(
    folder: Path,
    *,
    ffmpeg: FFmpeg | None = None,
    isolation: Isolation | None = None,
    limits: MediaLimits = LIMITS,
    stall_seconds: float = 20.0,
) -> AsyncIterator[MediaBench]:
    """Open the stack and close it in the end, with every child dead."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    ffmpeg = ffmpeg or locate_ffmpeg(None)
    runner = ProcessRunner(isolation or detect_sandbox())
    probe = ProbeChild(runner, limits)
    steps = StepKinds(
        FFmpegStepRunner(ffmpeg, runner, probe, stall_seconds=stall_seconds, threads=1),
        PythonStepRunner(runner, PROGRAMS, stall_seconds=stall_seconds),
    )
    try:
        stills = StillProbeChild(runner, limits, DRAW_CHILD)
        yield MediaBench(folder, ffmpeg, runner, probe, steps, stills)
    finally:
        await runner.close()


def scripted_ffmpeg(path: Path, body: str) -> Path:
    """Write a script that passes for an FFmpeg when asked what it can, and runs ``body`` for work.

    ``"$FFMPEG"`` in ``body`` is the real one.
    """
    real = locate_ffmpeg(None).path
    path.write_text(
        "#!/bin/sh\n"
        f"FFMPEG='{real}'\n"
        'case "$*" in\n'
        '  *-version|*-encoders|*-filters) exec "$FFMPEG" "$@";;\n'
        "esac\n"
        f"{body}\n"
    )
    path.chmod(0o755)
    return path
