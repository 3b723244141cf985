"""Learns what a foreign picture is: magic bytes here, everything else in a limited child process."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import structlog

from app.domain import errors
from app.domain.errors import AppError, EmptyFile, InputDamaged, JobTimedOut
from app.domain.media import MediaLimits, StillInfo
from app.infrastructure.media.process_runner import Command, ProcessLimits, ProcessRunner
from app.infrastructure.media.python_steps import APP
from app.infrastructure.media.sandbox import python_folders
from app.infrastructure.picture_magic import HEAD_BYTES, is_picture, not_an_image

log = structlog.get_logger(__name__)

ANSWER_BYTES = 64 * 1024
CPU_SECONDS = 20
ADDRESS_SPACE_BYTES = 1024**3
BROKEN = "The picture cannot be read: looking into it failed."

REFUSALS: dict[str, type[AppError]] = {
    each.code: each
    for each in (errors.EmptyFile, errors.NotAnImage, errors.InputDamaged, errors.MediaOverLimits)
}


class StillProbeChild:
    """Looks at pictures in a child, which runs ``script``; at most ``slots`` at a time.

    A file that crashes the child, or makes it print garbage, is a damaged picture: never a hang, and
    never a decoder in the service's own process.
    """

    def __init__(
        self,
        runner: ProcessRunner,
        limits: MediaLimits,
        script: Path,
        *,
        slots: int = 2,
        timeout_seconds: float = 30.0,
    ) -> None:
        self._runner = runner
        self._limits = limits
        self._script = script
        self._slots = asyncio.Semaphore(slots)
        self._timeout_seconds = timeout_seconds

    async def probe_still(self, path: Path) -> StillInfo:
        """Return what the picture is. Raises EmptyFile, NotAnImage, MediaOverLimits, InputDamaged;
        JobTimedOut when the child takes too long.
        """
        await asyncio.to_thread(_sniff, path)
        async with self._slots:
            return await self._ask(path)

    async def _ask(self, path: Path) -> StillInfo:
        answer = bytearray()

        def collect(data: bytes) -> None:
            answer.extend(data[: ANSWER_BYTES - len(answer)])

        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._runner.start(self._command(path), on_stdout=collect) as child,
            ):
                finished = await child.wait()
        except TimeoutError as error:
            limit = f"{self._timeout_seconds:g} s"
            msg = f"Looking into the picture took longer than its limit of {limit}."
            raise JobTimedOut(msg) from error
        try:
            return _read(json.loads(answer))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("still.crashed", stderr=finished.stderr)
            raise InputDamaged(BROKEN) from error

    def _command(self, path: Path) -> Command:
        asked = {"do": "look", "max_pixels": self._limits.max_pixels}
        absolute = path.absolute()
        return Command(
            arguments=(
                *(sys.executable, "-I", "-B", str(self._script)),
                *(json.dumps(asked), str(absolute)),
            ),
            folder=self._script.parent,
            writable=False,
            readable=(*python_folders(), APP, absolute),
            limits=ProcessLimits(address_space_bytes=ADDRESS_SPACE_BYTES, cpu_seconds=CPU_SECONDS),
        )


def _read(said: dict[str, Any]) -> StillInfo:
    """Return what a child found. Raises its refusal, and KeyError or TypeError for nonsense."""
    if (refused := said.get("refused")) is not None:
        raise REFUSALS[refused["code"]](str(refused["detail"]), extra=dict(refused["extra"]))
    told = said["facts"]["result"]
    return StillInfo(
        str(told["format"]), int(told["width"]), int(told["height"]), bool(told["has_alpha"])
    )


def _sniff(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise EmptyFile("The file has no bytes.")
    if not is_picture(head):
        raise not_an_image()
