"""Puts videos of the house profile one behind the other, packet by packet; run as a script.

    join_child.py ARGUMENTS_JSON INPUT... OUTPUT

ARGUMENTS_JSON: {"options": {..}, "rate", "pictures": [{"file", "first", "count"}],
"sounds": [{"file", "samples"}], "unfit"}: ``file`` names one of the inputs, ``first`` a keyframe of
it, both counted in frames of ``rate``; ``unfit`` is the code for parts that do not fit together.
Answers as ``telling`` does.

Pictures lie exactly behind each other. Packets of sound are 1024 samples long and cannot be cut, so
each file's sound begins at the nearest place of one grid: at most 11 ms beside its pictures, never
adding up, without a gap or an overlap.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from heapq import merge
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

# It is started without the service's own search path, and the package may not be installed whole.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from app.infrastructure.telling import Teller, tell_facts, tell_refusal
from app.operations.house_headers import REORDERED

TICKS = 30_000
"""Of the clock of pictures, a second."""
SAMPLES = 48_000
"""A second of sound."""
SHARED = 240_000
"""The least number that both go into."""
PACKET = 1024
HALF_A_PACKET_BEFORE = -Fraction(PACKET, 2 * SAMPLES)
MISSING_PACKETS = 3
"""So many packets of sound may be missing at the end of a file; the last one fills in."""
WRITING_SHARE = 0.9
"""Of the time; the rest is reading the result again."""
MP4 = {"movflags": "+faststart", "video_track_timescale": str(TICKS), "fflags": "+bitexact"}


LENGTH_BYTES = 4
"""Of a unit of a picture; the headers that all files share say so."""
KIND_BITS, IDR = 31, 5
DELIMITER = bytes((0, 0, 0, 2, 9, 16))
"""A unit that says that a picture begins, which stands for itself."""


class UnfitError(Exception):
    """What keeps the files from being joined, for people."""


@dataclass(frozen=True)
class Placed:
    """A packet with its time of showing and of decoding in the result, in units of its stream, and
    when its turn is, in units that both streams share.
    """

    packet: "Packet[Any]"
    shown: int
    decoded: int
    length: int
    turn: int


class Inputs:
    """Opens each use of an input for itself, so that pictures and sound are read side by side."""

    def __init__(self, options: dict[str, str]) -> None:
        self._options = options

    def open(self, name: str) -> InputContainer:
        return av.open(
            f"file:{name}", format="mov", container_options=self._options, metadata_errors="replace"
        )


def packets_of(container: InputContainer, stream: Stream) -> Iterator["Packet[Any]"]:
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        if packet.is_corrupt or packet.pts is None or packet.dts is None:
            raise UnfitError("A packet of it cannot be read")
        yield packet


# --- pictures -----------------------------------------------------------------------------------


def pictures(inputs: Inputs, parts: Sequence[dict[str, Any]], rate: int) -> Iterator[Placed]:
    """Yield the pictures of all parts, each part behind the one before it."""
    begin, headers = 0, b""
    is_after_keyframe = False
    for part in parts:
        with inputs.open(part["file"]) as container:
            video = container.streams.video[0]
            own = bytes(video.codec_context.extradata or b"")
            if own != (headers := headers or own):
                raise UnfitError("The headers of the pictures differ")
            for number, placed in enumerate(part_of(container, part, rate, begin)):
                is_keyframe = placed.packet.is_keyframe
                is_seam = number == 0 and is_after_keyframe
                yield replace(placed, packet=set_apart(placed.packet)) if is_seam else placed
                is_after_keyframe = is_keyframe
        begin += part["count"] * TICKS // rate


def kinds_of(packet: "Packet[Any]") -> set[int]:
    """Return the kinds of units that a picture is made of. Raises where they do not fill it."""
    data, at = memoryview(packet), 0
    kinds: set[int] = set()
    while at < len(data):
        length = int.from_bytes(data[at : at + LENGTH_BYTES], "big")
        begin, at = at + LENGTH_BYTES, at + LENGTH_BYTES + length
        if length == 0 or at > len(data):
            raise UnfitError("A picture of it is damaged")
        kinds.add(data[begin] & KIND_BITS)
    return kinds


def set_apart(packet: "Packet[Any]") -> "Packet[Any]":
    """Return the packet with a unit in front that says that a picture begins.

    Two pictures that stand for themselves and follow each other differ by a number, so that they are
    not taken for two parts of one; those of two encoders may have the same.
    """
    marked: Packet[Any] = Packet(DELIMITER + bytes(packet))
    marked.is_keyframe = packet.is_keyframe
    return marked


def part_of(
    container: InputContainer, part: dict[str, Any], rate: int, begin: int
) -> Iterator[Placed]:
    """Yield the pictures of one part. What leans on another part, or is not there, is refused."""
    length = TICKS // rate
    first = part["first"] * length
    stop = first + part["count"] * length
    if first:
        container.seek(first, stream=container.streams.video[0], backward=True)
    count, is_over = 0, False
    for packet in packets_of(container, container.streams.video[0]):
        shown, decoded = ticks(packet.pts, packet), ticks(packet.dts, packet)
        if count == 0 and (shown != first or not packet.is_keyframe):
            if shown < first:
                continue
            raise UnfitError("It does not begin with a picture that stands for itself")
        if shown >= stop:
            is_over = True
            if decoded > stop:
                break
            continue
        if is_over or shown < first or packet.has_sidedata("new_extradata"):
            raise UnfitError("Its pictures cannot be taken apart where they must be")
        # What merely promises that all can be decoded from it on still counts on what was before it.
        if packet.is_discard or (IDR not in kinds_of(packet) and count == 0):
            raise UnfitError("Its pictures lean on what would not be there")
        # One or two pictures are stored as if nothing were ever reordered: beside others they are late.
        decoded = min(decoded, first + (count - REORDERED) * length)
        count += 1
        moved = begin - first
        yield Placed(
            packet, shown + moved, decoded + moved, length, (decoded + moved) * SHARED // TICKS
        )
    if count != part["count"]:
        msg = f"It has {count} pictures where {part['count']} were expected"
        raise UnfitError(msg)


def ticks(stamp: int | None, packet: "Packet[Any]") -> int:
    base = packet.time_base
    return (stamp or 0) * base.numerator * TICKS // base.denominator


# --- sound --------------------------------------------------------------------------------------


def sounds(inputs: Inputs, parts: Sequence[dict[str, Any]]) -> Iterator[Placed]:
    """Yield the sound of all parts on one grid of packets.

    A decoder needs the packet before the first one that is heard. A file has one for that, which
    takes the place of the last packet of the file before: that one fades out in it.
    """
    ends, total = places(parts)
    place = -1
    for part, end in zip(parts, ends, strict=True):
        with inputs.open(part["file"]) as container:
            for packet in wanted(container, end - place):
                begin = place * PACKET
                length = min(PACKET, total - begin)
                yield Placed(packet, begin, begin, length, begin * SHARED // SAMPLES)
                place += 1


def places(parts: Sequence[dict[str, Any]]) -> tuple[list[int], int]:
    """Return where in the grid each part's packets end, and how many samples there are in all.

    Each part begins a packet before its sound is heard, at -1 the first, and ends where the next one
    begins; the last one ends when all is heard.
    """
    ends: list[int] = []
    total = 0
    for part in parts:
        total += part["samples"]
        ends.append(round(Fraction(total, PACKET)) - 1)
    ends[-1] = -(-total // PACKET)
    return ends, total


def wanted(container: InputContainer, count: int) -> Iterator["Packet[Any]"]:
    """Yield so many packets, the first of them the last one before the sound is heard."""
    before: Packet[Any] | None = None
    last: Packet[Any] | None = None
    given = 0
    for packet in packets_of(container, container.streams.audio[0]):
        if given == 0 and (packet.pts or 0) * packet.time_base < HALF_A_PACKET_BEFORE:
            before = packet
            continue
        lead = [before or packet] if given == 0 else []
        for each in (*lead, packet):
            if given < count:
                given += 1
                yield each
        last = packet
        if given >= count:
            return
    if last is None or count - given > MISSING_PACKETS:
        raise UnfitError("Its sound is shorter than its pictures")
    for _ in range(count - given):
        yield last


# --- joining ------------------------------------------------------------------------------------


def join(asked: dict[str, Any], target: str) -> dict[str, Any]:
    """Write the result and return what it is."""
    inputs, rate = Inputs(asked["options"]), int(asked["rate"])
    frames = sum(part["count"] for part in asked["pictures"])
    teller = Teller()
    with (
        inputs.open(asked["pictures"][0]["file"]) as picture,
        inputs.open(asked["sounds"][0]["file"]) as sound,
        av.open(f"file:{target}", "w", format="mp4", container_options=MP4) as result,
    ):
        video = result.add_stream_from_template(picture.streams.video[0], opaque=True)
        audio = result.add_stream_from_template(sound.streams.audio[0], opaque=True)
        ticks_of = (Fraction(1, TICKS), Fraction(1, SAMPLES))
        video.time_base, audio.time_base = ticks_of
        seen = ((each, video) for each in pictures(inputs, asked["pictures"], rate))
        heard = ((each, audio) for each in sounds(inputs, asked["sounds"]))
        for placed, stream in merge(seen, heard, key=lambda pair: pair[0].turn):
            packet = placed.packet
            packet.time_base = ticks_of[stream.index]
            packet.pts, packet.dts, packet.duration = placed.shown, placed.decoded, placed.length
            packet.stream = stream
            try:
                result.mux(packet)
            except av.error.ArgumentError as error:
                raise UnfitError("The times of its pictures do not go together") from error
            teller.reach(placed.turn * rate / (SHARED * frames) * WRITING_SHARE)
    return check(inputs, target, frames, rate)


def check(inputs: Inputs, target: str, frames: int, rate: int) -> dict[str, Any]:
    """Read the result again and return what it is; no gap, no overlap, nothing missing."""
    length = TICKS // rate
    shown: list[int] = []
    with inputs.open(target) as container:
        decoded = -TICKS
        for packet in packets_of(container, container.streams.video[0]):
            if ticks(packet.dts, packet) <= decoded:
                raise UnfitError("The times of decoding do not rise")
            decoded = ticks(packet.dts, packet)
            shown.append(ticks(packet.pts, packet))
    if sorted(shown) != [number * length for number in range(frames)]:
        raise UnfitError("The pictures of the result are not evenly spaced")
    end: int | None = None
    with inputs.open(target) as container:
        for packet in packets_of(container, container.streams.audio[0]):
            if end is not None and packet.pts != end:
                raise UnfitError("The sound of the result has a gap")
            end = (packet.pts or 0) + (packet.duration or 0)
    if abs(Fraction(end or 0, SAMPLES) - Fraction(frames, rate)) > Fraction(1, rate):
        raise UnfitError("The sound of the result is not as long as its pictures")
    return {"frames": frames}


def main(arguments: list[str]) -> int:
    asked = json.loads(arguments[0])
    try:
        tell_facts(join(asked, arguments[-1]))
    except UnfitError as unfit:
        what = str(unfit)
    except av.error.InvalidDataError as error:
        what = f"It is damaged ({error.strerror})"
    else:
        return 0
    tell_refusal(asked["unfit"], f"The clips could not be joined: {what}.", {})
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
