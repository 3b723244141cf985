"""A cut without encoding: pictures and sound are copied as they are stored, from a keyframe on."""

from fractions import Fraction

from app.domain.errors import CannotCopy
from app.domain.media import MediaInfo
from app.operations import ffmpeg
from app.operations.base import ClipInput, Expected, Plan, PlannedOutput, PythonStep
from app.operations.filenames import output_name
from app.operations.timecode import say
from app.operations.trim_cut import HALF, Cut, audible
from app.operations.trim_exact import OUTPUT_FILE

PROGRAM = "copy-cut"

INDEXED = ("mov", "matroska")
MP4_VIDEO = frozenset({"h264", "hevc", "av1", "libdav1d", "vp9", "libvpx-vp9"})
MP4_AUDIO = frozenset({"aac", "mp3", "mp3float", "opus", "libopus", "ac3", "eac3", "alac"})
"""What an MP4 holds so that players play it, by the names of the decoders."""
SOUND_SECONDS = 0.1
"""The sound begins and ends with whole packets: the longest there are."""


def why_no_copy(media: MediaInfo, cut: Cut) -> str | None:
    """Say why a copy would not be what was asked for, None when it is."""
    problem = _obstacle(media) or _no_start(media, cut)
    if problem:
        return problem
    first, origin = find_start(media, cut), media.video.start_pts
    off = abs(first - cut.first) * Fraction(media.video.time_base)
    if off > _half_a_frame(media):
        before = (first - origin) * Fraction(media.video.time_base)
        return f"no keyframe is at the start, the last one before it is at {say(before)}."
    if cut.stop is not None:
        return "a copy may end a few frames early, and the end was asked for."
    return None


def find_start(media: MediaInfo, cut: Cut) -> int:
    """Return the time of the keyframe that a copy begins at, in ticks. Raises ``CannotCopy``."""
    problem = _obstacle(media) or _no_start(media, cut)
    if problem:
        msg = f"The clip cannot be copied: {problem} Ask for mode exact, which re-encodes it."
        raise CannotCopy(msg, extra={"mode": "exact"})
    return _starts(media, cut)[-1]


def copy_plan(clip: ClipInput, cut: Cut, first: int, otherwise: Plan | None = None) -> Plan:
    """Return the one step that copies from the keyframe ``first`` on.

    ``otherwise``: what to do where that cannot be; without it the job fails with ``CannotCopy``.
    """
    media = clip.media
    tick = Fraction(media.video.time_base)
    start = (first - media.video.start_pts) * tick
    sound = audible(media.audio, cut)
    step = PythonStep(
        name="copying",
        weight=1.0,
        program=PROGRAM,
        arguments={
            "format": ffmpeg.DEMUXERS[media.container],
            "options": ffmpeg.demuxing(),
            "time_base": media.video.time_base,
            "origin": media.video.start_pts,
            "seek": first - int(ffmpeg.seek_margin(media) / tick),
            "first": first,
            "stop": cut.stop,
            "sound": sound is not None,
        },
        inputs=(clip.name,),
        outputs=(OUTPUT_FILE,),
        expected=Expected(
            duration_seconds=float(cut.end - start),
            duration_tolerance=_tolerance(media, cut, start),
            has_audio=sound is not None,
            overrun_tolerance=_overrun(media, cut, start),
        ),
    )
    return Plan(
        steps=(step,),
        outputs=(PlannedOutput(OUTPUT_FILE, output_name(clip.filename, "trim"), "video/mp4"),),
        result={
            "mode": "copy",
            "start_seconds": round(float(start), 6),
            "end_seconds": round(float(cut.end), 6),
            "reason": (
                "Copied as it is stored, without re-encoding, from the keyframe at "
                f"{say(start)} on. The sound begins and ends with whole packets, up to "
                f"{SOUND_SECONDS:g} s inside the pictures."
            ),
        },
        warnings=tuple(_changes(media, cut, start)),
        otherwise=otherwise,
    )


def _obstacle(media: MediaInfo) -> str | None:
    """Say what keeps this clip from being copied into an MP4, whatever the part."""
    video, audio = media.video, media.audio
    if media.container not in INDEXED:
        return f"its container ({media.container}) has no index that says where decoding can begin."
    if video.codec not in MP4_VIDEO:
        return f"an MP4 that players play does not hold its video ({video.codec})."
    if audio is not None and audio.codec not in MP4_AUDIO:
        return f"an MP4 that players play does not hold its sound ({audio.codec})."
    if video.keyframes is None:
        return "it is not known where its keyframes are."
    return None


def _no_start(media: MediaInfo, cut: Cut) -> str | None:
    return None if _starts(media, cut) else "no keyframe is at or before the start."


def _starts(media: MediaInfo, cut: Cut) -> list[int]:
    """Return the keyframes that may be begun at; the nearest may be half a frame behind the start."""
    late = cut.first + _half_a_frame(media) / Fraction(media.video.time_base)
    stop = late + 1 if cut.stop is None else cut.stop
    return [at for at in media.video.keyframes or () if at <= late and at < stop]


def _half_a_frame(media: MediaInfo) -> Fraction:
    rate = media.video.frame_rate
    return (1 / Fraction(rate) if rate else Fraction(1, 25)) * HALF


def _tolerance(media: MediaInfo, cut: Cut, start: Fraction) -> float:
    """How much shorter it may be: by what is stored out of its order at the end, and dropped."""
    if cut.stop is None and ffmpeg.is_even(media):
        return media.video.frame_seconds
    if not ffmpeg.is_even(media):
        return float(cut.end - start)
    reordered = ffmpeg.MOST_REORDERED * media.video.frame_seconds
    return reordered + float(ffmpeg.longest_dropped(media))


def _overrun(media: MediaInfo, cut: Cut, start: Fraction) -> float:
    """How much longer it may seem: an MP4 tells how long until the picture that is stored next, which
    is not the one that is shown next, and where the rate varies they may be far apart.

    What is in it has been compared one by one.
    """
    return media.video.frame_seconds if ffmpeg.is_even(media) else float(cut.end - start)


def _changes(media: MediaInfo, cut: Cut, start: Fraction) -> list[str]:
    """Say what the result has otherwise than was asked for, or than the clip."""
    changes = []
    if cut.start - start > _half_a_frame(media):
        early = say(cut.start - start)
        changes.append(f"It begins {early} before the start that was asked for.")
    if cut.stop is not None:
        changes.append("It may end a few frames before the end that was asked for, never after it.")
    if media.video.rotation:
        turn = media.video.rotation
        changes.append(f"The rotation of {turn} degrees is kept as a note for players to follow.")
    if media.audio is not None and audible(media.audio, cut) is None:
        changes.append("The kept part has no sound.")
    others = media.stream_count - (1 if media.audio is None else 2)
    if others > 0:
        changes.append(f"Only the first video and sound were kept; {others} more left out.")
    return changes
