"""Learns what a foreign file is: magic bytes here, everything else in a limited child process."""

import asyncio
import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import structlog

from app.domain.errors import (
    AppError,
    InputDamaged,
    JobTimedOut,
    MediaOverLimits,
    NotMedia,
    NoVideoStream,
)
from app.domain.media import MediaInfo, MediaLimits, media_from_json
from app.infrastructure.media.process_runner import Command, ProcessLimits, ProcessRunner
from app.infrastructure.media.sandbox import python_folders
from app.infrastructure.media.sniff import HEAD_BYTES, not_media, sniff
from app.operations import ffmpeg

log = structlog.get_logger(__name__)

SCRIPT = Path(__file__).with_name("probe_child.py")
PACKAGE = Path(__file__).parents[2]
"""What the script imports of."""
ANSWER_BYTES = 256 * 1024
CPU_SECONDS = 20
FRAME_RATE_SLACK = 1.001
"""120000/1001 and rounded averages count as 120."""
GIGA = 1_000_000_000

REFUSALS: dict[str, type[AppError]] = {
    "no_video_stream": NoVideoStream,
    "input_damaged": InputDamaged,
}


class ProbeChild:
    """Probes with PyAV in a child; at most ``slots`` at a time, each at most ``timeout_seconds``.

    A file that crashes the child, or makes it print garbage, is damaged media: never a hang, and
    never a decoder in the service's own process.
    """

    def __init__(
        self,
        runner: ProcessRunner,
        limits: MediaLimits,
        *,
        slots: int = 2,
        timeout_seconds: float = 30.0,
    ) -> None:
        self._runner = runner
        self._limits = limits
        self._slots = asyncio.Semaphore(slots)
        self._timeout_seconds = timeout_seconds

    async def probe(self, path: Path) -> MediaInfo:
        """Return what the file is. Raises EmptyFile, NotMedia, NoVideoStream, MediaOverLimits,
        InputDamaged; JobTimedOut when the child takes too long.
        """
        media = await self.look(path)
        self._check_rates(media)
        return media

    async def look(self, path: Path) -> MediaInfo:
        """Like ``probe``, without the limits of length and frame rate, which are not for results.

        A few frames cut out of a clip at the limit may be closer together than its average.
        """
        head, size_bytes = await asyncio.to_thread(_look, path)
        container = sniff(head)
        async with self._slots:
            answer = await self._ask(path, container)
        return self._judge(answer, container, size_bytes)

    async def _ask(self, path: Path, container: str) -> dict[str, Any]:
        answer = bytearray()

        def collect(data: bytes) -> None:
            answer.extend(data[: ANSWER_BYTES - len(answer)])

        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._runner.start(self._command(path, container), on_stdout=collect) as child,
            ):
                finished = await child.wait()
        except TimeoutError as error:
            limit = f"{self._timeout_seconds:g} s"
            msg = f"Looking into the file took longer than its limit of {limit}."
            raise JobTimedOut(msg) from error
        if not finished.succeeded:
            log.warning("probe.crashed", stderr=finished.stderr)
            raise InputDamaged("The file cannot be read: looking into it failed.")
        try:
            parsed = json.loads(answer)
        except ValueError as error:
            raise InputDamaged("The file cannot be read: looking into it failed.") from error
        return dict(parsed)

    def _command(self, path: Path, container: str) -> Command:
        asked = {
            "format": ffmpeg.DEMUXERS[container],
            "options": ffmpeg.demuxing(),
            "video_codecs": ffmpeg.VIDEO_CODECS,
            "audio_codecs": ffmpeg.AUDIO_CODECS,
            "max_pixels": self._limits.max_pixels,
        }
        absolute = path.absolute()
        return Command(
            arguments=(sys.executable, "-I", str(SCRIPT), str(absolute), json.dumps(asked)),
            folder=SCRIPT.parent,
            writable=False,
            readable=(*python_folders(), PACKAGE, absolute),
            limits=ProcessLimits(cpu_seconds=CPU_SECONDS),
        )

    def _judge(self, answer: dict[str, Any], container: str, size_bytes: int) -> MediaInfo:
        """Turn the child's answer into a ``MediaInfo`` or the refusal it deserves."""
        if (error := answer.get("error")) is not None:
            refusal = REFUSALS.get(error["code"], NotMedia)
            raise not_media(error["what"]) if refusal is NotMedia else refusal(f"{error['what']}.")
        limits = self._limits
        size = answer["size"]
        _check("streams", answer["stream_count"], limits.max_streams)
        _check("pixels", size["width"] * size["height"], limits.max_pixels)
        return media_from_json(
            {**answer["media"], "container": container, "size_bytes": size_bytes}
        )

    def _check_rates(self, media: MediaInfo) -> None:
        limits = self._limits
        _check("seconds", media.duration_seconds, limits.max_seconds)
        rate = float(Fraction(media.video.frame_rate or 0))
        if rate > limits.max_frame_rate * FRAME_RATE_SLACK:
            _check("frame rate", rate, limits.max_frame_rate)
        picture = media.video.width * media.video.height
        frames = media.duration_seconds * (rate or limits.max_frame_rate)
        _check("gigapixels", picture * frames / GIGA, limits.max_gigapixels)


def _check(limit: str, value: float, maximum: float) -> None:
    if value > maximum:
        msg = f"The clip has {value:g} {limit}; the limit is {maximum:g}."
        facts = {"limit": limit.replace(" ", "_"), "value": value, "maximum": maximum}
        raise MediaOverLimits(msg, extra=facts)


def _look(path: Path) -> tuple[bytes, int]:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES), path.stat().st_size
