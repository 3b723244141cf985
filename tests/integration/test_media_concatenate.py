"""Concatenation of real clips: order, length, sync of sound and pictures, what is copied untouched."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from app.domain.errors import InputDamaged, RenderFailed
from app.operations import house_profile
from app.operations.base import PythonStep
from app.operations.concatenate import ConcatenateParams
from app.operations.house_headers import headers_for
from app.operations.house_parts import PROGRAM, UNDECODED
from tests.fakes.clips import difference, read_frames
from tests.fakes.joining import (
    Mark,
    concatenate,
    make_mark,
    off_sync,
    plan_of,
    read,
    stamps,
    worst_gap,
)
from tests.fakes.media_bench import MediaBench, open_bench

TWENTY_MILLISECONDS = 0.020
FRAME = 1 / 30
FADE = ConcatenateParams(transition="crossfade")
LIKE = 12
"""Difference of brightness up to which two pictures of one level are alike; levels are 40 apart."""

HOUSE = Mark(is_house=True)
ANY_SHAPE = (
    Mark(level=50),
    Mark(
        level=90,
        width=180,
        height=320,
        rate="25",
        codec="libvpx-vp9",
        audio="libopus",
        container="webm",
    ),
    Mark(level=130, rotation=90),
    Mark(level=160, width=240, height=180, sample_aspect="4/3", rate="50"),
    replace(HOUSE, level=60),
    Mark(level=100, width=241, height=133, codec="libvpx-vp9", container="mkv", audio="libopus"),
    Mark(level=140, variable=True, sound_rate=22_050, layout="mono"),
    Mark(level=120, rate="60", codec="libx265", layout="5.1"),
    replace(HOUSE, level=70, seconds=1.5),
    Mark(level=110, pixel_format="yuv420p10le", audio=None),
    Mark(level=150, rate="30000/1001", container="ts", seconds=1.9019),
)
"""Ten joins of clips that have hardly anything in common."""


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "marks"


@pytest.fixture
async def bench(tmp_path: Path, clips: Path) -> AsyncIterator[MediaBench]:
    # Beside the clips, since inputs are hard links.
    async with open_bench(clips.parent / f"join-{tmp_path.name}") as opened:
        yield opened


async def made(bench: MediaBench, clips: Path, marks: Sequence[Mark]) -> list[Path]:
    return [await asyncio.to_thread(make_mark, clips, bench.ffmpeg.path, mark) for mark in marks]


def assert_whole(result: Path, frames: int) -> None:
    """Pictures evenly spaced from 0, times of decoding rising, sound without a gap and as long."""
    found = stamps(result)
    shown = sorted(pts for pts, _, _ in found["video"])
    assert shown == [Fraction(number, 30) for number in range(frames)]
    for packets in found.values():
        decoded = [dts for _, dts, _ in packets]
        assert all(before < after for before, after in pairwise(decoded))
    sound = found["audio"]
    for (begin, _, length), (following, _, _) in pairwise(sound):
        assert begin + length == following
    assert abs(sound[-1][0] + sound[-1][2] - Fraction(frames, 30)) < Fraction(1, 30)


async def test_clips_of_any_shape_follow_each_other_in_order_without_gap_or_drift(
    bench: MediaBench, clips: Path
) -> None:
    result, plan = await concatenate(bench, await made(bench, clips, ANY_SHAPE))
    seconds = [clip["duration_seconds"] for clip in plan.result["clips"]]
    for mark, length in zip(ANY_SHAPE, seconds, strict=True):
        # Some containers round, or lack a frame.
        assert abs(length - mark.seconds) <= FRAME + 0.035
    frames = round(sum(seconds) * 30)
    assert_whole(result, frames)
    heard = read(result)
    assert len(heard.times) == frames
    assert worst_gap(heard) < 0.001
    for mark, told in zip(ANY_SHAPE, plan.result["clips"], strict=True):
        # Half a second in, every clip shows its own level and nothing of its marks.
        there = heard.levels[round((told["start_seconds"] + 0.5) * 30)]
        assert abs(there - mark.level) < LIKE, mark
    assert len(heard.beeps) == sum(len(beeps(mark)) for mark in ANY_SHAPE if mark.audio)
    assert max(off_sync(heard)) <= TWENTY_MILLISECONDS
    modes = [clip["mode"] for clip in plan.result["clips"]]
    assert [place for place, mode in enumerate(modes) if mode == "copied"] == [4, 8]
    media = await bench.look(result)
    assert house_profile.why_not(media) is None
    assert media.video.headers == headers_for(320, 180, 30)


def beeps(mark: Mark) -> list[int]:
    return [second for second in range(4) if second < mark.seconds - 0.05]


async def test_own_outputs_are_copied_picture_by_picture(bench: MediaBench, clips: Path) -> None:
    marks = [replace(HOUSE, level=40 + 30 * n, seconds=1 + 0.1 * n) for n in range(5)]
    sources = await made(bench, clips, marks)
    result, plan = await concatenate(bench, sources)
    assert [step.name for step in plan.steps] == ["joining"]
    assert_whole(result, sum(round(mark.seconds * 30) for mark in marks))
    wanted = [shown.luma for source in sources for shown in read_frames(source)]
    found = [shown.luma for shown in read_frames(result)]
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one, other)
    assert max(off_sync(read(result))) <= TWENTY_MILLISECONDS
    # What came of it is ours again, and is copied in its turn.
    again, plan = await concatenate(bench, [result, sources[0]])
    assert [clip["mode"] for clip in plan.result["clips"]] == ["copied", "copied"]
    assert_whole(again, len(wanted) + 30)


async def test_a_result_says_nothing_of_where_it_came_from(bench: MediaBench, clips: Path) -> None:
    (source,) = await made(bench, clips, [HOUSE])
    result, _ = await concatenate(bench, [source])
    with av.open(str(result)) as container:
        assert set(container.metadata) <= {"major_brand", "minor_version", "compatible_brands"}
        assert not container.chapters()
        for stream in container.streams:
            assert set(stream.metadata) <= {"language", "handler_name", "vendor_id"}
    body = result.read_bytes()
    assert body.index(b"moov") < body.index(b"mdat")


async def test_equal_coding_on_another_clock_does_not_stretch_the_result(
    bench: MediaBench, clips: Path
) -> None:
    sources = await made(bench, clips, [HOUSE, Mark(timescale=15_360, level=120)])
    result, plan = await concatenate(bench, sources)
    assert plan.result["duration_seconds"] == 4
    assert_whole(result, 120)


@pytest.mark.parametrize("sound_seconds", [0.8, 3.5])
async def test_sound_of_another_length_than_the_pictures_neither_shortens_nor_prolongs_a_clip(
    bench: MediaBench, clips: Path, sound_seconds: float
) -> None:
    (source,) = await made(bench, clips, [Mark(sound_seconds=sound_seconds)])
    result, plan = await concatenate(bench, [source, source])
    assert_whole(result, 120)
    heard = read(result)
    assert [round(beep, 1) for beep in heard.beeps][0::2] == [0, 2] or sound_seconds < 1
    assert max(off_sync(heard)) <= TWENTY_MILLISECONDS
    assert any("goes on for 1.5 s" in each for each in plan.warnings) == (sound_seconds > 2)
    assert [step.name for step in plan.steps] == ["normalising", "joining"]


async def test_a_crossfade_mixes_both_clips_and_keeps_lengths_and_sync(
    bench: MediaBench, clips: Path
) -> None:
    marks = (
        replace(HOUSE, level=40, seconds=5),
        Mark(
            level=160, rate="25", codec="libvpx-vp9", audio="libopus", container="webm", seconds=3
        ),
        replace(HOUSE, level=80, seconds=5),
    )
    sources = await made(bench, clips, marks)
    result, plan = await concatenate(bench, sources, FADE)
    assert plan.result["duration_seconds"] == 12
    assert [clip["start_seconds"] for clip in plan.result["clips"]] == [0, 4.5, 7]
    assert_whole(result, 360)
    heard = read(result)
    # The next clip begins with a flash that lasts 0.12 s; the middle of the fade is after it.
    for middle, levels in ((4.75, (40, 160)), (7.25, (160, 80))):
        assert abs(heard.levels[round(middle * 30)] - sum(levels) / 2) < LIKE
    assert abs(heard.levels[round(4.4 * 30)] - 40) < LIKE
    assert abs(heard.levels[round(5.1 * 30)] - 160) < LIKE
    clear = [beep for beep in heard.beeps if not (4.4 < beep < 5 or 6.9 < beep < 7.5)]
    assert len(clear) >= 9
    flashes = np.array(heard.flashes)
    assert max(np.abs(flashes - beep).min() for beep in clear) <= TWENTY_MILLISECONDS
    # What lies between crossfades was not encoded again.
    source = {len(bytes(each)) for each in packets(sources[0])[:60]}
    assert source == {len(bytes(each)) for each in packets(result)[:60]}


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


@pytest.mark.long
async def test_twenty_clips_of_any_shape_are_crossfaded_to_the_frame(
    bench: MediaBench, clips: Path
) -> None:
    sources = await made(bench, clips, ANY_SHAPE)
    result, plan = await concatenate(bench, (sources * 2)[:20], FADE)
    told = plan.result["clips"]
    frames = round(sum(clip["duration_seconds"] for clip in told) * 30) - 19 * 15
    assert_whole(result, frames)
    heard = read(result)
    assert worst_gap(heard) < 0.001
    for mark, clip in zip((ANY_SHAPE * 2)[:20], told, strict=True):
        # Past its first crossfade and before its last one there is nothing but the clip itself.
        assert abs(heard.levels[round((clip["start_seconds"] + 0.75) * 30)] - mark.level) < LIKE, (
            mark
        )


async def test_clips_and_crossfades_of_one_or_two_pictures_are_joined_too(
    bench: MediaBench, clips: Path
) -> None:
    """Their times of decoding are not ahead, for nothing in them is reordered."""
    long = Mark(seconds=0.5, rate="24", audio=None)
    one, two = (replace(long, seconds=frames / 24) for frames in (1, 2))
    result, plan = await concatenate(bench, await made(bench, clips, [long, one, two, long, one]))
    assert plan.result["duration_seconds"] == pytest.approx(28 / 24, abs=1e-5)
    decoded = [dts for _, dts, _ in stamps(result)["video"]]
    assert len(decoded) == 28
    assert all(before < after for before, after in pairwise(decoded))
    fade = ConcatenateParams(transition="crossfade", crossfade_seconds=0.1)
    result, _ = await concatenate(bench, await made(bench, clips, [long, long]), fade)
    assert len(stamps(result)["video"]) == 22


@pytest.mark.parametrize("frames", [7, 8])
async def test_a_crossfade_may_be_of_any_number_of_pictures(
    bench: MediaBench, clips: Path, frames: int
) -> None:
    """A third of a second has no end of digits: the picture that is meant is found all the same."""
    sources = await made(bench, clips, [Mark(seconds=1), Mark(seconds=1, level=140)])
    fade = ConcatenateParams(transition="crossfade", crossfade_seconds=frames / 30)
    result, _ = await concatenate(bench, sources, fade)
    assert_whole(result, 60 - frames)


async def test_short_clips_are_crossfaded_as_a_whole(bench: MediaBench, clips: Path) -> None:
    marks = [replace(HOUSE, level=60, seconds=1.5), replace(HOUSE, level=140, seconds=1.5)]
    sources = await made(bench, clips, [*marks, marks[0]])
    result, plan = await concatenate(bench, sources, FADE)
    assert_whole(result, 135 - 30)
    assert plan.result["duration_seconds"] == 3.5


async def test_high_dynamic_range_becomes_ordinary_and_keeps_its_brightness_in_order(
    bench: MediaBench, clips: Path
) -> None:
    mark = Mark(codec="libx265", pixel_format="yuv420p10le", hdr=True, level=110, seconds=1)
    result, plan = await concatenate(bench, await made(bench, clips, [mark]))
    media = await bench.look(result)
    assert house_profile.why_not(media) is None
    assert any("dynamic range" in each for each in plan.warnings)
    heard = read(result)
    dark, bright = heard.levels[15], heard.levels[1]
    assert 60 < dark < 210
    assert bright > dark + 20


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
async def test_grey_paper_in_high_dynamic_range_is_as_light_as_in_the_usual_one(
    bench: MediaBench, clips: Path, transfer: str
) -> None:
    source = clips / f"grey-{transfer}.mkv"
    await asyncio.to_thread(clips.mkdir, exist_ok=True)
    white = house_profile.NOMINAL_NITS
    filters = (
        "format=yuv444p,scale=out_color_matrix=bt709:out_range=tv,"
        "setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709,"
        f"zscale=t=linear:npl={white},format=gbrpf32le,"
        f"zscale=p=bt2020:t={transfer}:m=bt2020nc:r=tv:npl={white},format=yuv420p10le"
    )
    process = await asyncio.create_subprocess_exec(
        bench.ffmpeg.path,
        *("-v", "error", "-y", "-f", "lavfi", "-i", "color=c=0x767676:s=320x180:r=30:d=0.5"),
        *("-vf", filters, "-c:v", "libx265", "-preset", "ultrafast", "-x265-params"),
        *(f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc", source),
    )
    assert await process.wait() == 0
    result, plan = await concatenate(bench, [source])
    assert any("dynamic range" in each for each in plan.warnings)
    with av.open(str(result)) as container:
        luma, blue, red = (bytes(plane)[1000] for plane in next(container.decode(video=0)).planes)
    assert abs(luma - 117) <= 5
    assert max(abs(blue - 128), abs(red - 128)) <= 2


async def test_colours_of_a_small_clip_that_tells_none_stay_what_they_were(
    bench: MediaBench, clips: Path
) -> None:
    """Below 720 lines they are BT.601: pure red has another code there than in BT.709."""
    source = clips / "red.mp4"
    await asyncio.to_thread(clips.mkdir, exist_ok=True)
    command = ["-v", "error", "-y", "-f", "lavfi", "-i", "color=c=red:s=320x180:r=30:d=1"]
    options = ["-vf", "scale=out_color_matrix=bt601,format=yuv420p", "-c:v", "libx264"]
    process = await asyncio.create_subprocess_exec(
        bench.ffmpeg.path,
        *command,
        *options,
        "-bsf:v",
        "h264_metadata=colour_primaries=2",
        str(source),
    )
    assert await process.wait() == 0
    result, _ = await concatenate(bench, [source])
    with av.open(str(result)) as container:
        frame = next(container.decode(video=0))
        luma, blue, red = (bytes(plane)[1000] for plane in frame.planes)
    assert abs(luma - 63) <= 3
    assert abs(blue - 102) <= 3
    assert abs(red - 240) <= 3


# --- what cannot be joined ----------------------------------------------------------------------


async def test_a_damaged_clip_is_named_as_damaged_and_not_padded_with_a_still(
    bench: MediaBench, clips: Path
) -> None:
    (source,) = await made(
        bench, clips, [Mark(seconds=4, codec="libvpx-vp9", container="webm", audio=None)]
    )
    media = await bench.look(source)
    cut = clips / "cut.webm"
    cut.write_bytes(source.read_bytes()[: media.size_bytes // 2])
    link = bench.folder / ("c" * 32)
    link.hardlink_to(cut)
    plan = await plan_of(bench, [source])
    (step, _) = plan.steps
    (linked,) = {each for each in bench.folder.iterdir() if each != link}
    link.replace(linked)  # As if the bytes had gone bad after the clip was looked at.
    with pytest.raises(InputDamaged):
        await bench.run(step)


def pictures_of(file: str, first: int, count: int) -> dict[str, object]:
    return {"file": file, "first": first, "count": count}


async def refused(
    bench: MediaBench, pictures: list[dict[str, object]], samples: int = 96_000
) -> str:
    """Return why the files A and B of the bench's folder cannot be joined like that."""
    told = {"options": UNDECODED, "rate": 30, "pictures": pictures}
    arguments = {
        **told,
        "sounds": [{"file": "A", "samples": samples}],
        "unfit": RenderFailed.code,
    }
    step = PythonStep("joining", 1.0, PROGRAM, arguments, ("A", "B"), ("joined.mp4",))
    with pytest.raises(RenderFailed) as caught:
        await bench.run(step)
    assert not (bench.folder / "joined.mp4").exists()
    return caught.value.detail


async def test_what_does_not_fit_together_is_never_joined(bench: MediaBench, clips: Path) -> None:
    (one, other) = await made(bench, clips, [HOUSE, Mark(timescale=30_000, level=120)])
    (bench.folder / "A").hardlink_to(one)
    (bench.folder / "B").hardlink_to(other)
    whole = pictures_of("A", 0, 60)
    assert "60 pictures where 61" in await refused(bench, [pictures_of("A", 0, 61)])
    assert "stands for itself" in await refused(bench, [pictures_of("A", 7, 20)])
    assert "taken apart" in await refused(bench, [pictures_of("A", 0, open_end(one))])
    assert "headers" in await refused(bench, [whole, pictures_of("B", 0, 60)])
    assert "shorter than its pictures" in await refused(bench, [whole], samples=200_000)
    assert "not as long as its pictures" in await refused(bench, [whole], samples=48_000)


def open_end(clip: Path) -> int:
    """Return a number of pictures after which a clip cannot end: a later one is stored before them."""
    order = [round(pts * 30) for pts, _, _ in stamps(clip)["video"]]
    return next(
        later
        for place, later in enumerate(order)
        if later > 0 and any(number < later for number in order[place:])
    )


async def test_progress_rises_to_the_end_of_every_step(bench: MediaBench, clips: Path) -> None:
    sources = await made(bench, clips, [HOUSE, Mark(level=120)])
    plan = await plan_of(bench, sources)
    for step in plan.steps:
        bench.reported.clear()
        await bench.run(step)
        assert bench.reported == sorted(bench.reported)
        assert (bench.reported[0], bench.reported[-1]) == (0, 1)


async def test_the_encoder_writes_the_headers_that_were_foretold(
    bench: MediaBench, clips: Path
) -> None:
    for width, height, rate in (
        (320, 180, "30"),
        (180, 320, "25"),
        (854, 480, "24"),
        (1080, 1080, "30"),
    ):
        mark = Mark(is_house=True, width=width, height=height, rate=rate, seconds=0.2)
        (source,) = await made(bench, clips, [mark])
        media = await bench.look(source)
        assert media.video.headers == headers_for(width, height, int(rate))
        assert house_profile.why_not(media) is None


def test_pictures_of_two_levels_differ() -> None:
    """The measure itself: what the tests above call alike would not pass for another clip."""
    one, other = np.full((4, 4), 60.0), np.full((4, 4), 100.0)
    assert difference(one, other) > LIKE
