"""Runs FFmpeg for a step: with progress, signs of life, and a check of what it wrote."""

import asyncio
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from app.domain.errors import (
    AppError,
    InputDamaged,
    JobTimedOut,
    NoSpace,
    NoVideoStream,
    RenderFailed,
)
from app.domain.media import MediaInfo
from app.infrastructure.media.ffmpeg_locator import FFmpeg
from app.infrastructure.media.probe import ProbeChild
from app.infrastructure.media.process_runner import (
    Command,
    Finished,
    ProcessLimits,
    ProcessRunner,
)
from app.infrastructure.media.signs_of_life import watch
from app.operations.base import NOTHING_LEARNED, Expected, FFmpegStep, StepFacts
from app.operations.ffmpeg import complete
from app.services.ports import ProgressCallback

log = structlog.get_logger(__name__)

REPORTING = ("-v", "error", "-nostats", "-progress", "pipe:1", "-stats_period", "0.25")
MICROSECONDS = 1_000_000
CPU_SECONDS = 4 * 3600
"""For each thread: less than the wall clock allows would stop large clips on many cores."""
MOST_THREADS = 8
"""More would need more memory than the limit below allows, and gain little."""
FILE_SIZE_BYTES = 64 * 1024**3
BASE_MEMORY_BYTES = 4 * 1024**3
MEMORY_BYTES_PER_PIXEL = 256
"""A picture of 4096x4096 in ten bits does not fit in 4 GiB of address space; this makes it 8."""

NO_PICTURE = (
    "No picture of the clip begins in the part asked for: it has a pause there, or it is damaged."
)
NO_SPACE = ("No space left on device", "Disk quota exceeded")
TOO_LARGE = "File too large"
LARGER = "The result is larger than a file may be."
DAMAGE = re.compile(
    r"invalid data found|corrupt|error while decoding|error splitting|error during demuxing"
    r"|error submitting packet to decoder|decoding error|invalid nal|partial file|concealing"
    r"|moov atom not found|end of file|truncat|missing picture|error number|invalid level prefix",
    re.IGNORECASE,
)
"""What FFmpeg's decoders and demuxers say of broken bytes, as opposed to its encoders."""


@dataclass
class _Progress:
    """Reads ``-progress`` lines and reports the finished fraction, never backwards."""

    expected_seconds: float
    report: ProgressCallback
    fraction: float = -1.0
    _rest: bytes = field(default=b"")

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data)[-4096:].split(b"\n")
        for line in lines:
            name, _, value = line.partition(b"=")
            if name == b"out_time_us":
                self._take(value.strip())

    def _take(self, value: bytes) -> None:
        done = int(value) / MICROSECONDS if value.lstrip(b"-").isdigit() else 0.0
        self.reach(min(max(done / max(self.expected_seconds, 0.001), 0.0), 1.0))

    def reach(self, fraction: float) -> None:
        """Report a fraction unless it was reached before."""
        if fraction > self.fraction:
            self.fraction = fraction
            self.report(fraction)


class FFmpegStepRunner:
    """Runs one step at a time per call, in the folder it is given.

    ``threads`` is how many each FFmpeg may use, ``max_output_bytes`` how much it may write;
    ``stall_seconds`` how long it may show no sign of life: neither progress nor computing, reading or
    writing by any process of its session.
    """

    def __init__(
        self,
        ffmpeg: FFmpeg,
        runner: ProcessRunner,
        probe: ProbeChild,
        *,
        stall_seconds: float,
        threads: int = 1,
        max_output_bytes: int = FILE_SIZE_BYTES,
    ) -> None:
        self._ffmpeg = ffmpeg
        self._runner = runner
        self._probe = probe
        self._stall_seconds = stall_seconds
        self._threads = min(threads, MOST_THREADS)
        self._max_output_bytes = max_output_bytes

    async def run(self, step: FFmpegStep, folder: Path, on_progress: ProgressCallback) -> StepFacts:
        """Run ``step`` and leave its checked result in ``folder`` under ``step.output``.

        Raises RenderFailed, InputDamaged, NoSpace, JobTimedOut (no sign of life); in each of these
        cases, and when cancelled, only a ``.part`` file may be left.
        """
        part = folder / f"{step.output}.part"
        progress = _Progress(step.expected.duration_seconds, on_progress)
        progress.reach(0.0)
        async with self._runner.start(
            self._command(step, folder, part), on_stdout=progress.feed
        ) as child:
            finished = await watch(
                child, lambda: progress.fraction, stall_seconds=self._stall_seconds
            )
        if not finished.succeeded:
            log.warning("ffmpeg.failed", step=step.name, stderr=finished.stderr)
            if await asyncio.to_thread(_size, part) >= self._max_output_bytes:
                raise RenderFailed(LARGER)  # the kernel ended it, so that it could not say so
            raise _failure(step, finished)
        await self._check(step, part, finished)
        await asyncio.to_thread(part.rename, folder / step.output)
        progress.reach(1.0)
        return NOTHING_LEARNED

    def _command(self, step: FFmpegStep, folder: Path, part: Path) -> Command:
        arguments = complete(step.arguments, threads=self._threads, major=self._ffmpeg.major)
        return Command(
            arguments=(
                str(self._ffmpeg.path),
                *REPORTING,
                "-y",
                *arguments,
                f"file:{part.name}",
            ),
            folder=folder.absolute(),
            # Inputs are hard links: a decoder that was taken over must not reach the uploads.
            readable=(self._ffmpeg.path, *_files(folder.absolute(), apart_from=part)),
            limits=ProcessLimits(
                address_space_bytes=BASE_MEMORY_BYTES + step.pixels * MEMORY_BYTES_PER_PIXEL,
                cpu_seconds=CPU_SECONDS * self._threads,
                file_size_bytes=self._max_output_bytes,
            ),
        )

    async def check(self, expected: Expected, path: Path) -> None:
        """Compare what another program wrote with what was expected of it. Raises RenderFailed."""
        try:
            media = await self._probe.look(path)
        except JobTimedOut:
            raise
        except AppError as error:
            msg = f"The result is not a usable video: {error.detail}"
            raise RenderFailed(msg) from error
        _compare(media, expected, damage_is_the_sources=False)

    async def _check(self, step: FFmpegStep, part: Path, finished: Finished) -> None:
        if not step.expected.has_video:
            if await asyncio.to_thread(_size, part) == 0:
                raise RenderFailed("The encoder wrote nothing.")
            return
        media = await self._look(step, part, finished)
        _compare(media, step.expected, damage_is_the_sources=step.source_has_damage_check)

    async def _look(self, step: FFmpegStep, part: Path, finished: Finished) -> MediaInfo:
        try:
            return await self._probe.look(part)
        except FileNotFoundError as error:
            raise RenderFailed("The encoder wrote nothing.") from error
        except JobTimedOut:
            raise
        except AppError as error:
            log.warning("ffmpeg.result_unreadable", step=step.name, stderr=finished.stderr)
            if step.source_has_damage_check and DAMAGE.search(finished.stderr):
                raise InputDamaged(_damage("no picture could be decoded there")) from error
            if step.source_has_damage_check and isinstance(error, NoVideoStream):
                raise InputDamaged(NO_PICTURE) from error
            msg = f"The encoder's result is not a usable video: {error.detail}"
            raise RenderFailed(msg) from error


def _compare(media: MediaInfo, expected: Expected, *, damage_is_the_sources: bool) -> None:
    """Hold a result against what was expected of it. Raises InputDamaged, RenderFailed."""
    off = _end_seconds(media) - expected.duration_seconds
    overrun = expected.overrun_tolerance
    longer = expected.duration_tolerance if overrun is None else overrun
    if not -expected.duration_tolerance <= off <= longer:
        got, wanted = f"{_end_seconds(media):.3f} s", f"{expected.duration_seconds:.3f} s"
        if damage_is_the_sources and off < 0:
            raise InputDamaged(_damage(f"only {got} of {wanted} could be decoded"))
        msg = f"The result ends at {got} where {wanted} were expected."
        raise RenderFailed(msg)
    if (media.audio is not None) != expected.has_audio:
        msg = "The result has no sound." if expected.has_audio else "The result has a sound."
        raise RenderFailed(msg)


def _files(folder: Path, *, apart_from: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    return [folder / name for name in names if name != apart_from.name]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _end_seconds(media: MediaInfo) -> float:
    """Return when the last frame ends on the result's own clock, which begins where the cut does."""
    numerator, denominator = map(int, media.video.time_base.split("/"))
    return media.duration_seconds + media.video.start_pts * numerator / denominator


def _damage(what: str) -> str:
    return f"The file is truncated or damaged: {what}."


def _failure(step: FFmpegStep, finished: Finished) -> AppError:
    """Say why FFmpeg failed, from its words: its exit codes differ between versions."""
    if any(words in finished.stderr for words in NO_SPACE):
        return NoSpace("The disk is full: the result did not fit.")
    if TOO_LARGE in finished.stderr:
        return RenderFailed(LARGER)
    last = finished.stderr.rpartition("\n")[2]
    if step.source_has_damage_check and DAMAGE.search(finished.stderr):
        return InputDamaged(_damage(last or "it cannot be decoded"))
    return RenderFailed(f"The encoder failed: {last or 'it did not say why'}.")
