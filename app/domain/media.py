"""What a probe learns of a clip. Pure data, stored with the upload as JSON."""

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """The most a foreign clip may be; ``max_gigapixels`` of all its pictures together."""

    max_seconds: float
    max_pixels: int
    max_streams: int
    max_frame_rate: float = 120.0
    max_gigapixels: float = 224.0


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """The first video stream. ``width`` and ``height`` as stored, ``rotation`` in degrees clockwise.

    ``start_pts`` in ``time_base`` ticks (a fraction as "num/den"); ``frame_rate`` likewise or None.
    ``variable_rate`` when the frames are not evenly spaced; ``reordered`` when they may be stored in
    another order than they are shown in. ``headers`` identifies what the codec keeps outside of the
    packets (its "extradata"): 32 hex digits, None when unknown. ``keyframes`` are the times, in ticks,
    of the pictures from which on all that is shown can be decoded without anything before them; None
    when unknown.
    """

    codec: str
    profile: str | None
    width: int
    height: int
    pixel_format: str
    rotation: int
    sample_aspect: str
    frame_rate: str | None
    time_base: str
    start_pts: int
    color_primaries: str | None
    color_transfer: str | None
    color_space: str | None
    color_range: str | None
    variable_rate: bool = False
    reordered: bool = True
    headers: str | None = None
    keyframes: tuple[int, ...] | None = None

    @property
    def frame_seconds(self) -> float:
        """The nominal length of one frame, a 25th of a second when the rate is unknown."""
        rate = Fraction(self.frame_rate) if self.frame_rate else Fraction(25)
        return float(1 / rate)


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The first audio stream, if the clip has any.

    ``start_seconds`` and ``end_seconds`` count from the first video frame; None when unknown.
    ``headers`` as of the video.
    """

    codec: str
    sample_rate: int
    channels: int
    layout: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    profile: str | None = None
    headers: str | None = None


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """A probed clip. ``container`` is one of our names (mov, matroska, ...), times in seconds."""

    container: str
    duration_seconds: float
    size_bytes: int
    stream_count: int
    video: VideoInfo
    audio: AudioInfo | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class StillInfo:
    """A picture that somebody brought. ``format`` is png, jpeg or webp; the size as it is shown, in
    pixels, after the rotation that its own data ask for.
    """

    format: str
    width: int
    height: int
    has_alpha: bool


def media_from_json(data: dict[str, Any]) -> MediaInfo:
    """Return the probe result that ``MediaInfo.as_json`` stored."""
    audio, keyframes = data["audio"], data["video"].get("keyframes")
    listed = None if keyframes is None else tuple(keyframes)
    return MediaInfo(
        **{
            **data,
            "video": VideoInfo(**{**data["video"], "keyframes": listed}),
            "audio": AudioInfo(**audio) if audio else None,
        }
    )
