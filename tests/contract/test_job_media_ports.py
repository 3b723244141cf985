"""What jobs rely on of MediaProbe, StepRunner and Digests, held against fakes and real ones alike."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from app.domain.errors import EmptyFile, NotMedia, StorageFailed
from app.infrastructure.media.ffmpeg_locator import locate_ffmpeg
from app.infrastructure.worker.digests import FileDigests
from app.operations.base import FFmpegStep
from app.operations.trim import TrimParams
from app.services.ports import MediaProbe, StepRunner
from tests.fakes.clips import ClipSpec, make_clip
from tests.fakes.media import CLIP, FakeProbe
from tests.fakes.media_bench import one_step, open_bench
from tests.fakes.steps import FakeSteps, make_step


@dataclass
class Tools:
    """One implementation of both ports, a clip it knows, and a step it can run in ``folder``."""

    probe: MediaProbe
    runner: StepRunner
    folder: Path
    clip: Path
    step: FFmpegStep


@pytest_asyncio.fixture(params=["fake", "real"])
async def tools(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Tools]:
    folder = tmp_path / "job"
    folder.mkdir()
    if request.param == "fake":
        clip = tmp_path / "clip"
        clip.write_bytes(CLIP)
        steps = FakeSteps()
        yield Tools(FakeProbe(), steps, folder, clip, make_step("cut", weight=1))
        return
    spec = replace(ClipSpec(), seconds=4.0)
    clip = await asyncio.to_thread(make_clip, tmp_path, locate_ffmpeg(None).path, spec)
    async with open_bench(folder) as bench:
        plan = await bench.plan(clip, TrimParams(start=1.0, end=3.0))
        yield Tools(bench.probe, bench.steps, folder, clip, one_step(plan))


async def test_a_clip_is_known_by_its_length_and_video(tools: Tools) -> None:
    media = await tools.probe.probe(tools.clip)
    assert media.duration_seconds > 1
    assert (media.video.width, media.video.height) == (320, 180)
    assert media.size_bytes == tools.clip.stat().st_size


@pytest.mark.parametrize(("content", "error"), [(b"", EmptyFile), (b"a letter", NotMedia)])
async def test_what_is_no_clip_is_refused(
    tools: Tools, content: bytes, error: type[Exception]
) -> None:
    path = tools.folder / "foreign"
    path.write_bytes(content)
    with pytest.raises(error):
        await tools.probe.probe(path)


async def test_a_step_leaves_its_output_and_reports_up_to_one(tools: Tools) -> None:
    reported: list[float] = []
    await tools.runner.run(tools.step, tools.folder, reported.append)
    assert (tools.folder / tools.step.output).stat().st_size > 0
    assert reported == sorted(reported)
    assert reported[-1] == 1.0


async def test_a_cancelled_step_has_stopped_when_it_returns_and_left_no_output(
    tools: Tools,
) -> None:
    if isinstance(tools.runner, FakeSteps):
        tools.runner.gate = asyncio.Event()
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    run = asyncio.create_task(tools.runner.run(tools.step, tools.folder, lambda _: None))
    await asyncio.sleep(0.15)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert not (tools.folder / tools.step.output).exists()


async def test_a_digest_is_the_file_s_length_and_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than one piece
    (tmp_path / "film").write_bytes(content)
    digest = await FileDigests().of(tmp_path / "film")
    assert (digest.size_bytes, digest.sha256) == (
        len(content),
        hashlib.sha256(content).hexdigest(),
    )
    with pytest.raises(StorageFailed):
        await FileDigests().of(tmp_path / "nothing")
