"""Exact cuts of clips that we encoded: most pictures are copied, all are the right ones."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from app.domain.errors import CannotCopy, InputDamaged
from app.operations import house_parts, house_profile, trim_edges
from app.operations.base import FFmpegStep, Plan, PythonStep
from app.operations.house_profile import GROUP_SECONDS
from app.operations.trim import TrimParams
from tests.fakes.boxes import Box, find
from tests.fakes.clips import SAMPLE_RATE, Shown, read_frames, read_sound
from tests.fakes.cuts import TEN_MILLISECONDS, assert_same_pictures, sound_lag, source_frames
from tests.fakes.house_clips import CLOSED, OPEN, PROMISING, SECONDS, SIZE, make_house_clip
from tests.fakes.joining import concatenate, stamps
from tests.fakes.media_bench import INPUT, MediaBench, open_bench

LITTLE = 5
"""Megapixels: from here on these small clips are worth copying."""
ACCESS_UNIT_DELIMITER = 9


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.getbasetemp() / "house"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trim_edges, "LEAST_MEGAPIXELS", LITTLE)


@pytest.fixture
async def bench(tmp_path: Path, clips: Path) -> AsyncIterator[MediaBench]:
    # Beside the clips, since inputs are hard links.
    async with open_bench(clips.parent / f"edges-{tmp_path.name}") as opened:
        yield opened


async def house_clip(bench: MediaBench, clips: Path, rate: int = 30, x264: str = CLOSED) -> Path:
    return await asyncio.to_thread(make_house_clip, clips, bench.ffmpeg.path, rate, x264)


async def cut(
    bench: MediaBench, clip: Path, start: float | None, end: float | None
) -> tuple[Path, Plan]:
    """Cut as a trim in the mode exact does, and see that pictures were copied."""
    result, plan = await bench.trim(clip, start, end)
    assert isinstance(plan.steps[-1], PythonStep)
    assert plan.result["mode"] == "exact"
    return result, plan


def encoded_files(plan: Plan) -> list[str]:
    return [step.output for step in plan.steps if isinstance(step, FFmpegStep)]


def copied(plan: Plan) -> tuple[int, int]:
    """Return the first picture that was copied, and the first behind them."""
    (joining,) = [step for step in plan.steps if isinstance(step, PythonStep)]
    (part,) = [part for part in joining.arguments["pictures"] if part["file"] == INPUT]
    return part["first"], part["first"] + part["count"]


def assert_stored_once(result: Path, frames: int, rate: int) -> None:
    """Evenly spaced pictures from 0, nothing stored besides, sound without a gap and as long."""
    found = stamps(result)
    assert sorted(at for at, _, _ in found["video"]) == [Fraction(n, rate) for n in range(frames)]
    for packets in found.values():
        assert all(before < after for before, after in pairwise(at for _, at, _ in packets))
    sound = found["audio"]
    assert all(a[0] + a[2] == b[0] for a, b in pairwise(sound))
    assert sound[-1][0] + sound[-1][2] == Fraction(frames, rate)


def assert_same_bits(result: Sequence[Shown], source: Sequence[Shown], plan: Plan) -> None:
    """What was copied is the source's to the bit."""
    first, stop = copied(plan)
    begin = result[0].number
    for number in range(first, stop):
        assert np.array_equal(result[number - begin].luma, source[number].luma), number


@dataclass(frozen=True)
class Span:
    """Ends in groups of pictures, which are two seconds long, and pictures beyond; what is encoded."""

    begin: tuple[int, int]
    stop: tuple[int, int] | None
    files: tuple[str, ...]

    def frames(self, rate: int) -> tuple[int, int]:
        first, last = self.begin, self.stop or (SECONDS // GROUP_SECONDS, 0)
        return (
            first[0] * GROUP_SECONDS * rate + first[1],
            last[0] * GROUP_SECONDS * rate + last[1],
        )


SPANS = {
    "anywhere": Span((1, 17), (5, 31), ("head", "tail", "sound")),
    "from the start": Span((0, 0), (4, 17), ("tail", "sound")),
    "to the end": Span((0, 29), None, ("head", "sound")),
    "from keyframe to keyframe": Span((1, 0), (4, 0), ("sound",)),
    "a picture more at each end": Span((1, -1), (5, 1), ("head", "tail", "sound")),
    "a picture less at each end": Span((1, 1), (5, -1), ("head", "tail", "sound")),
}


@pytest.mark.parametrize(
    ("title", "rate"), [*((title, 30) for title in SPANS), ("anywhere", 25), ("anywhere", 24)]
)
async def test_a_cut_of_our_own_clip_is_exact_and_mostly_copied(
    bench: MediaBench, clips: Path, title: str, rate: int
) -> None:
    span, clip = SPANS[title], await house_clip(bench, clips, rate)
    begin, stop = span.frames(rate)
    end = None if span.stop is None else stop / rate
    result, plan = await cut(bench, clip, begin / rate if begin else None, end)
    assert encoded_files(plan) == list(span.files)
    source, shown = source_frames(clip), read_frames(result)
    assert_same_pictures(shown, source, Fraction(begin, rate), Fraction(stop, rate))
    assert_same_bits(shown, source, plan)
    assert_stored_once(result, stop - begin, rate)
    assert plan.result["start_seconds"] == pytest.approx(begin / rate, abs=1e-6)
    assert plan.result["end_seconds"] == pytest.approx(stop / rate, abs=1e-6)
    heard, _ = read_sound(result)
    assert abs(len(heard) / SAMPLE_RATE - (stop - begin) / rate) < 1024 / SAMPLE_RATE
    assert abs(sound_lag(result, clip, begin / rate, stop / rate)) < TEN_MILLISECONDS / 2
    media = await bench.look(result)
    assert house_parts.why_not_ours(media, house_profile.Frame(*SIZE, rate)) is None


async def test_a_start_between_two_pictures_begins_with_the_later_one(
    bench: MediaBench, clips: Path
) -> None:
    clip = await house_clip(bench, clips)
    result, plan = await cut(bench, clip, 1.015, 11.01)
    assert [each.number for each in read_frames(result)] == list(range(31, 331))
    told = [plan.result["start_seconds"], plan.result["end_seconds"]]
    assert told == pytest.approx([31 / 30, 331 / 30], abs=1e-6)
    assert abs(sound_lag(result, clip, 31 / 30, 331 / 30)) < TEN_MILLISECONDS / 2


async def test_what_was_cut_joins_again_as_it_is_stored(bench: MediaBench, clips: Path) -> None:
    clip = await house_clip(bench, clips)
    halves = []
    for number, span in enumerate(((None, 6.5), (6.5, None))):
        result, _ = await cut(bench, clip, *span)
        halves.append(result.rename(clips / f"half{number}.mp4"))
    joined, plan = await concatenate(bench, halves)
    assert [told["mode"] for told in plan.result["clips"]] == ["copied", "copied"]
    assert [each.number for each in read_frames(joined)] == list(range(SECONDS * 30))


async def test_a_short_cut_is_encoded_as_a_whole(bench: MediaBench, clips: Path) -> None:
    clip = await house_clip(bench, clips)
    _, plan = await bench.trim(clip, 1, 4.5)
    assert [type(step) for step in plan.steps] == [FFmpegStep]


@pytest.mark.parametrize("x264", [OPEN, PROMISING])
async def test_a_clip_that_does_not_come_apart_is_encoded_instead(
    bench: MediaBench, clips: Path, x264: str
) -> None:
    clip = await house_clip(bench, clips, x264=x264)
    plan = await bench.plan(clip, TrimParams(start=1.1, end=11))
    assert plan.otherwise is not None
    with pytest.raises(CannotCopy, match="could not be joined"):
        await bench.run_plan(plan)
    await bench.run_plan(plan.otherwise)
    shown = read_frames(bench.folder / plan.otherwise.outputs[0].file)
    assert [each.number for each in shown] == list(range(33, 330))
    assert plan.otherwise.result["reason"].startswith("Not copied: read in full,")
    auto = await bench.plan(clip, TrimParams(start=1.1, end=11, mode="auto"))
    assert auto.otherwise is not None
    for why in ("no keyframe is at the start", "Not copied: read in full,"):
        assert why in auto.otherwise.result["reason"]


async def test_two_pictures_that_stand_for_themselves_are_told_apart_at_a_seam(
    bench: MediaBench, clips: Path
) -> None:
    clip = await house_clip(bench, clips)
    result, _ = await cut(bench, clip, 119 / 30, 11)
    begins = [kinds[0] for kinds, is_keyframe in kinds_of_pictures(result) if is_keyframe]
    # One picture next to the start is encoded, and the one behind it is copied.
    assert begins[0] != ACCESS_UNIT_DELIMITER
    assert begins[1] == ACCESS_UNIT_DELIMITER
    assert ACCESS_UNIT_DELIMITER not in begins[2:]
    assert [each.number for each in read_frames(result)] == list(range(119, 330))


async def test_a_picture_with_a_hole_is_never_copied(bench: MediaBench, clips: Path) -> None:
    clip = await house_clip(bench, clips)
    data = bytearray(await asyncio.to_thread(clip.read_bytes))
    begin, size = (await asyncio.to_thread(places_of_pictures, clip))[150]
    data[begin : begin + size] = bytes(size)
    spoilt = bench.folder / "spoilt.mp4"
    await asyncio.to_thread(spoilt.write_bytes, data)
    plan = await bench.plan(spoilt, TrimParams(start=1.1, end=11))
    with pytest.raises(CannotCopy, match="A picture of it is damaged"):
        await bench.run_plan(plan)
    assert plan.otherwise is not None
    with pytest.raises(InputDamaged):
        await bench.run_plan(plan.otherwise)


async def test_where_nothing_is_to_be_seen_at_an_end_all_is_encoded(
    bench: MediaBench, clips: Path
) -> None:
    clip = await house_clip(bench, clips)
    listed = Box.parse(await asyncio.to_thread(clip.read_bytes))
    for table in find(listed, b"stbl"):
        # As if every picture were one to begin with; the length stays, so that nothing moves.
        for each in find(table, b"stss"):
            each.kind = b"free"
    spoilt = bench.folder / "spoilt.mp4"
    await asyncio.to_thread(spoilt.write_bytes, listed.render())
    plan = await bench.plan(spoilt, TrimParams(start=1.5, end=10.3))
    assert plan.otherwise is not None
    with pytest.raises(plan.gives_way_to):
        await bench.run_plan(plan)
    await bench.run_plan(plan.otherwise)
    shown = read_frames(bench.folder / plan.otherwise.outputs[0].file)
    assert shown[-1].number == 308


def kinds_of_pictures(clip: Path) -> list[tuple[list[int], bool]]:
    """Return of each picture, as it is stored, the kinds of its units and whether it is a keyframe."""
    found = []
    with av.open(str(clip)) as container:
        for packet in container.demux(video=0):
            data, at, kinds = bytes(packet), 0, list[int]()
            while at < len(data):
                kinds.append(data[at + 4] & 31)
                at += 4 + int.from_bytes(data[at : at + 4], "big")
            if kinds:
                found.append((kinds, packet.is_keyframe))
    return found


def places_of_pictures(clip: Path) -> list[tuple[int, int]]:
    """Return of each picture, as it is stored, its place and length in the file."""
    with av.open(str(clip)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return [(each.pos or 0, each.size) for each in packets]
