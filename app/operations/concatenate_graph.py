"""The FFmpeg steps of ``concatenate``: one clip into the house profile, and what crossfades need."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from app.domain.media import AudioInfo, MediaInfo, VideoInfo
from app.operations import ffmpeg, house_profile
from app.operations.base import ClipInput, Expected, FFmpegStep
from app.operations.house_parts import samples_of, sound_step, span_filters
from app.operations.house_profile import Frame

RECIPE = "1"
"""Of the normalised clip; whoever changes what one looks or sounds like changes this."""

SOUND_TOLERANCE = 0.015
"""Seconds: gaps of the sound up to this long are closed, longer ones become silence."""
DROPPED_SECONDS = Fraction(1, 2)
"""An evenly spaced clip may all the same lack a few frames where it ends: the last one stays."""
EARLY = 0.25
"""Of a frame: where a keyframe is asked for, so that it is that frame which becomes one."""
NEARLY_FULL = 4
"""Pixels: bars narrower than this, both together, are not worth having; the picture is stretched."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One clip as it will lie in the result. ``frames`` of the result's rate; ``file`` is joined.

    ``why``: what had to be changed, None for a clip that is copied as it is. ``head`` and ``tail`` are
    the frames between which nothing is mixed with a neighbour, and at which decoding can begin.
    """

    clip: ClipInput
    frames: int
    file: str
    why: str | None
    head: int
    tail: int

    @property
    def is_copied(self) -> bool:
        return self.why is None


def normalise(piece: Piece, frame: Frame, marks: Sequence[int] = ()) -> FFmpegStep:
    """Return the step that brings a clip into the house profile.

    ``marks``: frames that get a keyframe, so that the result can be taken apart there.
    """
    clip, media, rate = piece.clip, piece.clip.media, frame.rate
    pictures = f"[0:V:0]{picture_filters(media, frame, piece.frames)}[v]"
    sound = f"{_sound_filters(media, samples_of(piece.frames, rate))}[a]"
    arguments = (
        *ffmpeg.GLOBAL,
        *ffmpeg.foreign_clip(clip.name, media),
        *("-filter_complex_threads", ffmpeg.THREADS),
        *("-filter_complex", f"{pictures};{sound}", "-map", "[v]", "-map", "[a]"),
        *(("-force_key_frames", _moments(marks, rate)) if marks else ()),
        *house_profile.output(rate),
    )
    return FFmpegStep(
        name="normalising",
        weight=_work(media, frame, piece.frames),
        arguments=arguments,
        output=piece.file,
        expected=Expected(
            duration_seconds=piece.frames / rate,
            duration_tolerance=1.5 / rate,
            has_audio=True,
        ),
        pixels=max(frame.width * frame.height, media.video.width * media.video.height),
        cache_key=_cache_key(clip, arguments),
    )


def _cache_key(clip: ClipInput, arguments: Sequence[str]) -> str | None:
    if clip.sha256 is None:
        return None
    told = [clip.sha256, RECIPE, [each for each in arguments if each != f"file:{clip.name}"]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _moments(marks: Sequence[int], rate: int) -> str:
    # A little before each: a time that is rounded up would be that of the next picture.
    return ",".join(f"{(mark - EARLY) / rate:.6f}" for mark in marks)


def _work(media: MediaInfo, frame: Frame, frames: int) -> float:
    """Return about how much work a clip is, in megapixels encoded: decoding is a quarter of that."""
    video = media.video
    decoded = Fraction(video.frame_rate or 25) * Fraction(str(media.duration_seconds))
    pixels = frames * frame.width * frame.height + float(decoded) * video.width * video.height / 4
    return pixels / 1e6


def picture_filters(media: MediaInfo, frame: Frame, frames: int) -> str:
    """Return filters from a foreign picture to exactly ``frames`` of the house profile."""
    video = media.video
    width, height = fit(video, frame)
    pad = f"pad={frame.width}:{frame.height}:{(frame.width - width) // 2}:{(frame.height - height) // 2}"
    # However long the last picture is shown, ``fps`` repeats it until the clip's end; more than the few
    # that a clip may lack there is damage, and a still in their place would hide it.
    hold = DROPPED_SECONDS + ffmpeg.longest_dropped(media)
    return ",".join(
        (
            f"setpts=PTS-({video.start_pts})",
            f"fps={frame.rate}:start_time=0",
            f"scale={width}:{height}",
            house_profile.color_filters(video),
            pad,
            house_profile.last_filters(frame.rate),
            f"tpad=stop_mode=clone:stop_duration={ffmpeg.seconds(hold)}",
            f"trim=end_frame={frames}",
        )
    )


def fit(video: VideoInfo, frame: Frame) -> tuple[int, int]:
    """Return the even size at which a clip, upright, fits into the frame as a whole."""
    width, height = house_profile.upright_size(video)
    scale = min(Fraction(frame.width, width), Fraction(frame.height, height))
    return _even(width * scale, frame.width), _even(height * scale, frame.height)


def _even(exact: Fraction, most: int) -> int:
    nearest = max(2 * round(exact / 2), 2)
    return most if most - nearest < NEARLY_FULL else nearest


def _sound_filters(media: MediaInfo, samples: int) -> str:
    if media.audio is None:
        silence = ffmpeg.silence(samples, house_profile.AUDIO_RATE)
        return f"{silence},{house_profile.SOUND_FILTERS}"
    origin = ffmpeg.seconds(ffmpeg.start_seconds(media.video))
    # Sound that begins late or has gaps gets silence there, so that it stays where it belongs.
    steady = f"async=1:first_pts=0:min_hard_comp={SOUND_TOLERANCE}"
    return ",".join(
        (
            f"[0:a:0]asetpts=PTS-({origin})/TB",
            *_spread(media.audio),
            f"aresample={house_profile.AUDIO_RATE}:{steady}:rematrix_maxval=1",
            "aformat=sample_fmts=fltp:channel_layouts=stereo",
            f"apad=whole_len={samples},atrim=end_sample={samples}",
        )
    )


def _spread(audio: AudioInfo) -> tuple[str, ...]:
    """A single channel goes to both sides as loud as it is, not quieter."""
    return ("pan=stereo|c0=c0|c1=c0",) if audio.channels == 1 else ()


# --- crossfades -------------------------------------------------------------------------------


def fade(before: Piece, after: Piece, frame: Frame, overlap: int, output: str) -> FFmpegStep:
    """Return the step that draws the pictures around one join: the end of one clip, from its ``tail``
    on, over into the beginning of the next, up to its ``head``.
    """
    rate, first, last = frame.rate, before.frames - before.tail, after.head
    length = first + last - overlap
    mix = (
        f"xfade=transition=fade:duration={overlap / rate:.6f}:offset={(first - overlap) / rate:.6f}"
    )
    graph = (
        f"[0:V:0]{span_filters(before.tail, before.frames, rate)}[a];"
        f"[1:V:0]{span_filters(0, last, rate)}[b];"
        f"[a][b]{mix},{house_profile.last_filters(rate, length)}[v]"
    )
    return FFmpegStep(
        name="crossfading",
        weight=length * frame.width * frame.height * 1.5 / 1e6,
        arguments=(
            *(*ffmpeg.GLOBAL, "-filter_complex_threads", ffmpeg.THREADS),
            *_joined(before, frame, Fraction(before.tail, rate)),
            *_joined(after, frame, None),
            *("-filter_complex", graph, "-map", "[v]", "-an"),
            *house_profile.video_output(rate),
            *house_profile.FILE_OUTPUT,
        ),
        output=output,
        expected=Expected(
            duration_seconds=length / rate, duration_tolerance=0.5 / rate, has_audio=False
        ),
        pixels=frame.width * frame.height * 2,
    )


def _joined(piece: Piece, frame: Frame, from_seconds: Fraction | None) -> tuple[str, ...]:
    if piece.is_copied:
        return ffmpeg.foreign_clip(piece.clip.name, piece.clip.media, from_seconds=from_seconds)
    return ffmpeg.own_video(
        piece.file, width=frame.width, height=frame.height, from_seconds=from_seconds
    )


def blend_sound(pieces: Sequence[Piece], frame: Frame, overlap: int, output: str) -> FFmpegStep:
    """Return the step that makes the sound of all clips, each faded over into the next."""
    rate = frame.rate
    inputs = [_joined(piece, frame, None) for piece in pieces]
    lengths = [samples_of(piece.frames, rate) for piece in pieces]
    graph = [
        f"[{i}:a:0]aresample={house_profile.AUDIO_RATE}:async=1:first_pts=0:"
        f"min_hard_comp={SOUND_TOLERANCE},apad=whole_len={n},atrim=end_sample={n}[s{i}]"
        for i, n in enumerate(lengths)
    ]
    so_far = "s0"
    for i in range(1, len(pieces)):
        graph.append(f"[{so_far}][s{i}]acrossfade=ns={samples_of(overlap, rate)}[x{i}]")
        so_far = f"x{i}"
    frames = sum(piece.frames for piece in pieces) - overlap * (len(pieces) - 1)
    samples = samples_of(frames, rate)
    graph.append(f"[{so_far}]apad=whole_len={samples},atrim=end_sample={samples}[a]")
    arguments = (
        *("-filter_complex_threads", ffmpeg.THREADS),
        *(argument for each in inputs for argument in each),
        *("-filter_complex", ";".join(graph), "-map", "[a]"),
    )
    return sound_step("blending the sound", arguments, frames, rate, output)
