"""An exact cut of a clip that we encoded: only the pictures next to its two ends are encoded again.

What lies between the first and the last keyframe of the kept part is copied as it is stored, so that
a long cut takes hardly longer than a short one, and most of its pictures lose nothing.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from app.domain.errors import CannotCopy, InputDamaged, RenderFailed
from app.domain.media import MediaInfo
from app.operations import ffmpeg, house_parts, house_profile
from app.operations.base import ClipInput, Expected, FFmpegStep, Plan, PlannedOutput, Step
from app.operations.filenames import output_name
from app.operations.house_profile import Frame
from app.operations.timecode import say
from app.operations.trim_cut import Cut
from app.operations.trim_exact import CRF, OUTPUT_FILE, SOUND_TOLERANCE

HEAD_FILE, TAIL_FILE, SOUND_FILE = "head", "tail", "sound"
LEAST_MEGAPIXELS = 100
"""Copied: with less, the join and its check take longer than encoding all of it."""


@dataclass(frozen=True, slots=True)
class Edges:
    """In frames of the clip: kept are ``first`` to ``stop - 1``, copied ``begin`` to ``end - 1``."""

    frame: Frame
    first: int
    begin: int
    end: int
    stop: int

    @property
    def encoded(self) -> int:
        """How many pictures are encoded."""
        return self.begin - self.first + self.stop - self.end

    def moment(self, number: int) -> Fraction:
        """When a frame is shown, in seconds."""
        return Fraction(number, self.frame.rate)


def find_edges(media: MediaInfo, cut: Cut) -> Edges | None:
    """Return where to copy, None where all has to be encoded or copying would not be worth it."""
    video = media.video
    rate = Fraction(video.frame_rate or 0)
    if rate not in house_profile.RATES:
        return None
    frame = Frame(video.width, video.height, int(rate))
    if house_parts.why_not_ours(media, frame) is not None:
        return None
    ticks, whole = house_profile.TIMESCALE // frame.rate, house_parts.frames_of(media, frame.rate)
    first = math.ceil(Fraction(cut.first, ticks))
    stop = whole if cut.stop is None else min(math.ceil(Fraction(cut.stop, ticks)), whole)
    keys = (*house_parts.key_frames(media, frame.rate), whole)
    inside = [key for key in keys if first <= key <= stop]
    if not inside:
        return None
    edges = Edges(frame, first, min(inside), max(inside), stop)
    copied = (edges.end - edges.begin) * frame.width * frame.height / 1e6
    return edges if copied >= LEAST_MEGAPIXELS else None


def edges_plan(clip: ClipInput, edges: Edges, otherwise: Plan, why: str = "") -> Plan:
    """Return the steps: what is left of the first and the last group of pictures, the sound, the join.

    ``otherwise``: what to do where the clip does not come apart. ``why`` is said before what was done.
    """
    rate, count = edges.frame.rate, edges.stop - edges.first
    steps: list[Step] = []
    pictures = []
    for file, first, stop in (
        (HEAD_FILE, edges.first, edges.begin),
        (clip.name, edges.begin, edges.end),
        (TAIL_FILE, edges.end, edges.stop),
    ):
        if first == stop:
            continue
        is_copied = file == clip.name
        if not is_copied:
            steps.append(_pictures(clip, edges, first, stop, file))
        pictures.append(house_parts.pictures_part(file, first if is_copied else 0, stop - first))
    steps.append(_sound(clip, edges))
    sounds = [house_parts.sound_part(SOUND_FILE, count, rate)]
    start, end = edges.moment(edges.first), edges.moment(edges.stop)
    steps.append(house_parts.join_step(pictures, sounds, rate, OUTPUT_FILE, copies=True))
    return Plan(
        steps=tuple(steps),
        outputs=(PlannedOutput(OUTPUT_FILE, output_name(clip.filename, "trim"), "video/mp4"),),
        result={
            "mode": "exact",
            "start_seconds": round(float(start), 6),
            "end_seconds": round(float(end), 6),
            "reason": f"{why}Exact to the frame at both ends: kept are the frames from {say(start)} up "
            f"to {say(end)}. {_encoded(edges)}",
        },
        effort=edges.encoded * edges.frame.width * edges.frame.height / 1e6,
        otherwise=otherwise,
        # An index that names the wrong places may leave nothing to see at an end that begins there.
        gives_way_to=(CannotCopy, InputDamaged, RenderFailed),
    )


def _encoded(edges: Edges) -> str:
    """Say what was encoded and what was not."""
    copied = f"from {say(edges.moment(edges.begin))} up to {say(edges.moment(edges.end))}"
    if not edges.encoded:
        return (
            "Both are where the clip comes apart, so its pictures were copied as they are stored."
        )
    return (
        f"The pictures {copied} were copied as they are stored, {edges.encoded} next to the ends were"
        " re-encoded."
    )


def _pictures(clip: ClipInput, edges: Edges, first: int, stop: int, output: str) -> FFmpegStep:
    """Return the step that encodes a few pictures, so that they join with those that are copied."""
    frame, length = edges.frame, stop - first
    filters = (
        f"{house_parts.span_filters(first, stop, frame.rate)},"
        f"{house_profile.last_filters(frame.rate, length)}"
    )
    return FFmpegStep(
        name="encoding the ends",
        weight=length * frame.width * frame.height / 1e6,
        arguments=(
            *ffmpeg.GLOBAL,
            *ffmpeg.foreign_clip(clip.name, clip.media, from_seconds=edges.moment(first)),
            *("-map", "0:V:0", "-an", "-filter:v", filters),
            *house_profile.video_output(frame.rate, crf=CRF),
            *house_profile.FILE_OUTPUT,
        ),
        output=output,
        expected=Expected(
            duration_seconds=length / frame.rate,
            duration_tolerance=0.5 / frame.rate,
            has_audio=False,
        ),
        pixels=frame.width * frame.height,
    )


def _sound(clip: ClipInput, edges: Edges) -> FFmpegStep:
    """Return the step that encodes the sound of the whole cut, to the sample."""
    rate, frames = edges.frame.rate, edges.stop - edges.first
    start, end = edges.moment(edges.first), edges.moment(edges.stop)
    samples = house_parts.samples_of(frames, rate)
    filters = ",".join(
        (
            f"atrim=start={ffmpeg.seconds(start)}:end={ffmpeg.seconds(end)}",
            f"asetpts=PTS-({ffmpeg.seconds(start)})/TB",
            f"aresample=async=1:first_pts=0:min_hard_comp={SOUND_TOLERANCE}",
            f"apad=whole_len={samples},atrim=end_sample={samples}",
        )
    )
    arguments = (
        *ffmpeg.foreign_clip(clip.name, clip.media, from_seconds=start),
        *("-map", "0:a:0", "-filter:a", filters),
    )
    return house_parts.sound_step("encoding the sound", arguments, frames, rate, SOUND_FILE)
