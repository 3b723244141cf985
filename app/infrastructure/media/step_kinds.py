"""The one StepRunner of a process: hands each step to the runner of its kind."""

from pathlib import Path

from app.infrastructure.media.python_steps import PythonStepRunner
from app.infrastructure.media.step_runner import FFmpegStepRunner
from app.operations.base import PythonStep, Step, StepFacts
from app.services.ports import ProgressCallback


class StepKinds:
    """Implements ``ports.StepRunner`` over the runners of all kinds of steps."""

    def __init__(self, ffmpeg: FFmpegStepRunner, python: PythonStepRunner) -> None:
        self._ffmpeg = ffmpeg
        self._python = python

    async def run(self, step: Step, folder: Path, on_progress: ProgressCallback) -> StepFacts:
        if isinstance(step, PythonStep):
            facts = await self._python.run(step, folder, on_progress)
            if step.expected is not None:
                await self._ffmpeg.check(step.expected, folder / step.outputs[0])
            return facts
        return await self._ffmpeg.run(step, folder, on_progress)
