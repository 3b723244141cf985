"""Videos of the house profile in parts: where they come apart, and the step that joins them again."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from app.domain.errors import CannotCopy, RenderFailed
from app.domain.media import MediaInfo
from app.operations import ffmpeg, house_profile
from app.operations.base import Expected, FFmpegStep, PythonStep
from app.operations.house_headers import headers_for
from app.operations.house_profile import Frame

PROGRAM = "join"
UNDECODED = {"format_whitelist": "mov", "codec_whitelist": "none", "probesize": "5000"}
"""What is copied is not decoded, not even to learn what it is: its headers were compared before."""
JOIN_SHARE = 0.02
"""What joining takes of a second of clip, beside a megapixel encoded."""
ROUNDING = Fraction(1, 50)
"""Of a frame: lengths are told rounded, and what is over by so little is no further frame."""


def frames_of(media: MediaInfo, rate: int) -> int:
    """Return how many frames of ``rate`` show all of a clip, at least one."""
    exact = Fraction(str(media.duration_seconds)) * rate
    return max(math.ceil(exact - ROUNDING), 1)


def samples_of(frames: int, rate: int) -> int:
    """Return how many samples of sound belong to so many frames: a whole number."""
    return frames * house_profile.AUDIO_RATE // rate


def why_not_ours(media: MediaInfo, frame: Frame) -> str | None:
    """Say what keeps a clip from being taken apart and joined with what we encode, None: nothing."""
    alike = media.video.headers == headers_for(frame.width, frame.height, frame.rate)
    # Of another encoder, nothing but its headers is known: not how its pictures lean on each other.
    other = None if alike else "its encoder wrote other headers"
    return house_profile.why_not(media, frame) or other


def key_frames(media: MediaInfo, rate: int) -> list[int]:
    """Return the numbers of the frames at which a clip can be taken apart."""
    ticks = house_profile.TIMESCALE // rate
    return [key // ticks for key in media.video.keyframes or () if key % ticks == 0]


def span_filters(first: int, stop: int, rate: int) -> str:
    """Return filters that let the frames ``first`` to ``stop - 1`` through, as the first of a video."""
    ticks = house_profile.TIMESCALE // rate
    cut = f"trim=start_pts={first * ticks}:end_pts={stop * ticks}"
    even = f"setpts=PTS-{first * ticks},fps={rate}:start_time=0"
    return f"{cut},{even},tpad=stop_mode=clone:stop=1,trim=end_frame={stop - first}"


def pictures_part(file: str, first: int, count: int) -> dict[str, Any]:
    """Return what the join is told of pictures: ``first`` is a frame with which decoding can begin."""
    return {"file": file, "first": first, "count": count}


def sound_part(file: str, frames: int, rate: int) -> dict[str, Any]:
    """Return what the join is told of sound: as much of a file's as belongs to so many frames."""
    return {"file": file, "samples": samples_of(frames, rate)}


def sound_step(
    name: str, arguments: Sequence[str], frames: int, rate: int, output: str
) -> FFmpegStep:
    """Return the step that encodes sound alone, as long as so many frames.

    ``arguments``: of the inputs, filters and ``-map``.
    """
    return FFmpegStep(
        name=name,
        weight=frames / rate,
        arguments=(
            *ffmpeg.GLOBAL,
            *arguments,
            "-vn",
            *house_profile.audio_output(),
            *house_profile.FILE_OUTPUT,
        ),
        output=output,
        expected=Expected(
            duration_seconds=frames / rate,
            duration_tolerance=1 / rate,
            has_audio=True,
            has_video=False,
        ),
    )


def join_step(
    pictures: Sequence[dict[str, Any]],
    sounds: Sequence[dict[str, Any]],
    rate: int,
    output: str,
    *,
    copies: bool,
) -> PythonStep:
    """Return the step that puts the parts one behind the other into ``output``, without encoding.

    ``copies``: some of them are a foreign clip's, which may turn out to be stored otherwise than it
    seems; then the step ends with ``CannotCopy``. Parts that we encoded and that do not fit are
    ``RenderFailed``.
    """
    unfit = CannotCopy if copies else RenderFailed
    frames = sum(part["count"] for part in pictures)
    files = dict.fromkeys(part["file"] for part in (*pictures, *sounds))
    return PythonStep(
        name="joining",
        weight=JOIN_SHARE * frames / rate,
        program=PROGRAM,
        arguments={
            "options": {**ffmpeg.demuxing(), **UNDECODED},
            "rate": rate,
            "pictures": list(pictures),
            "sounds": list(sounds),
            "unfit": unfit.code,
        },
        inputs=tuple(files),
        outputs=(output,),
    )
