"""Where decoding of a clip can begin; runs in the limited child, since it reads foreign bytes."""

from collections.abc import Iterator
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

MOST_KEYFRAMES = 5000
"""With more, or with more bytes in them, where a clip's keyframes are stays unknown."""
MOST_KEYFRAME_BYTES = 256 * 1024 * 1024

LENGTH_AT_H264, LENGTH_AT_HEVC = 4, 21
"""Where a decoder's configuration says of how many bytes the length of a unit is."""
H264_IDR, H264_SEI, RECOVERY_POINT, MORE = 5, 6, 6, 255
HEVC_STARTS = range(16, 22)
"""Types of units of pictures that decoding can begin at."""


def find_keyframes(container: InputContainer, video: VideoStream) -> list[int] | None:
    """Return the times of the pictures that decoding can begin at, in ticks, in order.

    None where the file has no index of them, or too many. Nothing but keyframes is read, one by one:
    a demuxer that is told to leave out the others counts the times of those it keeps wrongly.
    """
    name = container.format.name
    if "mov" not in name and "matroska" not in name:
        return None
    for stream in container.streams:
        stream.discard = Discard.default if stream is video else Discard.all
    try:
        container.seek(video.start_time or 0, stream=video, backward=True)  # Loads the index.
        listed = [entry for entry in video.index_entries if entry.is_keyframe]
        if len(listed) > MOST_KEYFRAMES or sum(e.size for e in listed) > MOST_KEYFRAME_BYTES:
            return None
        found = _read_each(container, video, [entry.timestamp for entry in listed])
    except av.error.FFmpegError:
        return None
    return sorted(found)


def _read_each(container: InputContainer, video: VideoStream, stamps: list[int]) -> set[int]:
    """Return when the keyframes are shown that an index lists by ``stamps``.

    Its times are those of decoding in some containers, while a seek goes by those of showing: it aims
    at the last moment before the next keyframe, else at the keyframe itself.
    """
    seen: set[int] = set()
    found: set[int] = set()
    ahead = 0
    for place, (stamp, following) in enumerate(zip(stamps, [*stamps[1:], None], strict=True)):
        late = stamp if following is None else following - 1
        for target in (late + ahead, stamp + ahead):
            container.seek(target, stream=video, backward=True)
            packet = next(container.demux(video), None)
            if packet is None:
                continue
            if packet.pts is not None and packet.pts not in seen:
                seen.add(packet.pts)
                if is_clean_start(packet, video):
                    found.add(packet.pts)
                if place == 0 and packet.dts is not None:
                    ahead = packet.pts - packet.dts
            if stamp in (packet.dts, packet.pts):
                break
    return found


def is_clean_start(packet: "Packet[Any]", video: VideoStream) -> bool:
    """Whether all that is shown from this picture on can be decoded without anything before it."""
    if not packet.is_keyframe or packet.is_discard or packet.size == 0:
        return False
    codec, extradata = video.codec_context.name, video.codec_context.extradata or b""
    if codec == "h264":
        return any(starts_h264(unit) for unit in units(bytes(packet), extradata, LENGTH_AT_H264))
    if codec == "hevc":
        listed = units(bytes(packet), extradata, LENGTH_AT_HEVC)
        return any((unit[0] >> 1) & 63 in HEVC_STARTS for unit in listed if unit)
    return True


def units(data: bytes, extradata: bytes, length_at: int) -> Iterator[bytes]:
    """Yield the units of a picture; none where they are not stored behind their lengths."""
    if len(extradata) <= length_at or extradata[0] != 1:
        return
    width = (extradata[length_at] & 3) + 1
    at = 0
    while at + width < len(data):
        length = int.from_bytes(data[at : at + width], "big")
        yield data[at + width : at + width + length]
        at += width + length


def starts_h264(unit: bytes) -> bool:
    """Whether a unit is of a picture that resets all, or promises exact pictures from here on."""
    kind = unit[0] & 31 if unit else 0
    if kind != H264_SEI:
        return kind == H264_IDR
    for payload, content in messages(unit[1:].replace(b"\0\0\3", b"\0\0")):
        if payload == RECOVERY_POINT:
            # The count of frames until all is exact comes first; 0 is written as a single 1.
            return bool(content[:1]) and bool(content[0] & 128)
    return False


def messages(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of each message that a unit of them holds."""
    at = 0
    while at + 2 < len(body):
        payload, at = _number(body, at)
        size, at = _number(body, at)
        yield payload, body[at : at + size]
        at += size


def _number(body: bytes, at: int) -> tuple[int, int]:
    """Return a number that is written as a sum of bytes, and where the next begins."""
    number = 0
    while at < len(body) and body[at] == MORE:
        number, at = number + MORE, at + 1
    return (number + body[at] if at < len(body) else number), at + 1
