"""Previews of real clips: size, rate and length, and that each picture is the one of its moment."""

from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import pytest

from app.domain.errors import TrimOutOfRange
from app.operations.base import ClipInput, Plan
from app.operations.trim_preview import PreviewParams, TrimPreview
from tests.fakes.clips import ClipSpec, make_clip, read_frames, read_sound
from tests.fakes.media_bench import INPUT, MediaBench, one_step, open_bench

SLOT = Fraction(1, 15)
CASES: dict[str, ClipSpec] = {
    "b-frames, open groups of pictures": ClipSpec(seconds=3, gop=20),
    "hevc": ClipSpec(seconds=3, gop=20, codec="libx265"),
    "matroska that begins at 5 s": ClipSpec(seconds=3, gop=20, container="mkv", shift_seconds=5),
    "24 frames a second, no sound": ClipSpec(seconds=3, rate="24", audio=None),
    "60 frames a second": ClipSpec(seconds=3, rate="60"),
    "ten bits": ClipSpec(seconds=3, ten_bit=True),
    "vp9 and opus": ClipSpec(seconds=3, codec="libvpx-vp9", container="webm", audio="libopus"),
    "transport stream": ClipSpec(seconds=3, container="ts"),
}


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "clips"


@pytest.fixture
async def bench(tmp_path: Path, clips: Path) -> AsyncIterator[MediaBench]:
    # Beside the clips, since inputs are hard links.
    async with open_bench(clips.parent / f"job-{tmp_path.name}") as opened:
        yield opened


async def preview(bench: MediaBench, clip: Path, **params: float) -> tuple[Path, Plan]:
    link = bench.folder / INPUT
    link.unlink(missing_ok=True)
    link.hardlink_to(clip)
    media = await bench.look(link)
    found = [ClipInput(INPUT, media, clip.name)]
    plan = TrimPreview().plan(PreviewParams.model_validate(params), found)
    return await bench.run(one_step(plan)), plan


@pytest.mark.parametrize("case", CASES)
async def test_every_picture_of_a_preview_is_the_one_of_its_moment(
    bench: MediaBench, clips: Path, case: str
) -> None:
    spec = CASES[case]
    clip = make_clip(clips, bench.ffmpeg.path, spec)
    result, plan = await preview(bench, clip, start=0.8, end=2.4)
    shown = read_frames(result)
    assert [s.time for s in shown] == [pytest.approx(n / 15, abs=1e-4) for n in range(24)]
    rate = Fraction(spec.rate)
    for picture in shown:
        moment = picture.number / rate - Fraction(8, 10)
        assert abs(moment - picture.time) <= SLOT
        assert picture.number >= 0.8 * rate - 0.01
        assert picture.number < 2.4 * rate
    assert len({s.number for s in shown}) >= 23
    after = await bench.look(result)
    assert (after.video.width, after.video.height, after.video.frame_rate) == (320, 180, "15/1")
    assert after.video.pixel_format == "yuv420p"
    assert plan.warnings == ()
    assert (plan.result["start_seconds"], plan.result["end_seconds"]) == pytest.approx(
        (0.8, 2.4), abs=1e-3
    )
    assert bench.reported[0] == 0
    assert bench.reported == sorted(bench.reported)
    if spec.audio is None:
        assert after.audio is None
        return
    assert after.audio is not None
    assert after.audio.channels == 1
    heard, begins = read_sound(result)
    assert begins == 0
    assert len(heard) / 48000 == pytest.approx(1.6, abs=0.05)
    assert b"secret" not in result.read_bytes()


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (ClipSpec(seconds=1, width=1280, height=720, audio=None), (640, 360)),
        (ClipSpec(seconds=1, rotation=90), (180, 320)),
        (ClipSpec(seconds=1, width=1000, height=1400, audio=None), (640, 896)),
        (ClipSpec(seconds=1, width=700, height=300, rotation=270, audio=None), (300, 700)),
    ],
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else "",
)
async def test_a_preview_is_upright_even_and_never_larger_than_the_clip(
    bench: MediaBench, clips: Path, spec: ClipSpec, size: tuple[int, int]
) -> None:
    clip = make_clip(clips, bench.ffmpeg.path, spec)
    result, plan = await preview(bench, clip, start=0.2)
    video = (await bench.look(result)).video
    assert (video.width, video.height, video.rotation) == (*size, 0)
    assert (plan.result["width"], plan.result["height"]) == size


async def test_a_variable_rate_becomes_even_and_keeps_its_moments(
    bench: MediaBench, clips: Path
) -> None:
    spec = ClipSpec(seconds=3, gop=10, variable=True)
    clip = make_clip(clips, bench.ffmpeg.path, spec)
    result, _ = await preview(bench, clip, start=0.5, end=2.5)
    source = [s for s in read_frames(clip) if s.number >= 15]
    for picture in read_frames(result):
        moment = picture.time + Fraction(1, 2)
        # What the source shows at that moment, or half a slot around it.
        near = (moment - SLOT, moment + SLOT)
        began = [s.number for s in source if s.time <= near[1]]
        over = [s.number for s in source if s.time <= near[0]]
        assert picture.number in began[max(len(over) - 1, 0) :]


async def test_longer_parts_are_cut_to_thirty_seconds_and_that_is_said(
    bench: MediaBench, clips: Path
) -> None:
    spec = ClipSpec(seconds=34, rate="3", width=256, height=64, b_frames=0)
    clip = make_clip(clips, bench.ffmpeg.path, spec)
    result, plan = await preview(bench, clip, start=2)
    assert plan.warnings == ("Only the first 30 s of the 32.000 s asked for are shown.",)
    assert (plan.result["start_seconds"], plan.result["end_seconds"]) == (2, 32)
    assert (await bench.look(result)).duration_seconds == pytest.approx(30, abs=0.1)
    assert plan.outputs[0].filename == f"{clip.stem}-preview.mp4"
    for params in ({"start": 40.0}, {"start": 3.0, "end": 2.0}, {"end": 99.0}):
        with pytest.raises(TrimOutOfRange, match=r"The clip is 34\.000 s long"):
            await preview(bench, clip, **params)
