"""Runs programs of ours on foreign bytes, shut in like FFmpeg: own session, limits, no network."""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from app.domain import errors
from app.domain.errors import AppError, NoSpace
from app.infrastructure.media.process_runner import (
    Command,
    Finished,
    ProcessLimits,
    ProcessRunner,
)
from app.infrastructure.media.sandbox import python_folders
from app.infrastructure.media.signs_of_life import watch
from app.operations.base import NOTHING_LEARNED, PythonStep, StepFacts
from app.services.ports import ProgressCallback

log = structlog.get_logger(__name__)

APP = Path(__file__).parents[2]
"""The package itself, which the programs import of."""
LONGEST_LINE = 256 * 1024
"""Of what a child says; more is a child that has gone mad."""
ADDRESS_SPACE_BYTES = 1024**3
FILE_SIZE_BYTES = 64 * 1024**3
CPU_SECONDS = 4 * 3600
TOO_LARGE = "File too large"
NO_SPACE = ("No space left on device", "Disk quota exceeded", "database or disk is full")

REFUSALS = {
    each.code: each
    for each in (
        *(errors.EmptyFile, errors.LogWithoutEvents, errors.LogNotText),
        *(errors.InputDamaged, errors.NotAnImage, errors.UnsupportedCharacters),
        errors.MediaOverLimits,
        *(errors.CannotCopy, errors.NoVideoStream, errors.RenderFailed),
    )
}
"""What a program may say of its input, by code."""


@dataclass
class _Listener:
    """Reads what a child says, a JSON object a line; progress never goes back."""

    report: ProgressCallback
    fraction: float = -1.0
    facts: StepFacts = NOTHING_LEARNED
    refusal: AppError | None = None
    _rest: bytes = field(default=b"")

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-LONGEST_LINE:]
        for line in lines:
            self._take(line)

    def reach(self, fraction: float) -> None:
        """Report a fraction unless it was reached before."""
        if fraction > self.fraction:
            self.fraction = fraction
            self.report(fraction)

    def _take(self, line: bytes) -> None:
        try:
            said: dict[str, Any] = json.loads(line)
            if "progress" in said:
                self.reach(min(max(float(said["progress"]), 0.0), 1.0))
            elif "facts" in said:
                told = said["facts"]
                self.facts = StepFacts(
                    dict(told["result"]),
                    tuple(map(str, told["warnings"])),
                    {str(name): int(value) for name, value in told.get("numbers", {}).items()},
                )
            elif "refused" in said:
                told = said["refused"]
                kind = REFUSALS[told["code"]]
                self.refusal = kind(str(told["detail"]), extra=dict(told["extra"]))
        except (ValueError, KeyError, TypeError):
            # The bytes it works on are hostile: what it says is taken only where it makes sense.
            log.warning("program.unreadable", length=len(line))


@dataclass(frozen=True, slots=True)
class Program:
    """A script of ours, and the error that its job gets when it breaks without a word."""

    script: Path
    failure: type[AppError]


class PythonStepRunner:
    """Runs one step at a time per call, in the folder it is given.

    ``programs``: what may run, by name. ``stall_seconds``: how long one may show no sign of life;
    ``max_output_bytes``: how large a file of it may get.
    """

    def __init__(
        self,
        runner: ProcessRunner,
        programs: Mapping[str, Program],
        *,
        stall_seconds: float,
        max_output_bytes: int = FILE_SIZE_BYTES,
    ) -> None:
        self._runner = runner
        self._programs = programs
        self._stall_seconds = stall_seconds
        self._max_output_bytes = max_output_bytes

    async def run(self, step: PythonStep, folder: Path, on_progress: ProgressCallback) -> StepFacts:
        """Run ``step`` and leave its results in ``folder`` under ``step.outputs``.

        Raises what the program found wrong, its ``failure``, NoSpace, JobTimedOut (no sign of life); in
        each of these cases, and when cancelled, only ``.part`` files may be left.
        """
        program = self._programs[step.program]
        listener = _Listener(on_progress)
        listener.reach(0.0)
        command = self._command(step, program, folder)
        async with self._runner.start(command, on_stdout=listener.feed) as child:
            finished = await watch(
                child,
                lambda: listener.fraction,
                stall_seconds=self._stall_seconds,
                what="The processing",
            )
        if not finished.succeeded:
            raise _failure(step, program, finished, listener)
        try:
            await asyncio.to_thread(_rename, folder, step.outputs)
        except FileNotFoundError as error:
            raise program.failure("The processing wrote nothing.") from error
        listener.reach(1.0)
        return listener.facts

    def _command(self, step: PythonStep, program: Program, folder: Path) -> Command:
        folder = folder.absolute()
        return Command(
            arguments=(
                *(sys.executable, "-I", "-B", str(program.script)),
                json.dumps(dict(step.arguments)),
                *(*step.inputs, *map(_part, step.outputs)),
            ),
            folder=folder,
            # Inputs are hard links: what works on foreign bytes must not reach the uploads.
            readable=(*python_folders(), APP, *(folder / name for name in step.inputs)),
            limits=ProcessLimits(
                address_space_bytes=ADDRESS_SPACE_BYTES,
                cpu_seconds=CPU_SECONDS,
                file_size_bytes=self._max_output_bytes,
            ),
        )


def _part(name: str) -> str:
    return f"{name}.part"


def _rename(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / _part(name)).rename(folder / name)


def _failure(
    step: PythonStep, program: Program, finished: Finished, listener: _Listener
) -> AppError:
    if listener.refusal is not None:
        return listener.refusal
    if TOO_LARGE in finished.stderr:
        return program.failure("The result is larger than a file may be.")
    if any(words in finished.stderr for words in NO_SPACE):
        return NoSpace("The disk is full: the result did not fit.")
    log.warning("program.failed", step=step.name, stderr=finished.stderr)
    return program.failure(f"The processing failed while {step.name}; the log has its last words.")
