"""Looks at one foreign file with PyAV and prints what it found as JSON.

Run as a script by ``probe`` in a limited process; never imported by the service, since the decoders
work on bytes that nobody trusts:

    probe_child.py FILE OPTIONS_JSON

OPTIONS_JSON: {"format", "options": {..}, "video_codecs": [..], "audio_codecs": [..], "max_pixels"}.
Answers {"error": {"code", "what"}} or {"media": {..}} with the fields of ``MediaInfo``; the size
alone, with ``"media": null``, when the picture is larger than may be decoded.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.codec.context import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# It is started without the service's own search path, and the package may not be installed whole.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from app.infrastructure.media.keyframes import find_keyframes

MOST_PACKETS = 3000
"""So many packets may pass before the first picture comes out."""
TAIL_SECONDS = 2
"""The end is read from here on: the last picture shown is not the last one stored."""
UNEVEN = Fraction(1, 1000)
"""Average and nominal frame rate differ by more than this: the rate is variable."""
SHORT_BY_SECONDS = Fraction(1, 2)
"""A file may end this much before its headers say; beyond, it is truncated."""

PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
}
TRANSFERS = {
    1: "bt709",
    4: "gamma22",
    5: "gamma28",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    11: "iec61966-2-4",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    18: "arib-std-b67",
}
SPACES = {
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020nc",
    10: "bt2020c",
}
RANGES = {1: "tv", 2: "pc"}


class RefusedError(Exception):
    """What is wrong with the file: ``code`` for the parent, the message for people."""

    def __init__(self, code: str, what: str) -> None:
        self.code = code
        super().__init__(what)


TRUNCATED = RefusedError("input_damaged", "The file is truncated: its last pictures are missing")


@dataclass
class Span:
    """First and last moment of a stream, in seconds on the file's own clock."""

    start: Fraction | None = None
    end: Fraction | None = None

    def take(self, packet: "Packet[Any]") -> None:
        """Widen the span by a packet that is to be shown."""
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None or packet.is_discard or packet.size == 0:
            return
        begin = stamp * packet.time_base
        end = begin + (packet.duration or 0) * packet.time_base
        self.start = begin if self.start is None else min(self.start, begin)
        self.end = end if self.end is None else max(self.end, end)


@dataclass
class Look:
    """What the passes over the file gather."""

    first_frame: VideoFrame | None = None
    spans: dict[int, Span] = field(default_factory=dict)

    def span(self, index: int) -> Span:
        return self.spans.setdefault(index, Span())

    @property
    def end(self) -> Fraction:
        return max((s.end for s in self.spans.values() if s.end is not None), default=Fraction(0))


def find_video(container: InputContainer) -> VideoStream:
    """Return the first stream of pictures that is not a cover."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise RefusedError("no_video_stream", "The file has no video stream")


def check_codecs(container: InputContainer, video: VideoStream, asked: dict[str, Any]) -> None:
    chosen: list[tuple[str, Stream, list[str]]] = [("video", video, asked["video_codecs"])]
    chosen += [("sound", s, asked["audio_codecs"]) for s in container.streams.audio[:1]]
    for kind, stream, allowed in chosen:
        # PyAV's types leave out that a stream without a decoder has no context.
        context: CodecContext | None = stream.codec_context
        name = "an unknown codec" if context is None else context.codec.name
        if name not in allowed:
            raise RefusedError("not_media", f"The {kind} is in {name}, which is not read here")


def packets_of(container: InputContainer) -> Iterator["Packet[Any]"]:
    """Yield the packets of the streams that were there when the file was opened.

    Recordings get further streams on the way, and damage looks like some. PyAV leaves out what is in
    them, and stumbles over them once all is read.
    """
    with suppress(IndexError):
        yield from container.demux()


def look_at_start(container: InputContainer, video: VideoStream, look: Look) -> None:
    """Read until the first picture and the first packet of sound are there."""
    video.thread_type = "NONE"
    sounds = [look.span(stream.index) for stream in container.streams.audio[:1]]
    for count, packet in enumerate(packets_of(container)):
        look.span(packet.stream_index).take(packet)
        if packet.stream_index == video.index and look.first_frame is None:
            look.first_frame = first_picture(packet)
        heard = all(span.start is not None for span in sounds)
        if (look.first_frame is not None and heard) or count > MOST_PACKETS:
            return


def first_picture(packet: "Packet[Any]") -> VideoFrame | None:
    try:
        frames: list[Any] = packet.decode()
    except av.error.InvalidDataError:
        return None
    return next((f for f in frames if isinstance(f, VideoFrame)), None)


def look_at_end(container: InputContainer, video: VideoStream, look: Look) -> None:
    """Read from the last keyframe on: headers round, and truncated files have honest ones."""
    tick = video.time_base or Fraction(1, 1000)
    last = video.duration
    if last is None and container.duration is not None:
        last = int(Fraction(container.duration, av.time_base) / tick)
    begin = video.start_time or 0
    target = begin if last is None else begin + last - int(TAIL_SECONDS / tick)
    if target > begin:
        # A short clip is read on from where the first look stopped: some demuxers refuse to seek
        # to before their start. So is one without an index to seek by.
        with suppress(av.error.FFmpegError):
            container.seek(target, stream=video, backward=True)
    indexed = "mov" in container.format.name
    try:
        for packet in packets_of(container):
            look.span(packet.stream_index).take(packet)
            if packet.is_corrupt and indexed:
                raise TRUNCATED
    except av.error.FFmpegError as error:
        # Its index names every packet, so one that cannot be read is missing.
        if indexed:
            raise TRUNCATED from error


def check_complete(container: InputContainer, look: Look) -> None:
    if container.duration is None:
        return
    begin = Fraction(container.start_time or 0, av.time_base)
    declared = Fraction(container.duration, av.time_base)
    if "matroska" not in container.format.name:
        declared += begin  # Matroska's is the last moment itself, others' is a length.
    if declared - look.end > SHORT_BY_SECONDS:
        raise RefusedError(
            "input_damaged",
            f"The file ends before the {float(declared - begin):.3f} s that its headers promise: "
            "it is truncated or damaged",
        )


def describe_video(
    video: VideoStream, frame: VideoFrame, rates: tuple[Fraction, bool]
) -> dict[str, Any]:
    aspect = video.sample_aspect_ratio or Fraction(1)
    tick = frame.time_base or Fraction(1, 1000)
    return {
        "codec": video.codec_context.name,
        "profile": video.profile,
        "width": frame.width,
        "height": frame.height,
        "pixel_format": frame.format.name,
        "rotation": -frame.rotation % 360,
        "sample_aspect": f"{aspect.numerator}/{aspect.denominator}",
        "frame_rate": f"{rates[0].numerator}/{rates[0].denominator}" if rates[0] else None,
        "time_base": f"{tick.numerator}/{tick.denominator}",
        "start_pts": frame.dts if frame.pts is None else frame.pts,
        "color_primaries": PRIMARIES.get(int(frame.color_primaries)),
        "color_transfer": TRANSFERS.get(int(frame.color_trc)),
        "color_space": SPACES.get(int(frame.colorspace)),
        "color_range": RANGES.get(int(frame.color_range)),
        "variable_rate": rates[1],
        "reordered": bool(video.codec_context.has_b_frames),
        "headers": headers_of(video),
    }


def headers_of(stream: Stream) -> str | None:
    """Return what tells one codec's headers from another's; None when it keeps none there."""
    extradata = stream.codec_context.extradata
    return hashlib.sha256(extradata).hexdigest()[:32] if extradata else None


def frame_rates(video: VideoStream) -> tuple[Fraction, bool]:
    """Return the average rate, 0 when unknown, and whether frames are unevenly spaced."""
    average = video.average_rate or video.guessed_rate or Fraction(0)
    nominal = video.base_rate or average
    return average, bool(average) and abs(nominal - average) > average * UNEVEN


def describe_audio(
    container: InputContainer, look: Look, origin: Fraction
) -> dict[str, Any] | None:
    if not container.streams.audio:
        return None
    audio = container.streams.audio[0]
    span = look.span(audio.index)
    context = audio.codec_context
    return {
        "codec": context.name,
        "sample_rate": context.sample_rate,
        "channels": context.channels,
        "layout": context.layout.name,
        "start_seconds": None if span.start is None else round(float(span.start - origin), 6),
        "end_seconds": None if span.end is None else round(float(span.end - origin), 6),
        "profile": audio.profile,
        "headers": headers_of(audio),
    }


def examine(container: InputContainer, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the answer for an opened file."""
    video = find_video(container)
    size = {"width": video.codec_context.width, "height": video.codec_context.height}
    count = len(container.streams)
    check_codecs(container, video, asked)
    if size["width"] * size["height"] > asked["max_pixels"]:
        return {"media": None, "size": size, "stream_count": count}
    look = Look()
    look_at_start(container, video, look)
    if look.first_frame is None:
        raise RefusedError("input_damaged", "No picture of the video can be decoded")
    look_at_end(container, video, look)
    check_complete(container, look)
    described = describe_video(video, look.first_frame, frame_rates(video))
    if described["start_pts"] is None:
        raise RefusedError("input_damaged", "The first picture has no time")
    origin = described["start_pts"] * look.first_frame.time_base
    end = look.span(video.index).end or origin
    described["keyframes"] = find_keyframes(container, video)
    return {
        "media": {
            "duration_seconds": round(float(end - origin), 6),
            "stream_count": count,
            "video": described,
            "audio": describe_audio(container, look, origin),
        },
        "size": size,
        "stream_count": count,
    }


def main(path: str, asked: dict[str, Any]) -> dict[str, Any]:
    try:
        with av.open(
            f"file:{path}",
            format=asked["format"],
            container_options=asked["options"],
            # Titles in another encoding than UTF-8 are common, and nothing is read of them.
            metadata_errors="replace",
        ) as container:
            return examine(container, asked)
    except RefusedError as refusal:
        return {"error": {"code": refusal.code, "what": str(refusal)}}
    except av.error.FFmpegError as error:
        what = f"The file cannot be read as a video ({error.strerror})"
        return {"error": {"code": "input_damaged", "what": what}}


if __name__ == "__main__":
    json.dump(main(sys.argv[1], json.loads(sys.argv[2])), sys.stdout)
