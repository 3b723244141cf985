"""Running the steps of a job, or taking what an earlier job of the same owner made of the same."""

import hashlib
from pathlib import Path

from app.operations.base import NOTHING_LEARNED, FFmpegStep, Step, StepFacts
from app.services.job_run import Run
from app.services.kept_clips import KeptClips
from app.services.ports import ProgressCallback, StepRunner


class JobSteps:
    """Runs one step after the other; those with a ``cache_key`` only when nothing was kept of it.

    ``made_by``: the version of FFmpeg that runs them. Another one may encode otherwise, and what it
    makes has to join with what is made beside it.
    """

    def __init__(self, steps: StepRunner, kept: KeptClips, made_by: str) -> None:
        self._steps = steps
        self._kept = kept
        self._made_by = made_by

    async def run(
        self, run: Run, step: Step, folder: Path, on_progress: ProgressCallback
    ) -> StepFacts:
        """Leave the step's result in ``folder``; raises what ``StepRunner.run`` raises.

        ``steps_reused`` of the facts counts the steps of this run that did not have to run.
        """
        if not isinstance(step, FFmpegStep) or step.cache_key is None:
            return await self._steps.run(step, folder, on_progress)
        key = kept_key(step.cache_key, self._made_by)
        if await self._kept.take(run, key, folder / step.output):
            on_progress(1.0)
            run.reused += 1
            return StepFacts(result={"steps_reused": run.reused})
        facts = await self._steps.run(step, folder, on_progress)
        if facts == NOTHING_LEARNED:  # what a step learned besides is not kept
            await self._kept.keep(run, key, folder / step.output)
        return facts


def kept_key(cache_key: str, made_by: str) -> str:
    """Return the key under which the result of a step is kept: what it is made of, and by what."""
    return hashlib.sha256(f"{cache_key} {made_by}".encode()).hexdigest()
