"""Templates as videos: rendered for real, then measured where things are, when, and how they read."""

import itertools
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain.errors import InputDamaged
from app.domain.jobs import InputRole
from app.domain.media import MediaInfo
from app.infrastructure.drawing.fonts import FontAlphabet
from app.operations import house_profile
from app.operations.base import ClipInput, FFmpegStep, Plan, StillInput
from app.operations.ffmpeg import put_in
from app.operations.registry import default_registry
from app.operations.templates.params import ASPECTS
from app.operations.templates.style import make_style
from tests.fakes.clips import ClipSpec, lag_seconds, make_clip, read_number, read_sound
from tests.fakes.contact_sheet import SHOWINGS, frames_at, logo, make_sheet, portrait
from tests.fakes.media_bench import MediaBench, open_bench

CLIP, STILL, LOGO = "c" * 32, "d" * 32, "e" * 32
FRAME = 1 / 30
SHEETS = Path(__file__).parents[2] / "contact-sheets"

Picture = NDArray[np.uint8]


@dataclass
class Rendered:
    """A render: its file, its probe, and what the plan told."""

    path: Path
    media: MediaInfo
    plan: Plan
    numbers: dict[str, int]

    def frames(self, *moments: float) -> list[Picture]:
        return [np.asarray(picture) for picture in frames_at(self.path, moments)]

    def times(self, element: str) -> tuple[float, float]:
        (told,) = (each for each in self.plan.result["elements"] if each["name"] == element)
        return told["start_seconds"], told["end_seconds"]


@dataclass
class Studio:
    """Renders templates as a worker does."""

    bench: MediaBench

    async def render(self, name: str, sources: Sequence[Any] = (), **params: Any) -> Rendered:
        operation = default_registry(FontAlphabet()).get(name)
        plan = operation.plan(operation.params_model.model_validate(params), list(sources))
        numbers: dict[str, int] = {}
        for planned in plan.steps:
            step = planned
            if isinstance(step, FFmpegStep):
                step = replace(step, arguments=put_in(step.arguments, numbers))
            facts = await self.bench.steps.run(step, self.bench.folder, lambda _: None)
            numbers |= facts.numbers
        path = self.bench.folder / plan.outputs[0].file
        return Rendered(path, await self.bench.look(path), plan, numbers)

    async def clip(self, path: Path) -> ClipInput:
        link = self.bench.folder / CLIP
        link.unlink(missing_ok=True)
        link.hardlink_to(path)
        return ClipInput(CLIP, await self.bench.look(link), "clip.mp4")

    async def plain(
        self, color: str = "white", seconds: float = 1.5, size: str = "320x320"
    ) -> ClipInput:
        """Return a clip of one colour, with a tone."""
        path = self.bench.folder / f"plain-{color}-{seconds}-{size}.mp4"
        command = [str(self.bench.ffmpeg.path), "-v", "error", "-f", "lavfi"]
        command += ["-i", f"color={color}:s={size}:r=30:d={seconds}", "-f", "lavfi"]
        command += ["-i", f"sine=f=440:r=48000:d={seconds}", "-c:v", "libx264", "-preset"]
        command += ["ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-y", str(path)]
        subprocess.run(command, check=True)  # noqa: ASYNC221  (a moment, in a test)
        return await self.clip(path)

    async def pictures(self, *roles: InputRole) -> list[StillInput]:
        found = []
        for role in roles:
            name = STILL if role is InputRole.IMAGE else LOGO
            picture = portrait() if role is InputRole.IMAGE else logo()
            picture.save(self.bench.folder / name, format="PNG")
            still = await self.bench.stills.probe_still(self.bench.folder / name)
            found.append(StillInput(name, role, still, f"{role.value}.png"))
        return found


@pytest.fixture
async def studio(tmp_path: Path) -> AsyncIterator[Studio]:
    async with open_bench(tmp_path / "job", stall_seconds=60) as bench:
        yield Studio(bench)


def luminance(picture: Picture) -> NDArray[np.float64]:
    """Return how much light each pixel gives, 0..1."""
    coded = picture.astype(np.float64) / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    light: NDArray[np.float64] = linear @ np.array([0.2126, 0.7152, 0.0722])
    return light


def contrast_within(picture: Picture, box: tuple[int, int, int, int]) -> float:
    """Return the contrast of the lightest of a text to what is around it, in x, y, width, height."""
    x, y, width, height = box
    light = luminance(picture[y : y + height, x : x + width])
    return float((np.quantile(light, 0.995) + 0.05) / (np.median(light) + 0.05))


def changed(one: Picture, other: Picture, by: int = 24) -> tuple[int, int, int, int] | None:
    """Return left, top, right and bottom of where two pictures differ; None where they do not."""
    far = np.abs(one.astype(int) - other.astype(int)).max(axis=2) > by
    if not far.any():
        return None
    rows, columns = np.flatnonzero(far.any(axis=1)), np.flatnonzero(far.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def check_house(rendered: Rendered) -> None:
    media, told = rendered.media, rendered.plan.result
    assert house_profile.why_not(media) is None
    assert (media.video.width, media.video.height) == (told["width"], told["height"])
    assert media.duration_seconds == pytest.approx(told["duration_seconds"], abs=1e-3)
    assert media.audio is not None
    assert media.audio.end_seconds == pytest.approx(told["duration_seconds"], abs=0.03)
    with av.open(str(rendered.path)) as container:
        assert not {"title", "encoder", "location"} & set(container.metadata)
        assert sum(1 for _ in container.decode(video=0)) == round(media.duration_seconds * 30)


async def test_an_introduction_comes_is_read_within_the_safe_area_and_leaves(
    studio: Studio,
) -> None:
    clip = await studio.plain(seconds=3.2)
    done = await studio.render(
        "intro", [clip], team="Team", full_name="Amara Okafor", role="Hydrologist"
    )
    check_house(done)
    start, end = done.times("card")
    before, held, gone = done.frames(start - 2 * FRAME, (start + end) / 2, end - FRAME)
    assert changed(before, np.full_like(before, 255)) is None
    # By more than a shadow does.
    box = changed(held, before, by=120)
    assert box is not None
    safe = make_style("1:1", None).safe
    assert box[0] >= safe.x - 2
    assert box[1] >= safe.y
    assert box[2] <= safe.x + safe.width + 2
    assert box[3] <= safe.y + safe.height + 2
    assert changed(gone, before, by=40) is None
    # The card itself, without its shadow.
    x, y, width, height = (done.numbers[f"card_{side}"] for side in "xywh")
    inset = make_style("1:1", None).units(5)
    within = (x + inset, y + inset, width - 2 * inset, height - 2 * inset)
    assert contrast_within(held, within) >= 4.5
    early = done.frames(start + 0.1)[0]
    assert changed(early, held) is not None


async def test_what_is_said_over_the_lightest_clip_is_read_and_the_clip_has_its_own_sound(
    studio: Studio,
) -> None:
    clip = await studio.plain(seconds=1.6)
    done = await studio.render(
        "announcement", [clip], title="Open day", body="At the mill.", accent_color="#FFE600"
    )
    check_house(done)
    held = done.frames(0.9)[0]
    for element in ("title", "body"):
        x, y, width, height = (done.numbers[f"{element}_{side}"] for side in "xywh")
        assert contrast_within(held, (x, y, width, height)) >= 4.5, element
    sound, begin = read_sound(done.path)
    assert begin == pytest.approx(0, abs=0.03)
    assert np.abs(sound).max() > 0.05


async def test_every_picture_of_the_clip_is_there_at_its_time_and_so_is_its_sound(
    studio: Studio, tmp_path: Path
) -> None:
    spec = ClipSpec(seconds=2, width=320, height=180)
    source = make_clip(tmp_path, studio.bench.ffmpeg.path, spec)
    captions = [{"text": "Said % {x}", "start": 0.4, "end": 1.4}]
    done = await studio.render(
        "demo", [await studio.clip(source)], title="Title", captions=captions, aspect="16:9"
    )
    check_house(done)
    numbers = []
    with av.open(str(done.path)) as container:
        for frame in container.decode(video=0):
            luma = frame.reformat(320, 180, "gray").to_ndarray().astype(np.float32)
            numbers.append(read_number(luma))
    # The title covers the burnt-in number of some of them.
    read = [(index, number) for index, number in enumerate(numbers) if number < 60]
    assert len(read) >= 30
    assert all(index == number for index, number in read[:10])
    heard, _ = read_sound(done.path)
    reference, _ = read_sound(source)
    assert abs(lag_seconds(heard, reference)) <= 0.002


async def test_on_grounds_of_our_own_elements_come_in_turn_and_all_joins_by_copy(
    studio: Studio,
) -> None:
    closing = await studio.render(
        "closing", message="Thank you", url="example.org", aspect="1:1", accent_color="#0B1F4B"
    )
    check_house(closing)
    assert closing.media.duration_seconds == pytest.approx(5, abs=1e-3)
    message, url = closing.times("message"), closing.times("url")
    assert message[0] < url[0]
    first, held, last = closing.frames(0, 2.5, 5 - FRAME)
    for element in ("message", "url"):
        x, y, width, height = (closing.numbers[f"{element}_{side}"] for side in "xywh")
        region = np.s_[y : y + height, x : x + width]
        assert changed(held[region], first[region]) is not None, element
        assert changed(last[region], first[region], by=60) is None, element
    x, y, width, height = (closing.numbers[f"message_{side}"] for side in "xywh")
    assert contrast_within(held, (x, y, width, height)) >= 4.5
    sound, _ = read_sound(closing.path)
    assert np.abs(sound).max() < 1e-3

    clip = await studio.plain("gray", seconds=0.8, size="180x320")
    steps = await studio.render(
        "how-it-works", [clip], title="How", steps=["One", "Two"], aspect="1:1"
    )
    check_house(steps)
    assert steps.media.video.headers == closing.media.video.headers
    assert any("0.800 s" in warning for warning in steps.plan.warnings)


async def test_a_still_comes_slowly_nearer_beside_a_person(studio: Studio) -> None:
    sources = await studio.pictures(InputRole.IMAGE, InputRole.LOGO)
    done = await studio.render(
        "persona", sources, full_name="A", role="B", traits=["c"], aspect="1:1"
    )
    check_house(done)
    early, late = done.frames(1.5, 4.5)
    panel = np.s_[:, 700:]
    assert changed(early[panel], late[panel]) is not None
    assert done.numbers["logo_w"] > 100


async def test_a_damaged_clip_fails_as_such(studio: Studio, tmp_path: Path) -> None:
    source = make_clip(tmp_path, studio.bench.ffmpeg.path, ClipSpec(seconds=2))
    clip = await studio.clip(source)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(source.read_bytes()[: source.stat().st_size * 6 // 10])
    link = studio.bench.folder / CLIP
    link.unlink()
    link.hardlink_to(broken)
    with pytest.raises(InputDamaged):
        await studio.render("intro", [clip], team="T", full_name="N", role="R", aspect="1:1")
    assert not (studio.bench.folder / "render.mp4").exists()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("showing", SHOWINGS, ids=lambda showing: showing.name)
async def test_every_template_in_every_shape(studio: Studio, showing: Any) -> None:
    clip = await studio.plain("0x5078A0", seconds=4, size="1280x720")
    pictures = await studio.pictures(InputRole.IMAGE, InputRole.LOGO)
    given = {InputRole.CLIP: clip, InputRole.IMAGE: pictures[0], InputRole.LOGO: pictures[1]}
    rows = []
    for aspect in ASPECTS:
        sources = [given[role] for role in showing.roles]
        done = await studio.render(
            showing.operation, sources, **{**showing.params, "aspect": aspect}
        )
        check_house(done)
        rows.append(frames_at(done.path, showing.moments))
        held = np.asarray(rows[-1][1])
        assert all(
            changed(np.asarray(one), np.asarray(other)) is not None
            for one, other in itertools.pairwise(rows[-1])
        )
        assert held.shape[:2] == house_profile.SIZES[aspect][::-1]
    SHEETS.mkdir(exist_ok=True)
    make_sheet(rows).save(SHEETS / f"{showing.name}.jpg", quality=80)
