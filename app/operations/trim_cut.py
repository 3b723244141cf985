"""Which part of a clip is kept: times as they were asked for, on the clip's own clock."""

import math
from dataclasses import dataclass
from fractions import Fraction

from pydantic import Field

from app.domain.errors import TrimOutOfRange
from app.domain.media import AudioInfo, MediaInfo
from app.operations import ffmpeg
from app.operations.base import Params
from app.operations.timecode import Timecode, say, to_seconds

END_TOLERANCE = Fraction(1, 1000)
"""A clip's length is told rounded: an end this little beyond it means the clip's end."""
HALF = Fraction(1, 2)


class SpanParams(Params):
    """A stretch of a clip. Times count from the first frame."""

    start: Timecode | None = Field(
        default=None,
        description="Where to begin: seconds, or HH:MM:SS.mmm. Left out: at the first frame.",
        examples=[2, "00:00:02.000"],
    )
    end: Timecode | None = Field(
        default=None,
        description="Where to stop; the frame at this time is not kept. Left out: the clip's end.",
        examples=[7, "00:00:07.000"],
    )

    def check(self) -> None:
        """Raise ``TrimOutOfRange`` when no clip is long enough for this, however long it is."""
        start, end = _times(self)
        problem = _contradiction(start, end)
        if problem:
            msg = f"{problem}."
            raise TrimOutOfRange(msg)


@dataclass(frozen=True, slots=True)
class Cut:
    """What is kept, in ticks of the video's time base on the clip's own clock: first <= pts < stop.

    ``stop`` is None when the rest of the clip is kept.
    """

    first: int
    stop: int | None
    start: Fraction
    end: Fraction

    @property
    def length(self) -> Fraction:
        """Seconds kept."""
        return self.end - self.start


def find_cut(params: SpanParams, media: MediaInfo) -> Cut:
    """Return the cut that ``params`` ask for, to the nearest tick of the clip's clock.

    Half a tick of tolerance: 2.0333 means the frame at 2.03333. Raises ``TrimOutOfRange``.
    """
    video = media.video
    tick = Fraction(video.time_base)
    whole = Fraction(str(media.duration_seconds))
    start, asked_end = _times(params)
    end = whole if asked_end is None else asked_end
    _check_range(start, end, whole, media.duration_seconds)
    first = math.ceil(start / tick - HALF)
    stop = math.ceil(end / tick - HALF)
    to_the_end = end >= whole - tick * HALF
    if stop <= first or not (to_the_end or _holds_a_frame(media, first * tick, stop * tick)):
        raise _out_of_range("No frame lies between start and end", media.duration_seconds)
    return Cut(
        first=video.start_pts + first,
        stop=None if to_the_end else video.start_pts + stop,
        start=first * tick,
        end=whole if to_the_end else stop * tick,
    )


def _times(params: SpanParams) -> tuple[Fraction, Fraction | None]:
    """Return start and end in seconds; an end that was left out is None."""
    start = Fraction(0) if params.start is None else to_seconds(params.start)
    return start, None if params.end is None else to_seconds(params.end)


def _contradiction(start: Fraction, end: Fraction | None) -> str | None:
    """Say what is wrong with the times whatever the clip, None when nothing is."""
    if start < 0 or (end is not None and end < 0):
        return "start and end cannot be negative"
    if end is not None and start >= end:
        return f"start ({say(start)}) must be before end ({say(end)})"
    return None


def _check_range(start: Fraction, end: Fraction, whole: Fraction, told: float) -> None:
    if start >= whole:
        problem = f"start is {say(start)}, at or beyond the clip's end"
        raise _out_of_range(problem, told)
    if end > whole + END_TOLERANCE:
        problem = f"end is {say(end)}, beyond the clip's end"
        raise _out_of_range(problem, told)
    contradiction = _contradiction(start, end)
    if contradiction:
        raise _out_of_range(contradiction, told)


def _out_of_range(what: str, duration_seconds: float) -> TrimOutOfRange:
    return TrimOutOfRange(
        f"{what}. The clip is {duration_seconds:.3f} s long.",
        extra={"duration_seconds": duration_seconds},
    )


def _holds_a_frame(media: MediaInfo, start: Fraction, end: Fraction) -> bool:
    """Whether an evenly spaced clip shows a new frame in there; a variable one may."""
    video = media.video
    if video.frame_rate is None or not ffmpeg.is_even(media):
        return True
    frame = 1 / Fraction(video.frame_rate)
    tick = Fraction(video.time_base)
    return math.ceil((start - tick) / frame) * frame < end + tick


def audible(audio: AudioInfo | None, cut: Cut) -> AudioInfo | None:
    """Return the sound if any of it lies in the kept part; an empty track would fail to be written."""
    if audio is None:
        return None
    late = audio.start_seconds is not None and audio.start_seconds >= cut.end
    over = audio.end_seconds is not None and audio.end_seconds <= cut.start
    return None if late or over else audio
