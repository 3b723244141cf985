"""Copies one part of a clip into an MP4 as it is stored; run as a script, never imported.

    copy_child.py ARGUMENTS_JSON INPUT OUTPUT

ARGUMENTS_JSON: {"format", "options": {..}, "origin", "seek", "first", "stop", "time_base", "sound"}:
times in ticks of the video's time base on the clip's own clock, ``origin`` the clip's first picture,
``seek`` where reading may begin, ``stop`` null for the clip's end. Answers as ``telling`` does, with
``end_seconds`` as a fact.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

# It is started without the service's own search path, and the package may not be installed whole.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from app.infrastructure.telling import Teller, tell_facts, tell_refusal

LOOK_AHEAD = 64
"""So many pictures in a row beyond the end, and none before it follows: no codec reorders by more."""
MP4 = {"movflags": "+faststart", "fflags": "+bitexact"}
HEVC_TAG = "hvc1"
"""How players want H.265 named whose parameters lie beside the pictures, not among them."""
MATROSKA = "matroska"


class RefusedError(Exception):
    """Why the part cannot be copied; ``code`` is an error's of the catalogue."""

    def __init__(self, code: str, what: str) -> None:
        self.code = code
        super().__init__(what)


@dataclass
class Kept:
    """The pictures that are kept, in the order they are stored in: time in ticks -> place.

    ``durations`` by time; ``end`` is when the last one stops being shown.
    """

    order: list[int]
    durations: dict[int, int]
    end: int
    decode_times: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The times of showing, in order, are the times of decoding, moved so that none is too late.
        shown = sorted(self.order)
        delay = max(at - stamp for at, stamp in zip(shown, self.order, strict=True))
        pairs = zip(self.order, shown, strict=True)
        self.decode_times = {stamp: at - delay for stamp, at in pairs}


def first_video(container: InputContainer) -> VideoStream:
    """Return the first stream of pictures that is not a cover."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise RefusedError("no_video_stream", "The file has no video stream.")


def from_first(
    container: InputContainer, asked: dict[str, Any], video: VideoStream, others: list[Stream]
) -> Iterator["Packet[Any]"]:
    """Yield packets in the order of the file from a little before the first picture."""
    container.seek(asked["seek"], stream=video, backward=True)
    for packet in container.demux([video, *others]):
        if packet.size:
            if packet.is_corrupt:
                raise RefusedError("input_damaged", "A picture or sound of it cannot be read.")
            yield packet


def pictures(packets: Iterator["Packet[Any]"], first: int) -> Iterator["Packet[Any]"]:
    """Yield from the keyframe ``first`` on what is shown at it or later: not what leads up to it."""
    begun = False
    for packet in packets:
        stamp = packet.pts
        begun = begun or (stamp == first and packet.is_keyframe)
        if not begun or stamp is None or stamp < first:
            continue
        if packet.is_discard or packet.has_sidedata("new_extradata"):
            what = "It hides pictures, or its coding changes on the way; mode exact can cut it."
            raise RefusedError("cannot_copy", what)
        yield packet


def choose(found: Iterator["Packet[Any]"], stop: int | None) -> Kept:
    """Return as many pictures as can be shown up to ``stop`` without storing one of beyond it."""
    order: list[int] = []
    durations: dict[int, int] = {}
    beyond = 0
    for packet in found:
        order.append(packet.pts or 0)
        durations[order[-1]] = packet.duration or 0
        beyond = beyond + 1 if stop is not None and order[-1] >= stop else 0
        if beyond > LOOK_AHEAD:
            break
    if not order or len(durations) != len(order):
        raise RefusedError("cannot_copy", "The times of its pictures are not clear; mode exact is.")
    count = len(order) if stop is None else closed_count(order, stop)
    kept = sorted(order[:count])
    later = min(order[count:], default=None)
    last = kept[-1]
    end = later if later is not None else last + (durations[last] or durations[kept[0]])
    ends = [*kept[1:], end if stop is None else min(end, stop)]
    return Kept(
        order=order[:count],
        durations={stamp: after - stamp for stamp, after in zip(kept, ends, strict=True)},
        end=ends[-1],
    )


def closed_count(order: list[int], stop: int) -> int:
    """Return how many to keep: all before ``stop``, and every one shown before one of them.

    Later pictures are often stored first, since others lean on them: where that is so at the end,
    the part ends earlier rather than hold pictures of beyond it.
    """
    earliest = [0] * len(order)
    least = sys.maxsize
    for place in range(len(order) - 1, -1, -1):
        earliest[place] = least
        least = min(least, order[place])
    count, latest = 1, order[0]
    for place, stamp in enumerate(order):
        latest = max(latest, stamp)
        if latest >= stop:
            break
        if latest < earliest[place]:
            count = place + 1
    return count


def shift(packet: "Packet[Any]", stream: Stream, stamps: tuple[int, int], duration: int) -> None:
    """Give a packet to a stream of the result with new times of showing and decoding."""
    packet.pts, packet.dts = stamps
    packet.duration = duration
    packet.stream = stream


def write(
    source: InputContainer, target: OutputContainer, asked: dict[str, Any], kept: Kept
) -> tuple[int, int]:
    """Copy the chosen pictures and the sound beside them; return the counts of packets."""
    video = first_video(source)
    sounds: list[Stream] = list(source.streams.audio[:1]) if asked["sound"] else []
    to = {
        each.index: target.add_stream_from_template(each, opaque=True) for each in (video, *sounds)
    }
    if video.codec_context.name == "hevc" and MATROSKA in source.format.name:
        to[video.index].codec_context.codec_tag = HEVC_TAG
    tick = Fraction(asked["time_base"])
    begin, end = asked["first"] * tick, kept.end * tick
    teller, first, places = Teller(), asked["first"], kept.decode_times
    counts, heard_all, begun = [0, 0], not sounds, False
    for packet in from_first(source, asked, video, sounds):
        stamp = packet.pts
        if stamp is None:
            continue
        if packet.stream_index == video.index:
            begun = begun or (stamp == first and packet.is_keyframe)
            if not begun or stamp not in places or counts[0] == len(places):
                continue
            times = (stamp - first, places[stamp] - first)
            shift(packet, to[video.index], times, kept.durations[stamp])
            counts[0] += 1
            teller.reach(counts[0] / len(places))
            target.mux(packet)
        else:
            at = stamp * packet.time_base
            length = (packet.duration or 0) * packet.time_base
            last = at if asked["stop"] is None else at + length
            if at >= end:
                heard_all = True
            elif begin <= at and last <= end and not packet.is_discard:
                moved = round((at - begin) / packet.time_base)
                shift(packet, to[packet.stream_index], (moved, moved), packet.duration or 0)
                counts[1] += 1
                target.mux(packet)
        if heard_all and counts[0] == len(places):
            break
    return counts[0], counts[1]


def check(path: str, asked: dict[str, Any], kept: Kept, counts: tuple[int, int]) -> None:
    """Read the result again: it holds and shows what was chosen, at its times, and nothing else."""
    tick = Fraction(asked["time_base"])
    wanted = [(stamp - asked["first"]) * tick for stamp in sorted(kept.order)]
    stamps: list[Fraction] = []
    heard = 0
    with av.open(f"file:{path}", format="mov") as result:
        for packet in result.demux():
            if packet.size == 0:
                continue
            if packet.is_discard or packet.pts is None:
                raise RefusedError("render_failed", "The copy hides a part of what it holds.")
            if packet.stream.type == "video":
                stamps.append(packet.pts * packet.time_base)
            else:
                heard += 1
        slack = max(stream.time_base or tick for stream in result.streams.video)
    off = [abs(is_at - want) for is_at, want in zip(sorted(stamps), wanted, strict=False)]
    if (len(stamps), heard) != (len(wanted), counts[1]) or max(off) > slack:
        raise RefusedError("render_failed", "The copy does not hold what was to be copied.")


def main(path: str, part: str, asked: dict[str, Any]) -> None:
    tick = Fraction(asked["time_base"])
    with av.open(
        f"file:{path}",
        format=asked["format"],
        container_options=asked["options"],
        metadata_errors="replace",
    ) as source:
        video = first_video(source)
        found = pictures(from_first(source, asked, video, []), asked["first"])
        kept = choose(found, asked["stop"])
        with av.open(f"file:{part}", "w", format="mp4", options=MP4) as target:
            counts = write(source, target, asked, kept)
    if counts[0] != len(kept.order):
        raise RefusedError("input_damaged", "Not every picture of it can be read.")
    if asked["sound"] and not counts[1]:
        raise RefusedError("cannot_copy", "Its sound has a gap there; mode exact can cut it.")
    check(part, asked, kept, counts)
    tell_facts({"end_seconds": round(float((kept.end - asked["origin"]) * tick), 6)})


if __name__ == "__main__":
    try:
        main(sys.argv[2], sys.argv[3], json.loads(sys.argv[1]))
    except RefusedError as refusal:
        tell_refusal(refusal.code, str(refusal), {})
        sys.exit(1)
    except av.error.InvalidDataError as error:
        tell_refusal("input_damaged", f"The file is damaged ({error.strerror}).", {})
        sys.exit(1)
