"""The operation ``trim-preview``: a small, quick film of one part of a clip, to choose a cut by."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar

from app.domain.jobs import InputRole
from app.domain.media import AudioInfo, MediaInfo, VideoInfo
from app.operations import ffmpeg
from app.operations.base import (
    ClipInput,
    Expected,
    FFmpegStep,
    InputRule,
    Params,
    Plan,
    PlannedOutput,
)
from app.operations.filenames import output_name
from app.operations.timecode import say
from app.operations.trim_cut import Cut, SpanParams, audible, find_cut

OUTPUT_FILE = "preview.mp4"
WIDTH = 640
RATE = 15
LONGEST = Fraction(30)
"""Seconds."""
CRF = "28"
AUDIO_KBIT = 64
LOOP_FILTERED = frozenset({"h264", "hevc"})
"""Codecs whose decoders may leave out the last smoothing: not seen in a picture so much smaller."""


class PreviewParams(SpanParams):
    """Which part to show: at most 30 s of it are. Times count from the first frame."""


class TrimPreview:
    """Shows the frames with start <= time < end at 15 a second, each within such a frame's length."""

    name: ClassVar[str] = "trim-preview"
    description: ClassVar[str] = (
        "A small film of one part of a clip, made in a moment, to choose a cut by: at most 640 "
        "pixels wide, 15 frames a second, sound in mono, 30 seconds at most. Answers an MP4 with "
        "H.264 and AAC."
    )
    inputs: ClassVar[tuple[InputRule, ...]] = (InputRule(InputRole.CLIP, 1, 1),)
    params_model: ClassVar[type[Params]] = PreviewParams
    work_factor: ClassVar[float] = 0.5
    releases_inputs: ClassVar[bool] = False

    def plan(self, params: PreviewParams, sources: Sequence[ClipInput]) -> Plan:
        """Return the one step of a preview. Raises ``TrimOutOfRange`` as ``trim`` does."""
        (clip,) = sources
        wanted = find_cut(params, clip.media)
        cut = _shortened(wanted, clip.media)
        audio = audible(clip.media.audio, cut)
        width, height = preview_size(clip.media.video)
        step = FFmpegStep(
            name="preview",
            weight=1.0,
            arguments=(
                *ffmpeg.GLOBAL,
                *_input(clip, cut),
                *ffmpeg.OUTPUT,
                *_video_options(cut, (width, height)),
                *(_audio_options(clip.media.video, cut) if audio else ("-an",)),
                *ffmpeg.MP4,
            ),
            output=OUTPUT_FILE,
            expected=Expected(
                duration_seconds=float(cut.length),
                duration_tolerance=_tolerance(clip.media, cut),
                has_audio=audio is not None,
                overrun_tolerance=2 / RATE,
            ),
            pixels=clip.media.video.width * clip.media.video.height,
        )
        return Plan(
            steps=(step,),
            outputs=(
                PlannedOutput(OUTPUT_FILE, output_name(clip.filename, "preview"), "video/mp4"),
            ),
            result={
                "start_seconds": round(float(cut.start), 6),
                "end_seconds": round(float(cut.end), 6),
                "width": width,
                "height": height,
                "frame_rate": RATE,
            },
            warnings=tuple(_said(wanted, cut, clip.media.audio)),
            effort=float(cut.length * RATE) * width * height / 1e6,
        )


def _shortened(cut: Cut, media: MediaInfo) -> Cut:
    """Return the cut, or its first 30 s."""
    if cut.length <= LONGEST:
        return cut
    ticks = int(LONGEST / Fraction(media.video.time_base))
    return replace(cut, stop=cut.first + ticks, end=cut.start + LONGEST)


def preview_size(video: VideoInfo) -> tuple[int, int]:
    """Return width and height as shown, both even: never larger than the clip, at most 640 wide."""
    aspect = Fraction(video.sample_aspect)
    wide, high = Fraction(video.width) * aspect, Fraction(video.height)
    if video.rotation % 180:
        wide, high = high, wide
    scale = min(Fraction(1), WIDTH / wide)
    return _even(wide * scale), _even(high * scale)


def _even(side: Fraction) -> int:
    return max(2, 2 * int(side / 2))


def _input(clip: ClipInput, cut: Cut) -> tuple[str, ...]:
    origin = ffmpeg.start_seconds(clip.media.video)
    listed = ffmpeg.foreign_clip(clip.name, clip.media, from_seconds=origin + cut.start)
    if clip.media.video.codec not in LOOP_FILTERED:
        return listed
    return ("-skip_loop_filter", "all", *listed)


def _video_options(cut: Cut, size: tuple[int, int]) -> tuple[str, ...]:
    bounds = f"start_pts={cut.first}" + ("" if cut.stop is None else f":end_pts={cut.stop}")
    filters = (
        f"trim={bounds}",
        f"setpts=PTS-({cut.first})",
        # Before anything is scaled: what is not shown need not be made small.
        f"fps={RATE}:start_time=0:round=near",
        f"scale={size[0]}:{size[1]}:flags=fast_bilinear",
        "setsar=1",
    )
    return (
        *("-filter:v", ",".join(filters)),
        *("-c:v", "libx264", "-preset", "ultrafast", "-crf", CRF, "-threads", ffmpeg.THREADS),
        *("-g", str(2 * RATE), "-pix_fmt", "yuv420p"),
    )


def _audio_options(video: VideoInfo, cut: Cut) -> tuple[str, ...]:
    origin = ffmpeg.start_seconds(video)
    start, end = ffmpeg.seconds(origin + cut.start), ffmpeg.seconds(origin + cut.end)
    filters = (
        f"atrim=start={start}:end={end}",
        f"asetpts=PTS-({start})/TB",
        "aresample=async=1:first_pts=0",
        "apad=whole_len=1",
    )
    return (
        *("-filter:a", ",".join(filters), "-c:a", "aac", "-aac_coder", "fast"),
        *("-b:a", f"{AUDIO_KBIT}k", "-ac", "1", "-ar", "44100"),
    )


def _tolerance(media: MediaInfo, cut: Cut) -> float:
    """Two frames of the preview and what may be dropped; unevenly spaced, one may last for long."""
    two = 2 / RATE + float(ffmpeg.longest_dropped(media)) + media.video.frame_seconds
    return two if ffmpeg.is_even(media) else max(two, float(cut.length))


def _said(wanted: Cut, cut: Cut, audio: AudioInfo | None) -> list[str]:
    said = []
    if cut.end < wanted.end:
        length = say(wanted.length)
        said.append(f"Only the first {LONGEST} s of the {length} asked for are shown.")
    if audio is not None and audible(audio, cut) is None:
        said.append("The part has no sound.")
    return said
