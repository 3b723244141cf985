"""The house profile: what every rendered or joined video of ours is like, so that they join by copy.

H.264 High, yuv420p, BT.709 in TV range, square pixels, a constant rate of ``RATES``, closed groups of
pictures of two seconds; AAC-LC, 48 kHz, stereo; a clock of 30000 ticks a second; the index in front; no
metadata, no chapters. Every encoder gets the same options here, so that the headers (the "extradata")
of two files of one size and rate are the same bytes.
"""

from dataclasses import dataclass
from fractions import Fraction

from app.domain.media import MediaInfo, VideoInfo
from app.operations import ffmpeg
from app.operations.house_headers import SOUND_HEADERS

RATES = (30, 25, 24)
"""Pictures a second, the usual one first; all of them are whole ticks of the clock."""
USUAL_RATE = 30
TIMESCALE = 30_000
AUDIO_RATE = 48_000
SOUND_PACKET = 1024
"""Samples in a packet of AAC."""
AUDIO_KBIT = 192
GROUP_SECONDS = 2
CRF = "20"
PRESET = "veryfast"
LEVEL = "4.0"
"""Holds for every size up to that of ``SIZES`` at every one of ``RATES``."""

SIZES = {"16:9": (1920, 1080), "9:16": (1080, 1920), "1:1": (1080, 1080)}
"""What a shape is rendered as, in pixels."""

RATE_SLACK = Fraction(1, 500)
"""29.97 counts as 30 and 23.976 as 24: one picture in a thousand is shown twice."""
HIGH_DEFINITION_LINES = 720
"""From this height on, colours of a clip that does not say are BT.709, below they are BT.601."""

TAGS = "setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
HDR_TRANSFERS = frozenset({"smpte2084", "arib-std-b67"})
WIDE_PRIMARIES = frozenset({"bt2020"})
HALF_TURN = 180
NOMINAL_NITS = 203
"""What white on paper is in HDR."""
KEPT_LIGHT = 0.5
"""Of that white, as light: up to here nothing changes, what is brighter is compressed."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The size in pixels, both even, and the rate of a video in the house profile."""

    width: int
    height: int
    rate: int = USUAL_RATE

    @property
    def name(self) -> str:
        return f"{self.width}x{self.height} at {self.rate} pictures a second"


def rate_for(video: VideoInfo | None) -> int:
    """Return the rate to render a clip at: its own or the half of it if that is ours, else the usual.

    No clip at all, and a variable rate: the usual one.
    """
    if video is None or video.frame_rate is None or video.variable_rate:
        return USUAL_RATE
    told = Fraction(video.frame_rate)
    for rate in RATES:
        for times in (1, 2, 4):
            if abs(told - rate * times) <= rate * times * RATE_SLACK:
                return rate
    return USUAL_RATE


def video_output(rate: int = USUAL_RATE, *, crf: str = CRF) -> tuple[str, ...]:
    """Return the output options of pictures. They must come out of the filters with ``last_filters``.

    ``crf`` is not in the headers: parts of different quality join.
    """
    return (
        *("-fps_mode", "cfr", "-r", str(rate)),
        *("-c:v", "libx264", "-preset", PRESET, "-crf", crf, "-profile:v", "high", "-level", LEVEL),
        *("-pix_fmt", "yuv420p", "-g", str(GROUP_SECONDS * rate)),
        # Else the headers would depend on settings that do not change what is decoded.
        *("-x264-params", "stitchable=1:open-gop=0", "-threads", ffmpeg.THREADS),
        *("-color_primaries", "bt709", "-color_trc", "bt709"),
        *("-colorspace", "bt709", "-color_range", "tv"),
        *("-video_track_timescale", str(TIMESCALE)),
    )


def audio_output() -> tuple[str, ...]:
    """Return the output options of sound. It must come out of the filters with ``SOUND_FILTERS``."""
    return ("-c:a", "aac", "-b:a", f"{AUDIO_KBIT}k", "-ar", str(AUDIO_RATE), "-ac", "2")


FILE_OUTPUT = (
    *("-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact"),
    *ffmpeg.MP4,
)
"""Output options of the file; which streams it gets is for the caller to ``-map``."""


def output(rate: int = USUAL_RATE) -> tuple[str, ...]:
    """Return every output option but ``-map``: pictures, sound, file."""
    return (*video_output(rate), *audio_output(), *FILE_OUTPUT)


def last_filters(rate: int = USUAL_RATE, frames: int | None = None) -> str:
    """Return what the filters of the pictures end with, whatever was composed before them.

    Only for pictures that are BT.709 already: drawn by us, or through ``color_filters``. ``frames``: how
    many there are. Older versions do not know how long the last one is shown and would leave it out, so
    one more is put behind it.
    """
    even = f"fps={rate}"
    if frames is not None:
        even = f"tpad=stop_mode=clone:stop=1,{even},trim=end_frame={frames}"
    return f"{even},setsar=1,format=yuv420p,{TAGS}"


SOUND_FILTERS = (
    f"aresample={AUDIO_RATE}:rematrix_maxval=1,aformat=sample_fmts=fltp:channel_layouts=stereo"
)
"""What the filters of the sound end with. ``rematrix_maxval``: a downmix of loud sound must not clip."""


def color_filters(video: VideoInfo) -> str:
    """Return filters that turn a foreign clip's colours into BT.709, TV range, 8 bits.

    High dynamic range is tone-mapped. They work at any size: scale down before them, never after a
    composition with pictures of our own.
    """
    if video.color_transfer in HDR_TRANSFERS:
        return (
            f"zscale=t=linear:npl={NOMINAL_NITS},format=gbrpf32le,zscale=p=bt709,"
            f"tonemap=mobius:param={KEPT_LIGHT}:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv420p,{TAGS}"
        )
    if video.color_primaries in WIDE_PRIMARIES and video.color_space is not None:
        return f"zscale=p=bt709:t=bt709:m=bt709:r=tv,format=yuv420p,{TAGS}"
    matrix = _matrix(video)
    told = f"in_color_matrix={matrix}:" if matrix else ""
    return f"scale={told}out_color_matrix=bt709:out_range=tv,format=yuv420p,{TAGS}"


def _matrix(video: VideoInfo) -> str | None:
    """Return how a clip's colours are coded, as the filter calls it; None when they are plain RGB."""
    if video.pixel_format.startswith(("gbr", "rgb", "bgr", "argb", "abgr", "pal8", "0rgb", "0bgr")):
        return None
    known = {
        "bt709": "bt709",
        "bt470bg": "bt601",
        "smpte170m": "bt601",
        "fcc": "fcc",
        "smpte240m": "smpte240m",
        "bt2020nc": "bt2020",
        "bt2020c": "bt2020",
    }
    guess = "bt709" if video.height >= HIGH_DEFINITION_LINES else "bt601"
    return known.get(video.color_space or "", guess)


def upright_size(video: VideoInfo) -> tuple[int, int]:
    """Return width and height as a clip is shown: turned upright, with square pixels."""
    aspect = Fraction(video.sample_aspect) if video.sample_aspect != "0/1" else Fraction(1)
    width, height = max(round(video.width * aspect), 1), video.height
    return (height, width) if video.rotation % HALF_TURN else (width, height)


def is_house(media: MediaInfo) -> bool:
    """Whether a probed clip has the house profile, of whatever size and rate of ours."""
    return why_not(media) is None


def why_not(media: MediaInfo, frame: Frame | None = None) -> str | None:
    """Say what keeps a clip from being copied into a video of the house profile, None: nothing does.

    ``frame``: the size and rate that are wanted.
    """
    return _of_file(media) or _of_video(media.video, frame) or _of_sound(media)


def _of_file(media: MediaInfo) -> str | None:
    if media.container != "mov":
        return "it is not an MP4"
    if media.stream_count != len((media.video, media.audio)) or media.audio is None:
        return (
            "it has no sound" if media.audio is None else "it has more than one picture and sound"
        )
    return None


def _of_video(video: VideoInfo, frame: Frame | None) -> str | None:
    size, wanted = (video.width, video.height), frame and (frame.width, frame.height)
    rate = Fraction(video.frame_rate or 0)
    wanted_rates = RATES if frame is None else (frame.rate,)
    color = (video.color_primaries, video.color_transfer, video.color_space)
    return _first(
        (video.codec != "h264" or video.profile != "High", "its video is not H.264 High"),
        (video.rotation != 0, "it is rotated"),
        (wanted is not None and size != wanted, f"its size is {size[0]}x{size[1]}"),
        (video.pixel_format != "yuv420p", f"its pixel format is {video.pixel_format}"),
        (Fraction(video.sample_aspect) not in {0, 1}, "its pixels are not square"),
        (color != ("bt709",) * 3 or video.color_range != "tv", "its colours are not BT.709"),
        (video.variable_rate, "its frame rate is variable"),
        (rate not in wanted_rates, f"its frame rate is {float(rate):g}"),
        (video.time_base != f"1/{TIMESCALE}", "its clock is another"),
        (video.start_pts != 0, "its first picture is late"),
        (video.headers is None, "its headers are not known"),
    )


def _of_sound(media: MediaInfo) -> str | None:
    audio = media.audio
    if audio is None:
        return "it has no sound"
    packet = SOUND_PACKET / AUDIO_RATE
    start, end = audio.start_seconds, audio.end_seconds
    return _first(
        (audio.codec != "aac" or audio.profile != "LC", "its sound is not AAC-LC"),
        (audio.sample_rate != AUDIO_RATE, f"its sound has {audio.sample_rate} Hz"),
        (audio.layout != "stereo", f"its sound is {audio.layout}"),
        (audio.headers not in SOUND_HEADERS, "the headers of its sound are others"),
        (start is None or abs(start) > packet / 2, "its sound begins at another time"),
        (
            end is None or abs(end - media.duration_seconds) > 2 * packet,
            "its sound is shorter or longer than its pictures",
        ),
    )


def _first(*found: tuple[bool, str]) -> str | None:
    return next((what for is_so, what in found if is_so), None)
