"""Builds argument lists for FFmpeg from typed values; runs nothing.

There is one function for each kind of input, and no other way to pass one: a foreign clip, whose
bytes and headers are not to be trusted; a picture that our own child drew; a video that an earlier
step of the job encoded. Sources inside a
filter graph (``silence``) are made of numbers only.
"""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

from app.domain.media import MediaInfo, VideoInfo

DEMUXERS = {
    "mov": "mov",
    "matroska": "matroska",
    "mpegts": "mpegts",
    "avi": "avi",
    "ogg": "ogg",
    "flv": "flv",
}
"""Our name of a container -> FFmpeg's demuxer for it."""

CONTAINER_NAMES = ("MP4/MOV", "Matroska", "WebM", "MPEG-TS", "AVI", "Ogg", "FLV")
"""The same for people."""

PROTOCOLS = "file"
FORMATS = "mov,matroska,webm,mpegts,avi,ogg,flv"
VIDEO_CODECS = (
    "h264",
    "hevc",
    "vp8",
    "vp9",
    "libvpx-vp9",
    "av1",
    "libdav1d",
    "mpeg4",
    "mpeg1video",
    "mpeg2video",
    "h263",
    "flv",
    "theora",
    "mjpeg",
    "prores",
)
AUDIO_CODECS = (
    "aac",
    "mp3",
    "mp3float",
    "mp2",
    "mp2float",
    "opus",
    "libopus",
    "vorbis",
    "libvorbis",
    "flac",
    "ac3",
    "eac3",
    "alac",
    "amrnb",
    "amrwb",
    "pcm_u8",
    "pcm_s16le",
    "pcm_s16be",
    "pcm_s24le",
    "pcm_s24be",
    "pcm_s32le",
    "pcm_s32be",
    "pcm_f32le",
    "pcm_f32be",
    "pcm_alaw",
    "pcm_mulaw",
)
CODECS = ",".join((*VIDEO_CODECS, *AUDIO_CODECS))

PROBE_BYTES = 20_000_000
PROBE_MICROSECONDS = 20_000_000
CODING_MARGIN = 128
"""Decoders allocate whole coding blocks: a picture's stored size may be this much larger per side."""
LEAST_STREAMS = 16

THREADS = "{threads}"
"""Stands for a number of threads until the step runs; see ``complete``."""
ENHANCEMENTS = "{enhancements}"
"""Stands for options that only newer versions know; see ``complete``."""
_ENHANCEMENT_OPTIONS = ("-export_side_data", "+enhancements")
_ENHANCEMENTS_SINCE = 8

SEEKABLE = frozenset({"mov", "matroska"})
"""Containers with an index of keyframes. In the others a seek may land behind one, losing frames."""
SEEK_MARGIN = Fraction(1)
"""Seconds, at least: seeks go by the time of decoding, which lies before that of presentation."""
MOST_REORDERED = 20
"""Frames: no codec here stores a picture further ahead of its turn."""
LONGEST_PAUSE = Fraction(60)
"""Seconds: across a pause of a variable rate, decoding may be ahead by as long as it lasts."""

UNEVEN = Fraction(1, 1000)
"""The probe calls a rate variable from this share of frames on that are not where they should be."""

GLOBAL = ("-nostdin", "-xerror", "-copyts", "-filter_threads", THREADS)
"""Before everything. ``-copyts``: filters cut by the clip's own timestamps, not by shifted ones."""

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}\Z")
_ELEMENT = re.compile(r"[a-z][a-z0-9_]{0,40}\Z")


def demuxing() -> dict[str, str]:
    """Return the options for whatever of ours opens a foreign clip by itself, in the limited child."""
    return {
        "protocol_whitelist": PROTOCOLS,
        "format_whitelist": FORMATS,
        "codec_whitelist": CODECS,
        "probesize": str(PROBE_BYTES),
        "analyzeduration": str(PROBE_MICROSECONDS),
    }


def foreign_clip(
    name: str, media: MediaInfo, *, from_seconds: Fraction | None = None
) -> tuple[str, ...]:
    """Return the options and the ``-i`` of a foreign clip called ``name`` in the working directory.

    ``from_seconds`` (on the clip's own clock) lets reading begin at a keyframe at or before it.
    Raises ``ValueError`` for a name that is not a plain id.
    """
    if not _NAME.match(name):
        msg = f"not the name of an input: {name!r}"
        raise ValueError(msg)
    video = media.video
    return (
        *("-protocol_whitelist", PROTOCOLS),
        *("-format_whitelist", FORMATS),
        *("-codec_whitelist", CODECS),
        *("-max_pixels", str((video.width + CODING_MARGIN) * (video.height + CODING_MARGIN))),
        *("-max_streams", str(max(LEAST_STREAMS, media.stream_count))),
        *("-probesize", str(PROBE_BYTES)),
        *("-analyzeduration", str(PROBE_MICROSECONDS)),
        *("-threads", THREADS),
        ENHANCEMENTS,
        *("-f", DEMUXERS[media.container]),
        *_seek(media, from_seconds),
        *("-i", f"file:{name}"),
    )


def drawn_picture(name: str) -> tuple[str, ...]:
    """Return the options and the ``-i`` of a picture that we drew, ``<name>.png``: one frame, no more.

    ``name`` is an element's: lower-case letters, digits and ``_``. A filter shows the frame for longer
    (``loop``); the input option for that would decode it again for each. Raises ``ValueError``.
    """
    if not _ELEMENT.match(name):
        msg = f"not the name of an element: {name!r}"
        raise ValueError(msg)
    return (
        *("-protocol_whitelist", PROTOCOLS),
        *("-format_whitelist", "png_pipe", "-codec_whitelist", "png"),
        *("-threads", "1", "-f", "png_pipe", "-framerate", "1"),
        *("-i", f"file:{name}.png"),
    )


def own_video(
    name: str, *, width: int, height: int, from_seconds: Fraction | None = None
) -> tuple[str, ...]:
    """Return the options and the ``-i`` of an MP4 that an earlier step of the same job has encoded.

    ``from_seconds`` lets reading begin at a keyframe before it; what we encode has one every few
    seconds. Raises ``ValueError`` for a name that is not a plain one.
    """
    if not _NAME.match(name):
        msg = f"not the name of a step's result: {name!r}"
        raise ValueError(msg)
    late = None if from_seconds is None else from_seconds - SEEK_MARGIN
    return (
        *("-protocol_whitelist", PROTOCOLS),
        *("-format_whitelist", "mov", "-codec_whitelist", "h264,aac"),
        *("-max_pixels", str((width + CODING_MARGIN) * (height + CODING_MARGIN))),
        *("-max_streams", str(LEAST_STREAMS)),
        *("-threads", THREADS, "-f", "mov"),
        *(_seek_to(late) if late is not None and late > 0 else ()),
        *("-i", f"file:{name}"),
    )


def silence(samples: int, rate: int) -> str:
    """Return a source of so many silent stereo samples, for a filter graph."""
    return f"anullsrc=r={int(rate)}:cl=stereo,atrim=end_sample={int(samples)}"


def _seek(media: MediaInfo, from_seconds: Fraction | None) -> tuple[str, ...]:
    if from_seconds is None or media.container not in SEEKABLE:
        return ()
    target = from_seconds - seek_margin(media)
    if target <= start_seconds(media.video):
        return ()
    return _seek_to(target)


def _seek_to(target: Fraction) -> tuple[str, ...]:
    return ("-noaccurate_seek", "-seek_timestamp", "1", "-ss", seconds(target))


def is_even(media: MediaInfo) -> bool:
    """Whether the frames are evenly spaced; only of an indexed file is that measured, not told."""
    return media.container == "mov" and not media.video.variable_rate


def longest_dropped(media: MediaInfo) -> Fraction:
    """Return how long a pause of frames may be that calls itself evenly spaced, in seconds."""
    return Fraction(str(media.duration_seconds)) * UNEVEN


def seek_margin(media: MediaInfo) -> Fraction:
    """Return how much earlier to look for a keyframe, so that none behind the moment is found."""
    video = media.video
    if media.container != "mov" or not video.reordered:
        # Matroska's index has the times of presentation.
        return SEEK_MARGIN
    if video.variable_rate or video.frame_rate is None:
        return LONGEST_PAUSE
    reordered = MOST_REORDERED / Fraction(video.frame_rate)
    return max(SEEK_MARGIN, reordered) + longest_dropped(media)


def start_seconds(video: VideoInfo) -> Fraction:
    """Return when the first frame is shown, on the clip's own clock."""
    return video.start_pts * Fraction(video.time_base)


def seconds(value: Fraction) -> str:
    """Return a time as FFmpeg reads it, to the microsecond."""
    return f"{float(value):.6f}"


OUTPUT = (
    *("-map", "0:V:0", "-map", "0:a:0?", "-sn", "-dn"),
    *("-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact"),
)
"""Of every output: the first picture that is not a cover, the first sound, nothing else."""


MP4 = ("-movflags", "+faststart", "-f", "mp4")


_PLACE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_OF_THE_MACHINE = frozenset({THREADS, ENHANCEMENTS})


def put_in(arguments: Sequence[str], numbers: Mapping[str, int]) -> tuple[str, ...]:
    """Return ``arguments`` with the ``numbers`` that earlier steps found in their places.

    Raises ``KeyError`` for a number that no step has told.
    """
    return tuple(
        argument
        if argument in _OF_THE_MACHINE
        else _PLACE.sub(lambda found: str(int(numbers[found[1]])), argument)
        for argument in arguments
    )


def complete(arguments: Sequence[str], *, threads: int, major: int) -> list[str]:
    """Return ``arguments`` with what only the machine knows put in: threads, FFmpeg's version."""
    done: list[str] = []
    for argument in arguments:
        if argument == THREADS:
            done.append(str(threads))
        elif argument == ENHANCEMENTS:
            done.extend(_ENHANCEMENT_OPTIONS if major >= _ENHANCEMENTS_SINCE else ())
        else:
            done.append(argument)
    return done
