"""The step runner with the real FFmpeg and with scripts in its place that misbehave."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from app.domain.errors import AppError, InputDamaged, JobTimedOut, NoSpace, RenderFailed
from app.infrastructure.media.ffmpeg_locator import locate_ffmpeg
from app.infrastructure.media.sandbox import Sandbox, SandboxLevel, candidates, works
from app.infrastructure.media.step_runner import _Progress
from app.operations.base import Expected, FFmpegStep, Plan
from app.operations.trim import TrimParams
from app.operations.trim_exact import OUTPUT_FILE
from tests.fakes.clips import ClipSpec, make_clip, read_frames
from tests.fakes.measured import assert_soon_within
from tests.fakes.media_bench import MediaBench, open_bench, scripted_ffmpeg

SPEC = ClipSpec(seconds=6)
CUT = TrimParams(start=1, end=3)
FORGETFUL = """
"$FFMPEG" "$@" && "$FFMPEG" -v error -i trimmed.mp4.part -c copy -an -f mp4 x.mp4
exec mv x.mp4 trimmed.mp4.part
"""
LEVELS = [s for s in [*candidates(), Sandbox(SandboxLevel.LIMITS)] if works(s)]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.getbasetemp() / "clips", locate_ffmpeg(None).path, SPEC)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[MediaBench]:
    async with open_bench(tmp_path / "job") as opened:
        yield opened


@asynccontextmanager
async def scripted(
    tmp_path: Path, body: str, *, stall_seconds: float = 20.0
) -> AsyncIterator[MediaBench]:
    """A bench whose FFmpeg is a script, found as ``FFMPEG_PATH`` is.

    Without bubblewrap, in which a script would not see the real FFmpeg.
    """
    script = scripted_ffmpeg(tmp_path / "ffmpeg", body)
    ffmpeg = locate_ffmpeg(str(script))
    async with open_bench(
        tmp_path / "job",
        ffmpeg=ffmpeg,
        isolation=Sandbox(SandboxLevel.LIMITS),
        stall_seconds=stall_seconds,
    ) as bench:
        yield bench


async def test_an_encoder_gone_wild_cannot_change_its_input(tmp_path: Path, clip: Path) -> None:
    # It is a hard link, so that the upload itself would change.
    body = "for each in *; do echo spoiled >> $each; done; echo made > other; ls >&2; exit 1"
    ffmpeg = locate_ffmpeg(str(scripted_ffmpeg(tmp_path / "ffmpeg", body)))
    before = await asyncio.to_thread(clip.read_bytes)
    sandbox = next(level for level in LEVELS if level.level is SandboxLevel.BUBBLEWRAP)
    async with open_bench(tmp_path / "job", ffmpeg=ffmpeg, isolation=sandbox) as bench:
        plan = await bench.plan(clip, CUT)
        with pytest.raises(RenderFailed):
            await bench.run(plan.steps[0])
        assert (bench.folder / "other").exists()
    assert await asyncio.to_thread(clip.read_bytes) == before


def test_progress_is_read_from_pieces_of_any_size() -> None:
    told: list[float] = []
    progress = _Progress(10.0, told.append)
    progress.feed(b"frame=1\nout_time_us=1")
    progress.feed(b"000000\n" + b"x=9999999\n" * 500 + b"out_time_us=2000000\n")
    assert told == [0.2]


def only_input_and_part(folder: Path) -> bool:
    return {p.name for p in folder.iterdir()} <= {
        "0123456789abcdef0123456789abcdef",
        f"{OUTPUT_FILE}.part",
    }


@pytest.mark.parametrize("sandbox", LEVELS, ids=lambda s: s.level.value)
async def test_a_step_runs_at_every_level_and_reports_rising_progress(
    sandbox: Sandbox, tmp_path: Path, clip: Path
) -> None:
    async with open_bench(tmp_path / "job", isolation=sandbox) as bench:
        result, _ = await bench.trim(clip, 1, 3)
        assert [s.number for s in read_frames(result)] == list(range(30, 90))
        assert bench.reported[0] == 0.0
        assert bench.reported[-1] == 1.0
        assert bench.reported == sorted(set(bench.reported))
        assert not (bench.folder / f"{OUTPUT_FILE}.part").exists()


async def test_progress_comes_in_steps_while_it_works(tmp_path: Path, clip: Path) -> None:
    body = 'exec "$FFMPEG" -readrate 2 "$@"'
    async with scripted(tmp_path, body) as bench:
        plan = await bench.plan(clip, CUT)
        await bench.run(plan.steps[0])
        assert len([f for f in bench.reported if 0 < f < 1]) >= 2


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("exit 1", RenderFailed, "did not say why"),
        ("echo '/data/uploads/x: strange' >&2; exit 7", RenderFailed, "<file>"),
        ("exit 0", RenderFailed, "wrote nothing"),
        (": > trimmed.mp4.part", RenderFailed, "no bytes"),
        ("echo not a video > trimmed.mp4.part", RenderFailed, "not a usable video"),
        ("kill -9 $$", RenderFailed, ""),
        ("echo 'x: No space left on device' >&2; exit 1", NoSpace, "full"),
        ('exec "$FFMPEG" -t 1.7 "$@"', InputDamaged, "could be decoded"),
        ('exec "$FFMPEG" -t 0.5 "$@"', InputDamaged, "a pause there, or it is damaged"),
        (FORGETFUL, RenderFailed, "sound"),
    ],
    ids=[
        "fails",
        "fails with a path",
        "writes nothing",
        "writes an empty file",
        "writes text",
        "is killed",
        "disk full",
        "stops early",
        "stops before the cut",
        "forgets the sound",
    ],
)
async def test_an_ffmpeg_that_misbehaves_fails_the_step_and_publishes_nothing(
    tmp_path: Path, clip: Path, body: str, error: type[AppError], words: str
) -> None:
    async with scripted(tmp_path, body) as bench:
        plan = await bench.plan(clip, CUT)
        with pytest.raises(error) as failed:
            await bench.run(plan.steps[0])
        assert words in failed.value.detail
        assert "/data" not in failed.value.detail
        assert only_input_and_part(bench.folder)


def children_since(before: set[psutil.Process]) -> set[psutil.Process]:
    """Child processes that were not there before: other tests keep a database server running."""
    return set(psutil.Process().children(recursive=True)) - before


async def test_a_disk_that_is_really_full_is_no_space(bench: MediaBench, clip: Path) -> None:
    plan = await bench.plan(clip, CUT)
    (bench.folder / f"{OUTPUT_FILE}.part").symlink_to("/dev/full")
    with pytest.raises(NoSpace):
        await bench.run(plan.steps[0])


async def test_a_child_without_a_sign_of_life_times_out_and_the_limit_is_named(
    tmp_path: Path, clip: Path
) -> None:
    before = children_since(set())
    async with scripted(tmp_path, "sleep 600", stall_seconds=1) as bench:
        plan = await bench.plan(clip, CUT)
        started = time.monotonic()
        with pytest.raises(JobTimedOut, match="limit of 1 s"):
            await bench.run(plan.steps[0])
        assert time.monotonic() - started < 8
        assert children_since(before) == set()


async def test_a_child_that_computes_in_silence_is_alive(tmp_path: Path, clip: Path) -> None:
    body = (
        'end=$(($(date +%s) + 4)); while [ $(date +%s) -lt $end ]; do :; done; exec "$FFMPEG" "$@"'
    )
    async with scripted(tmp_path, body, stall_seconds=1.5) as bench:
        plan = await bench.plan(clip, CUT)
        assert (await bench.run(plan.steps[0])).exists()


async def test_cancelling_a_step_stops_ffmpeg_within_three_seconds(
    tmp_path: Path, clip: Path
) -> None:
    before = children_since(set())
    async with scripted(tmp_path, '"$FFMPEG" -readrate 0.2 "$@" & wait') as bench:
        plan = await bench.plan(clip, CUT)

        async def cancel() -> list[float]:
            task = asyncio.ensure_future(bench.run(plan.steps[0]))
            async with asyncio.timeout(20):
                while len(children_since(before)) < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            taken = time.monotonic() - started
            assert children_since(before) == set()
            return [taken]

        await assert_soon_within(3, cancel)
        assert only_input_and_part(bench.folder)


async def damaged_plan(bench: MediaBench, clip: Path, damage: Callable[[bytes], bytes]) -> Plan:
    """Plan on the whole clip, then let the job find other bytes."""
    plan = await bench.plan(clip, CUT)
    link = bench.folder / "0123456789abcdef0123456789abcdef"
    content = damage(link.read_bytes())
    link.unlink()
    link.write_bytes(content)
    return plan


@pytest.mark.parametrize("kept", [0.15, 0.3])
async def test_a_truncated_input_fails_as_damaged(
    bench: MediaBench, clip: Path, kept: float
) -> None:
    plan = await damaged_plan(bench, clip, lambda whole: whole[: int(len(whole) * kept)])
    with pytest.raises(InputDamaged):
        await bench.run(plan.steps[0])
    assert only_input_and_part(bench.folder)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_flipped_bits_fail_as_damaged(bench: MediaBench, clip: Path, seed: int) -> None:
    def flip(whole: bytes) -> bytes:
        content, chance = bytearray(whole), random.Random(seed)
        for _ in range(60):
            at = chance.randrange(len(content) // 5, len(content) // 2)
            content[at] ^= 1 << chance.randrange(8)
        return bytes(content)

    plan = await damaged_plan(bench, clip, flip)
    with pytest.raises(InputDamaged):
        await bench.run(plan.steps[0])


async def test_a_result_that_is_longer_than_planned_is_not_published(
    bench: MediaBench, clip: Path
) -> None:
    plan = await bench.plan(clip, CUT)
    expected = Expected(duration_seconds=1.0, duration_tolerance=0.04, has_audio=True)
    (step,) = plan.steps
    assert isinstance(step, FFmpegStep)
    with pytest.raises(RenderFailed, match=r"where 1\.000 s were expected"):
        await bench.run(replace(step, expected=expected))
    assert only_input_and_part(bench.folder)
