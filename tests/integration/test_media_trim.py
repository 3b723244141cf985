"""Trim on real clips: every picture and the sound of a result, compared with the source's."""

import asyncio
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from app.domain.errors import InputDamaged
from tests.fakes.clips import (
    SAMPLE_RATE,
    ClipSpec,
    lag_seconds,
    make_clip,
    read_frames,
    read_sound,
)
from tests.fakes.cuts import TEN_MILLISECONDS, assert_same_pictures, sound_lag, source_frames
from tests.fakes.media_bench import MediaBench, open_bench

CASES: dict[str, ClipSpec] = {
    "b-frames, open group of pictures": ClipSpec(seconds=6),
    "closed, moov at the end": ClipSpec(open_gop=False, moov_at_end=True, seconds=6),
    "no b-frames, one keyframe only": ClipSpec(b_frames=0, gop=1000, seconds=6),
    "29.97 frames a second": ClipSpec(rate="30000/1001", seconds=6),
    "variable rate": ClipSpec(variable=True, seconds=6),
    "variable rate in matroska": ClipSpec(variable=True, seconds=6, container="mkv"),
    "no sound": ClipSpec(audio=None, seconds=6),
    "ten bits": ClipSpec(ten_bit=True, seconds=6),
    "hevc, open group of pictures": ClipSpec(codec="libx265", seconds=6),
    "vp9 and opus": ClipSpec(codec="libvpx-vp9", container="webm", audio="libopus", seconds=6),
    "matroska that begins at 5 s": ClipSpec(container="mkv", shift_seconds=5, seconds=6),
    "transport stream": ClipSpec(container="ts", seconds=6),
    "avi": ClipSpec(container="avi", codec="mpeg4", audio="libmp3lame", b_frames=0, seconds=6),
    "mov with pcm": ClipSpec(container="mov", audio="pcm_s16le", seconds=6),
    "sound that begins late": ClipSpec(audio_delay_seconds=0.7, seconds=6),
    "sound that begins early": ClipSpec(audio_delay_seconds=-0.7, seconds=6),
    "six channels": ClipSpec(channels=6, seconds=6),
}


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "clips"


@pytest.fixture
async def bench(tmp_path: Path, clips: Path) -> AsyncIterator[MediaBench]:
    # Beside the clips, since inputs are hard links.
    async with open_bench(clips.parent / f"job-{tmp_path.name}") as opened:
        yield opened


@pytest.mark.parametrize("case", CASES)
async def test_a_trim_keeps_exactly_the_frames_and_the_sound_asked_for(
    bench: MediaBench, clips: Path, case: str
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, CASES[case])
    result, _ = await bench.trim(clip, 2, 5)
    source = source_frames(clip)
    assert_same_pictures(read_frames(result), source, Fraction(2), Fraction(5))
    if CASES[case].audio is None:
        assert not av_has_sound(result)
        return
    heard, _ = read_sound(result)
    assert abs(len(heard) / SAMPLE_RATE - 3) < TEN_MILLISECONDS + 1024 / SAMPLE_RATE
    assert abs(sound_lag(result, clip, 2, 5)) < TEN_MILLISECONDS


def av_has_sound(path: Path) -> bool:
    with av.open(str(path)) as container:
        return bool(container.streams.audio)


@pytest.mark.parametrize(
    ("start", "end"), [(None, 1.5), (3.9, None), (2.0167, 2.0999), (0.01, 5.98)]
)
async def test_ends_may_be_left_out_or_lie_between_frames(
    bench: MediaBench, clips: Path, start: float | None, end: float | None
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, CASES["29.97 frames a second"])
    result, _ = await bench.trim(clip, start, end)
    source = source_frames(clip)
    begin, stop = Fraction(str(start or 0)), Fraction(str(end or 100))
    assert_same_pictures(read_frames(result), source, begin, stop)
    assert abs(sound_lag(result, clip, float(begin), min(float(stop), 6.0))) < TEN_MILLISECONDS


@pytest.mark.parametrize("start", [1.9, 4.1, 5.7])
async def test_a_cut_is_exact_wherever_it_falls_in_an_open_group_of_pictures(
    bench: MediaBench, clips: Path, start: float
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, CASES["hevc, open group of pictures"])
    result, _ = await bench.trim(clip, start, start + 0.2)
    shown = [s.number for s in read_frames(result)]
    assert shown == list(range(round(start * 30), round(start * 30) + 6))


@pytest.mark.parametrize(("rotation", "quarter_turns"), [(90, 1), (180, 2), (270, 3)])
async def test_rotation_is_applied_to_the_picture_and_said(
    bench: MediaBench, clips: Path, rotation: int, quarter_turns: int
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, ClipSpec(rotation=rotation, seconds=6))
    assert (await bench.look(clip)).video.rotation == rotation
    result, plan = await bench.trim(clip, 2, 5)
    shown = read_frames(result, quarter_turns=quarter_turns)
    assert_same_pictures(shown, source_frames(clip), Fraction(2), Fraction(5))
    after = (await bench.look(result)).video
    assert after.rotation == 0
    assert (after.width, after.height) == ((320, 180) if rotation == 180 else (180, 320))
    assert plan.warnings == (f"The rotation of {rotation} degrees was applied to the picture.",)


@pytest.mark.parametrize("case", ["ten bits", "six channels", "mov with pcm"])
async def test_depth_colours_and_channels_are_kept(
    bench: MediaBench, clips: Path, case: str
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, CASES[case])
    before = await bench.look(clip)
    after = await bench.look((await bench.trim(clip, 1, 2))[0])
    for name in (
        "pixel_format",
        "color_primaries",
        "color_transfer",
        "color_space",
        "color_range",
        "sample_aspect",
        "frame_rate",
    ):
        assert getattr(after.video, name) == getattr(before.video, name)
    assert (before.video.color_primaries, before.video.color_space) == ("bt709", "bt709")
    assert before.audio is not None
    assert after.audio is not None
    assert after.audio.channels == before.audio.channels
    assert after.audio.sample_rate == before.audio.sample_rate


async def test_nothing_that_was_cut_and_no_metadata_is_left_in_the_file(
    bench: MediaBench, clips: Path
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, CASES["b-frames, open group of pictures"])
    assert b"secret" in clip.read_bytes()
    result, plan = await bench.trim(clip, 2, 5)
    content = result.read_bytes()
    assert b"secret" not in content
    assert b"+48.2" not in content
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(result)) as container:
        stored = sum(1 for packet in container.demux(video=0) if packet.size)
    assert stored == len(read_frames(result)) == 90
    assert plan.result["mode"] == "exact"
    assert (plan.result["start_seconds"], plan.result["end_seconds"]) == (2.0, 5.0)
    assert plan.outputs[0].filename == f"{clip.stem}-trim.mp4"
    assert plan.warnings == ()


async def test_the_largest_picture_allowed_fits_into_the_memory_limit(
    bench: MediaBench,
) -> None:
    path = bench.folder / "large.mp4"
    drawn = ("-f", "lavfi", "-i", "testsrc=s=4096x4096:r=30:d=0.4", "-pix_fmt", "yuv420p10le")
    make = await asyncio.create_subprocess_exec(
        *(str(bench.ffmpeg.path), "-v", "error", *drawn, "-preset", "ultrafast", str(path))
    )
    assert await make.wait() == 0
    result, _ = await bench.trim(path, 0.1, None)
    assert (await bench.look(result)).video.width == 4096


async def test_an_odd_size_loses_one_line_and_says_so(bench: MediaBench, clips: Path) -> None:
    odd = ClipSpec(
        codec="libvpx-vp9", container="webm", audio="libopus", width=321, height=181, seconds=2
    )
    clip = make_clip(clips, bench.ffmpeg.path, odd)
    result, plan = await bench.trim(clip, 0.5, 1)
    after = (await bench.look(result)).video
    assert (after.width, after.height) == (320, 180)
    assert "The size was odd: one line or column was cut off." in plan.warnings
    assert [s.number for s in read_frames(result)] == list(range(15, 30))


async def test_a_part_without_sound_has_no_sound_and_says_so(
    bench: MediaBench, clips: Path
) -> None:
    late = ClipSpec(audio_delay_seconds=2, seconds=4, container="mkv")
    clip = make_clip(clips, bench.ffmpeg.path, late)
    result, plan = await bench.trim(clip, 0.5, 1.5)
    assert "The kept part has no sound." in plan.warnings
    assert (await bench.look(result)).audio is None


@pytest.mark.parametrize("container", ["mp4", "mkv"])
async def test_a_cut_may_end_in_a_pause_that_is_longer_than_itself(
    bench: MediaBench, clips: Path, container: str
) -> None:
    clip = make_clip(
        clips, bench.ffmpeg.path, ClipSpec(variable=True, seconds=6, container=container)
    )
    result, _ = await bench.trim(clip, 1.05, 1.2)
    assert [s.number for s in read_frames(result)] == [32]  # shown until 1.6 s


async def test_a_pause_without_any_picture_is_not_called_damage(
    bench: MediaBench, clips: Path
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, ClipSpec(variable=True, seconds=6))
    with pytest.raises(InputDamaged, match="No picture of the clip begins in the part asked for"):
        await bench.trim(clip, 1.2, 1.5)


async def recode(bench: MediaBench, source: Path, name: str, *options: str) -> Path:
    """Return ``source`` written again with options of FFmpeg."""
    target = bench.folder / name
    command = (str(bench.ffmpeg.path), "-v", "error", "-y", "-i", str(source), *options)
    process = await asyncio.create_subprocess_exec(*command, str(target))
    assert await process.wait() == 0
    return target


async def test_a_rate_that_only_the_header_calls_even_is_no_damage(
    bench: MediaBench, clips: Path
) -> None:
    source = make_clip(clips, bench.ffmpeg.path, ClipSpec(seconds=6, audio=None))
    kept = "select='between(n,0,20)+between(n,60,64)+between(n,120,170)'"
    encode = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
    options = ("-vf", kept, "-fps_mode", "passthrough", *encode)
    clip = await recode(bench, source, "uneven.webm", *options)
    assert not (await bench.look(clip)).video.variable_rate
    for start, end, expected in (
        (0.3, 1.5, range(9, 21)),
        (1.9, 3.9, range(60, 65)),
        (2.1, 4.1, [63, 64, 120, 121, 122]),
    ):
        result, _ = await bench.trim(clip, start, end)
        assert [s.number for s in read_frames(result)] == list(expected)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
async def test_a_few_frames_that_were_dropped_where_a_cut_ends_are_no_damage(
    bench: MediaBench, clips: Path, container: str
) -> None:
    even = ClipSpec(rate="120", seconds=40, width=256, height=64, audio=None)
    source = make_clip(clips, bench.ffmpeg.path, even)
    kept = "select='not(between(n,601,604))'"
    options = ("-vf", kept, "-fps_mode", "passthrough", "-preset", "ultrafast")
    clip = await recode(bench, source, f"dropped.{container}", *options)
    assert not (await bench.look(clip)).video.variable_rate
    result, _ = await bench.trim(clip, 4.9, "5.02")
    assert [s.number for s in read_frames(result)] == list(range(588, 601))


async def test_sound_that_is_longer_than_the_pictures_ends_with_the_cut(
    bench: MediaBench, clips: Path
) -> None:
    source = make_clip(clips, bench.ffmpeg.path, ClipSpec(seconds=6))
    options = ("-filter:v", "trim=end=3", "-c:a", "copy", "-preset", "ultrafast")
    clip = await recode(bench, source, "long-sound.mp4", *options)
    for end in (None, 3):
        result, plan = await bench.trim(clip, 1, end)
        heard, _ = read_sound(result)
        assert len(heard) / SAMPLE_RATE == pytest.approx(2, abs=1024 / SAMPLE_RATE)
        assert plan.result["end_seconds"] == 3


def gap(start: float, end: float) -> tuple[str, ...]:
    """Options that take a stretch out of the sound and leave its place empty."""
    chosen = f"aselect='not(between(t,{start},{end}))'"
    return ("-c:v", "copy", "-af", f"asetnsamples=256,{chosen}", "-c:a", "pcm_s16le")


async def test_a_cut_inside_a_gap_of_the_sound_is_silent(bench: MediaBench, clips: Path) -> None:
    source = make_clip(clips, bench.ffmpeg.path, ClipSpec(seconds=4))
    clip = await recode(bench, source, "gap.mkv", *gap(1.2, 2.7))
    result, _ = await bench.trim(clip, 1.5, 2.5)
    assert [s.number for s in read_frames(result)] == list(range(45, 75))
    heard, _ = read_sound(result)
    assert np.abs(heard).max() < 0.001


async def test_small_gaps_of_the_sound_do_not_move_what_follows(
    bench: MediaBench, clips: Path
) -> None:
    source = make_clip(clips, bench.ffmpeg.path, ClipSpec(seconds=4))
    clip = await recode(bench, source, "gaps.mkv", *gap(1.4, 1.46))
    result, _ = await bench.trim(clip, 1, 3.5)
    heard, begins = read_sound(result)
    original, _ = read_sound(source)
    late = slice(SAMPLE_RATE, 2 * SAMPLE_RATE)
    stretch = original[SAMPLE_RATE : 4 * SAMPLE_RATE]
    assert abs(lag_seconds(heard[late], stretch[late]) + begins) < TEN_MILLISECONDS


@pytest.mark.parametrize("container", ["mp4", "mkv"])
async def test_frames_after_a_pause_are_kept_though_a_keyframe_is_stored_early(
    bench: MediaBench, clips: Path, container: str
) -> None:
    # The keyframe 75 is stored with the time that the second picture before it is shown at, which
    # lies before the pause.
    source = make_clip(clips, bench.ffmpeg.path, ClipSpec(seconds=6, audio=None))
    kept = "select='lt(n,16)+gt(n,73)'"
    keys = ("-force_key_frames", "2.5", "-x264-params", "open-gop=0:scenecut=0", "-bf", "3")
    options = ("-vf", kept, "-fps_mode", "passthrough", *keys, "-preset", "veryfast")
    clip = await recode(bench, source, f"pause.{container}", *options)
    result, _ = await bench.trim(clip, 2.4, 3)
    assert [s.number for s in read_frames(result)] == list(range(74, 90))
