"""Every operation with both programs that are used in the field: the bundled FFmpeg and the system's."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import pytest

from app.infrastructure.drawing.fonts import FontAlphabet
from app.infrastructure.media.ffmpeg_locator import FFmpeg, locate_ffmpeg
from app.operations.base import ClipInput, Plan
from app.operations.registry import default_registry
from tests.fakes.clips import ClipSpec, make_clip
from tests.fakes.media_bench import open_bench
from tests.fakes.render_rows import OPERATIONS, OperationRow

SECONDS = 1.0
ROWS = [row for row in OPERATIONS.values() if row.clips]
TEMPLATES = ("intro", "announcement", "how-it-works", "persona", "demo", "closing")


def bundled() -> FFmpeg:
    return locate_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())


def system() -> FFmpeg:
    found = shutil.which("ffmpeg", path="/usr/local/bin:/usr/bin:/bin")
    assert found, "the system has no ffmpeg: scripts/system_packages.sh installs it"
    return locate_ffmpeg(found)


BINARIES = {"bundled": bundled, "system": system}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = replace(ClipSpec(), seconds=SECONDS)
    return make_clip(tmp_path_factory.mktemp("both"), bundled().path, spec)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("binary", BINARIES)
async def test_each_operation_works_with_the_bundled_and_with_the_system_s_ffmpeg(
    tmp_path: Path, clip: Path, row: OperationRow, binary: str
) -> None:
    ffmpeg = await asyncio.to_thread(BINARIES[binary])
    async with open_bench(tmp_path / "job", ffmpeg=ffmpeg) as bench:
        names = [f"{number:032x}" for number in range(1, row.clips + 1)]
        for name in names:
            (bench.folder / name).hardlink_to(clip)
        sources = [
            ClipInput(name, await bench.probe.probe(bench.folder / name), clip.name)
            for name in names
        ]
        plan = plan_of(row, sources)
        await bench.run_plan(plan)
        (output,) = plan.outputs
        media = await bench.look(bench.folder / output.file)
    video = media.video
    assert video.codec == "h264"
    assert media.audio is not None
    if row.name in TEMPLATES:
        assert (video.width, video.height) == (1080, 1080)
        assert media.duration_seconds == pytest.approx(SECONDS, abs=0.001)
    elif row.name == "concatenate":
        assert media.duration_seconds == pytest.approx(row.clips * SECONDS, abs=row.clips / 30)
    else:
        assert media.duration_seconds == pytest.approx(0.6, abs=1 / 14)


@pytest.mark.parametrize("binary", BINARIES)
async def test_a_crossfade_has_every_picture_with_either(
    tmp_path: Path, clip: Path, binary: str
) -> None:
    ffmpeg = await asyncio.to_thread(BINARIES[binary])
    row = OperationRow(
        "concatenate", {"transition": "crossfade", "crossfade_seconds": 0.2667}, clips=2
    )
    async with open_bench(tmp_path / "job", ffmpeg=ffmpeg) as bench:
        names = [f"{number:032x}" for number in (1, 2)]
        for name in names:
            (bench.folder / name).hardlink_to(clip)
        media = await bench.probe.probe(bench.folder / names[0])
        plan = plan_of(row, [ClipInput(name, media, clip.name) for name in names])
        await bench.run_plan(plan)
        joined = await bench.look(bench.folder / plan.outputs[0].file)
    assert joined.duration_seconds == pytest.approx(2 * SECONDS - 8 / 30, abs=0.001)


def plan_of(row: OperationRow, sources: list[ClipInput]) -> Plan:
    operation = default_registry(FontAlphabet()).get(row.name)
    params = dict(row.params) | ({"aspect": "1:1"} if row.name in TEMPLATES else {})
    return operation.plan(operation.params_model.model_validate(params), sources)
