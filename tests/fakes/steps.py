"""A step runner whose steps last until they are told to end, and operations that plan such steps."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from app.domain.errors import TrimOutOfRange
from app.domain.jobs import InputRole
from app.operations.base import (
    NOTHING_LEARNED,
    ClipInput,
    Expected,
    FFmpegStep,
    InputRule,
    Params,
    Plan,
    PlannedOutput,
    PythonStep,
    Step,
    StepFacts,
)
from app.services.ports import ProgressCallback, StepRunner

RESULT = b"a finished film"

Script = Callable[[Path, ProgressCallback], Awaitable[None]]
"""What a step does before its result is there."""


class FakeSteps(StepRunner):
    """Copies nothing and encodes nothing: writes ``RESULT``, after whatever the test's script does.

    Without a script a step ends at once. ``gate`` makes every step wait until it is set.
    """

    def __init__(self) -> None:
        self.script: Script | None = None
        self.gate: asyncio.Event | None = None
        self.started = asyncio.Event()
        self.folders: list[Path] = []
        self.ran: list[str] = []
        self.living = 0
        self.most_living = 0
        self.stopped = 0

    async def run(self, step: Step, folder: Path, on_progress: ProgressCallback) -> StepFacts:
        self.folders.append(folder)
        self.ran.append(step.name)
        self.living += 1
        self.most_living = max(self.most_living, self.living)
        self.started.set()
        try:
            if self.script is not None:
                await self.script(folder, on_progress)
            if self.gate is not None:
                await self.gate.wait()
            on_progress(1.0)
            for name in step.outputs if isinstance(step, PythonStep) else (step.output,):
                (folder / name).write_bytes(RESULT)
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # as a child takes its moment to be reaped
            self.stopped += 1
            raise
        finally:
            self.living -= 1
        return NOTHING_LEARNED


class PolishParams(Params):
    """``until`` is a time in the clip, in seconds."""

    until: float = Field(default=5.0, ge=0, le=100)


class Polish:
    """One clip in two steps, of which the second is three quarters of the work."""

    name: ClassVar[str] = "polish"
    description: ClassVar[str] = "Makes a clip shine."
    inputs: ClassVar[tuple[InputRule, ...]] = (InputRule(InputRole.CLIP, 1, 1),)
    params_model: ClassVar[type[Params]] = PolishParams
    work_factor: ClassVar[float] = 1.0
    releases_inputs: ClassVar[bool] = False

    def plan(self, params: PolishParams, sources: Sequence[ClipInput]) -> Plan:
        (clip,) = sources
        if params.until > clip.media.duration_seconds:
            raise TrimOutOfRange(extra={"duration_seconds": clip.media.duration_seconds})
        return Plan(
            steps=(make_step("rub", weight=1.0), make_step("shine", weight=3.0)),
            outputs=(PlannedOutput("shine.mp4", f"{clip.filename}-shiny.mp4", "video/mp4"),),
            result={"until": params.until},
            warnings=("It shines.",),
        )


class Join(Polish):
    """Two or three clips, in their order."""

    name: ClassVar[str] = "join"
    inputs: ClassVar[tuple[InputRule, ...]] = (InputRule(InputRole.CLIP, 2, 3),)

    def plan(self, params: PolishParams, sources: Sequence[ClipInput]) -> Plan:
        names = "+".join(clip.filename for clip in sources)
        return Plan(
            steps=(make_step("join", weight=1.0),),
            outputs=(PlannedOutput("join.mp4", names, "video/mp4"),),
            result={"until": params.until},
        )


class Album(Polish):
    """One to three clips, each pressed in a step whose result is kept, then bound together."""

    name: ClassVar[str] = "album"
    inputs: ClassVar[tuple[InputRule, ...]] = (InputRule(InputRole.CLIP, 1, 3, wants_digest=True),)

    def plan(self, params: PolishParams, sources: Sequence[ClipInput]) -> Plan:
        pressed = [
            make_step(f"press-{place}", weight=2.0, cache_key=_key(clip, params))
            for place, clip in enumerate(sources)
        ]
        return Plan(
            steps=(*pressed, make_step("bind", weight=1.0)),
            outputs=(PlannedOutput("bind.mp4", "album.mp4", "video/mp4"),),
            result={"pages": len(sources)},
            effort=10.0,
        )


class Detour(Album):
    """An album that has another plan for when the binding turns out to be impossible."""

    name: ClassVar[str] = "detour"

    def plan(self, params: PolishParams, sources: Sequence[ClipInput]) -> Plan:
        album = super().plan(params, sources)
        sewn = Plan(
            steps=(*album.steps[:-1], make_step("sew", weight=1.0)),
            outputs=(PlannedOutput("sew.mp4", "sewn.mp4", "video/mp4"),),
            result={"way": "sewn"},
            warnings=("It is sewn.",),
            effort=5000.0,
        )
        return replace(album, warnings=("It is bound.",), otherwise=sewn)


def _key(clip: ClipInput, params: PolishParams) -> str | None:
    if clip.sha256 is None:
        return None
    return hashlib.sha256(f"{clip.sha256} {params.until}".encode()).hexdigest()


def make_step(name: str, *, weight: float, cache_key: str | None = None) -> FFmpegStep:
    """A step that writes ``<name>.mp4``."""
    return FFmpegStep(
        name=name,
        weight=weight,
        arguments=(),
        output=f"{name}.mp4",
        expected=Expected(duration_seconds=1.0, duration_tolerance=0.1, has_audio=False),
        cache_key=cache_key,
    )
