"""Pictures are looked at and scenes drawn in a limited child: what it may, takes and refuses."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from app.domain.errors import (
    EmptyFile,
    InputDamaged,
    JobTimedOut,
    MediaOverLimits,
    NotAnImage,
    RenderFailed,
    UnsupportedCharacters,
)
from app.domain.media import StillInfo
from app.infrastructure.drawing import CHILD
from app.infrastructure.media.sandbox import Sandbox, SandboxLevel, candidates, works
from app.infrastructure.media.still_probe import StillProbeChild
from app.operations.base import PythonStep, StepFacts
from app.operations.templates.scene import (
    PROGRAM,
    Element,
    Fit,
    Picture,
    Plate,
    Region,
    Scene,
    picture_file,
)
from tests.fakes.media_bench import LIMITS, MediaBench, open_bench
from tests.fakes.scenes import text
from tests.fakes.stills import bomb, disguised, encoded, four_corners, still, webp_bomb

MEBIBYTE = 1024**2
LEVELS = [*(each for each in candidates() if works(each)), Sandbox(SandboxLevel.LIMITS)]
WORDS = Scene(
    320,
    180,
    (Region(10, 10, 300, 160, (Element("title", text("Grüße")), Element("b", text("x")))),),
)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[MediaBench]:
    async with open_bench(tmp_path / "work") as opened:
        yield opened


def step(scene: Scene, *inputs: str) -> PythonStep:
    outputs = tuple(picture_file(name) for name in scene.element_names)
    return PythonStep("draw", 1.0, PROGRAM, scene.as_json(), inputs, outputs)


async def run(bench: MediaBench, scene: Scene, *inputs: str) -> StepFacts:
    return await bench.steps.run(step(scene, *inputs), bench.folder, bench.reported.append)


async def seen(bench: MediaBench, data: bytes) -> StillInfo:
    path = bench.folder / "still"
    path.write_bytes(data)
    return await bench.stills.probe_still(path)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.level.value)
async def test_every_level_of_the_sandbox_sees_the_fonts_and_the_pictures(
    tmp_path: Path, level: Sandbox
) -> None:
    async with open_bench(tmp_path / "work", isolation=level) as bench:
        (bench.folder / "logo").write_bytes(still())
        plate = Plate(Picture("logo", 40, 30, Fit.CONTAIN), "#FFFFFF", 1.0, 4, 5, 5)
        names = Region(
            10, 10, 300, 160, (Element("title", text("שלום Grüße")), Element("p", plate))
        )
        facts = await run(bench, Scene(320, 180, (names,)), "logo")
        assert await seen(bench, still("WEBP")) == StillInfo("webp", 80, 60, has_alpha=False)
        assert set(facts.numbers) == {f"{name}_{at}" for name in ("title", "p") for at in "xywh"}
        for name in ("title", "p"):
            with Image.open(bench.folder / picture_file(name)) as image:
                size = (facts.numbers[f"{name}_w"], facts.numbers[f"{name}_h"])
                assert (image.size, image.mode, image.format) == (size, "RGBA", "PNG")
        assert facts.result == {"fitted": []}
        assert bench.reported[-1] == 1.0


async def test_a_look_says_what_is_wrong(bench: MediaBench) -> None:
    with pytest.raises(EmptyFile):
        await seen(bench, b"")
    for kind in ("gif", "svg", "mp4"):
        with pytest.raises(NotAnImage) as refused:
            await seen(bench, disguised()[kind])
        assert refused.value.extra == {"allowed": ["PNG", "JPEG", "WebP"]}
    with pytest.raises(InputDamaged):
        await seen(bench, still("JPEG")[:400])
    with pytest.raises(MediaOverLimits) as over:
        await seen(bench, bomb())
    assert over.value.extra == {"limit": "pixels", "value": 900_000_000, "maximum": 16_777_216}


async def test_a_picture_on_its_side_is_told_as_it_is_shown(bench: MediaBench) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = await seen(bench, encoded(four_corners((80, 60)), "JPEG", exif=exif))
    assert found == StillInfo("jpeg", 60, 80, has_alpha=False)


async def test_a_look_that_takes_too_long_is_ended(bench: MediaBench, tmp_path: Path) -> None:
    path = tmp_path / "still"
    path.write_bytes(still())
    hasty = StillProbeChild(bench.runner, LIMITS, CHILD, timeout_seconds=0.001)
    with pytest.raises(JobTimedOut):
        await hasty.probe_still(path)


async def test_a_scene_shows_its_inputs_only(bench: MediaBench, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(still())
    picture = Picture("../secret", 40, 40, Fit.COVER)
    with pytest.raises(RenderFailed):
        await run(bench, Scene(100, 100, (Region(0, 0, 99, 99, (Element("it", picture),)),)))
    assert not (bench.folder / picture_file("it")).exists()


async def test_what_a_child_cannot_draw_is_told_by_its_code(bench: MediaBench) -> None:
    words = Region(0, 0, 99, 99, (Element("it", text("中")),))
    with pytest.raises(UnsupportedCharacters) as refused:
        await run(bench, Scene(100, 100, (words,)))
    assert refused.value.extra == {"characters": {"text": ["中"]}}


def peak_of_a_look(path: Path) -> tuple[int, dict[str, object]]:
    """Bytes that a look took at most, and what it said."""
    arguments = [sys.executable, "-I", "-B", str(CHILD)]
    asked = json.dumps({"do": "look", "max_pixels": 16_777_216})
    with subprocess.Popen([*arguments, asked, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * 1024, json.loads(said)


def test_a_bomb_takes_no_more_memory_than_a_small_picture(tmp_path: Path) -> None:
    path = tmp_path / "still"
    path.write_bytes(still())
    usual, said = peak_of_a_look(path)
    assert "facts" in said
    for data in (bomb(), webp_bomb()):
        path.write_bytes(data)
        peak, said = peak_of_a_look(path)
        assert "refused" in said
        assert peak < usual + 20 * MEBIBYTE
    # As many pixels as are allowed: that much is decoded, and bounded.
    path.write_bytes(bomb(4096, 4096))
    peak, said = peak_of_a_look(path)
    assert "facts" in said
    assert peak < usual + 150 * MEBIBYTE
