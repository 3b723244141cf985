"""Contact sheets: every template in every shape, as it comes, stays and goes, to be looked at.

    python -m tests.fakes.contact_sheet FOLDER [NAME...]

renders all six at full size (or those of ``SHOWINGS`` that are named), with material made here, and
writes one JPEG for each: a row for each shape.
"""

import asyncio
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from app.domain.jobs import InputRole
from app.domain.media import StillInfo
from app.infrastructure.drawing.drawing import draw
from app.infrastructure.drawing.fonts import FontAlphabet
from app.infrastructure.drawing.scene_reading import scene_from_json
from app.infrastructure.media.ffmpeg_locator import FFmpeg, locate_ffmpeg
from app.operations.base import ClipInput, FFmpegStep, Plan, PythonStep, StillInput
from app.operations.ffmpeg import complete, put_in
from app.operations.house_profile import PRESET
from app.operations.registry import default_registry
from app.operations.templates.params import ASPECTS
from app.operations.templates.scene import Scene, picture_file
from tests.fakes.media_bench import open_bench

CLIP, STILL, LOGO = "c" * 32, "d" * 32, "e" * 32
SIDE = 480
"""Length of a picture's longer side on a sheet, in pixels; upright ones are as high as this."""
GAP, PAPER = 12, "#E9ECEF"
QUALITY = 72
SECONDS = 4

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Showing:
    """One template as it is shown: parameters, and which inputs."""

    operation: str
    params: dict[str, Any]
    roles: tuple[InputRole, ...] = ()
    moments: tuple[float, ...] = ()
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.operation}{'-' + self.note if self.note else ''}"


SHOWINGS = (
    Showing(
        "intro",
        {
            "team": "Field Research",
            "full_name": "Amara Okafor",
            "role": "Hydrologist, tidal basins",
        },
        (InputRole.CLIP, InputRole.LOGO),
        (0.8, 2.2, 3.8),
    ),
    Showing(
        "announcement",
        {
            "title": "Open day at the tide mill",
            "body": "See the wheels turn at high water, and ask the people who keep them turning.",
            "date": "14 June, 10:00",
            "accent_color": "#F2B705",
        },
        (InputRole.CLIP,),
        (0.9, 2.2, 3.8),
    ),
    Showing(
        "announcement",
        {
            "title": "Open day at the tide mill",
            "body": "See the wheels turn at high water, and ask the people who keep them turning.",
            "date": "14 June, 10:00",
        },
        (),
        (0.9, 4.0, 9.6),
        "ground",
    ),
    Showing(
        "announcement",
        {
            "title": "Winter lectures",
            "body": "Six evenings about rivers.\nFree, no registration.",
            "accent_color": "#0B1F4B",
        },
        (InputRole.IMAGE, InputRole.LOGO),
        (0.9, 4.0, 6.6),
        "still",
    ),
    Showing(
        "how-it-works",
        {
            "title": "How a tide mill works",
            "steps": [
                "The flood fills the pond through a gate",
                "The gate closes when the tide turns",
                "The ebb lets the pond's water drive the wheel",
            ],
        },
        (),
        (0.7, 3.2, 6.9),
    ),
    Showing(
        "how-it-works",
        {
            "title": "How a tide mill works",
            "steps": ["The flood fills the pond", "The gate closes", "The wheel turns"],
            "accent_color": "#E4572E",
        },
        (InputRole.CLIP, InputRole.LOGO),
        (1.2, 2.6, 3.8),
        "clip",
    ),
    Showing(
        "persona",
        {
            "full_name": "Amara Okafor",
            "role": "Hydrologist",
            "quote": "Water always tells you where it has been.",
            "traits": ["Curious", "Patient", "Outdoors in any weather"],
        },
        (InputRole.IMAGE,),
        (0.9, 4.0, 8.5),
    ),
    Showing(
        "persona",
        {"full_name": "Jonas Weidenbach", "role": "Millwright", "accent_color": "#7C3AED"},
        (InputRole.CLIP, InputRole.LOGO),
        (0.8, 2.2, 3.8),
        "clip",
    ),
    Showing(
        "demo",
        {
            "title": "Reading the gauge",
            "captions": [
                {"text": "The pond is full at high water", "start": 0.6, "end": 2.0},
                {
                    "text": "Two hours later the wheel has used half a metre of it",
                    "start": 2.2,
                    "end": 3.9,
                },
            ],
        },
        (InputRole.CLIP,),
        (0.75, 1.5, 3.2),
    ),
    Showing(
        "closing",
        {
            "message": "Thank you for watching",
            "team": "Field Research",
            "contact": "hello@tidemill.example",
            "url": "tidemill.example",
        },
        (InputRole.LOGO,),
        (0.8, 2.5, 4.75),
    ),
    Showing(
        "closing",
        {"message": "See you at high water", "url": "tidemill.example", "accent_color": "#D7263D"},
        (InputRole.CLIP,),
        (0.6, 2.2, 3.8),
        "clip",
    ),
)


@dataclass
class Studio:
    """A folder with made-up material in it, where plans are rendered."""

    folder: Path
    ffmpeg: FFmpeg = field(default_factory=lambda: locate_ffmpeg(None))
    seconds: float = SECONDS

    def sources(self, roles: Sequence[InputRole]) -> list[Any]:
        """Return inputs of the roles; each is made once."""
        made = {
            InputRole.CLIP: self._clip,
            InputRole.IMAGE: self._still,
            InputRole.LOGO: self._logo,
        }
        return [made[role]() for role in roles]

    def _clip(self) -> ClipInput:
        path = self.folder / CLIP
        if not path.exists():
            make_scenery(path, str(self.ffmpeg.path), self.seconds)
        media = asyncio.run(_probe(path))
        return ClipInput(CLIP, media, "harbour.mp4")

    def _still(self) -> StillInput:
        path = self.folder / STILL
        if not path.exists():
            portrait().save(path, format="JPEG", quality=92)
        return StillInput(
            STILL, InputRole.IMAGE, StillInfo("jpeg", 1200, 1500, has_alpha=False), "amara.jpg"
        )

    def _logo(self) -> StillInput:
        path = self.folder / LOGO
        if not path.exists():
            logo().save(path, format="PNG")
        return StillInput(
            LOGO, InputRole.LOGO, StillInfo("png", 520, 150, has_alpha=True), "logo.png"
        )

    def render(self, plan: Plan, name: str) -> Path:
        """Run the two steps of a plan here and now, and return the video."""
        drawing, rendering = plan.steps
        assert isinstance(drawing, PythonStep)
        assert isinstance(rendering, FFmpegStep)
        scene = scene_from_json(drawing.arguments)
        numbers = self.draw(scene)
        hasty = ["ultrafast" if a == PRESET else a for a in put_in(rendering.arguments, numbers)]
        arguments = complete(hasty, threads=2, major=self.ffmpeg.major)
        target = self.folder / f"{name}.mp4"
        command = [str(self.ffmpeg.path), "-v", "error", "-y", *arguments, f"file:{target.name}"]
        subprocess.run(command, cwd=self.folder, check=True)
        return target

    def draw(self, scene: Scene) -> dict[str, int]:
        targets = {name: self.folder / picture_file(name) for name in scene.element_names}
        return dict(draw(scene, self.folder, targets, lambda _: None).numbers)


async def _probe(path: Path) -> Any:
    async with open_bench(path.parent) as bench:
        return await bench.probe.probe(path)


# --- material -------------------------------------------------------------------------------------


def make_scenery(
    path: Path, ffmpeg: str, seconds: float, size: tuple[int, int] = (1920, 1080)
) -> None:
    """Write a clip of a bay at evening: sky, sun, hills that pass, water that glitters; and a tone."""
    width, height = size
    small = (width // 4 // 2 * 2, height // 4 // 2 * 2)
    command = [ffmpeg, "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{small[0]}x{small[1]}", "-framerate", "30", "-i", "pipe:0"]
    command += ["-f", "lavfi", "-i", f"sine=frequency=330:sample_rate=48000:duration={seconds}"]
    scale = f"scale={width}:{height}:flags=bicubic:out_color_matrix=bt709:out_range=tv"
    command += [
        "-vf",
        f"{scale},format=yuv420p,setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709",
    ]
    command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "16", "-c:a", "aac", "-ac", "2"]
    command += ["-movflags", "+faststart", "-f", "mp4", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for picture in _scenery(small, round(seconds * 30)):
            process.stdin.write(picture.tobytes())
        process.stdin.close()
    assert process.returncode == 0


def _scenery(size: tuple[int, int], count: int) -> Iterator[Picture]:
    width, height = size
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    down, across = ys / height, xs / width
    top, low = np.array([58, 96, 150]), np.array([255, 205, 150])
    share = np.clip(down / 0.58, 0, 1)[..., None] ** 1.4
    sky = top * (1 - share) + low * share
    sun = np.exp(-(((across - 0.68) * width / height) ** 2 + (down - 0.46) ** 2) / 0.012)[..., None]
    sky = sky + sun * np.array([90, 70, 40])
    random = np.random.default_rng(7)
    for number in range(count):
        moved = number / 900
        picture = sky.copy()
        for layer, (base, tall, color) in enumerate(
            ((0.54, 0.10, (96, 110, 140)), (0.6, 0.13, (60, 78, 96)), (0.68, 0.1, (30, 46, 52)))
        ):
            place = across + moved * (layer + 1)
            wave = np.sin(place * (5 + 3 * layer) + layer) + 0.5 * np.sin(place * (13 + 5 * layer))
            picture[down > base - tall * wave / 2.4] = color
        water = down > 0.74
        glitter = np.sin(down * 260 + number * 0.35) * np.sin(
            across * 34 + down * 90 + number * 0.2
        )
        sea = (
            np.array([52, 92, 112])
            + (glitter * 16 + (1 - np.abs(across - 0.66) * 2.2) * 46)[..., None]
        )
        picture[water] = sea[water]
        picture += random.normal(0, 2.2, (height, width, 1))
        yield np.clip(picture, 0, 255).astype(np.uint8)


def portrait() -> Image.Image:
    """Return a picture of a person, simple as on a poster."""
    size = (1200, 1500)
    ys = np.linspace(0, 1, size[1])[:, None, None]
    ground = np.array([236, 190, 150]) * (1 - ys) + np.array([140, 96, 110]) * ys
    picture = Image.fromarray(np.broadcast_to(ground, (size[1], size[0], 3)).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((700, 120, 1260, 680), fill=(250, 214, 165))
    pen.ellipse((120, 1010, 1080, 2100), fill=(32, 74, 92))
    pen.rectangle((520, 860, 680, 1100), fill=(112, 72, 56))
    pen.ellipse((370, 350, 830, 780), fill=(38, 28, 30))
    pen.ellipse((415, 430, 785, 960), fill=(134, 88, 68))
    pen.pieslice((400, 360, 800, 760), 180, 360, fill=(38, 28, 30))
    pen.polygon([(470, 1060), (600, 1240), (730, 1060)], fill=(112, 72, 56))
    return picture.filter(ImageFilter.GaussianBlur(1.2))


def logo(*, is_light: bool = False) -> Image.Image:
    """Return a wide logo without a ground of its own."""
    color = (255, 255, 255, 255) if is_light else (13, 42, 58, 255)
    picture = Image.new("RGBA", (520, 150), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((6, 6, 144, 144), outline=color, width=16)
    for spoke in range(6):
        turn = math.radians(spoke * 60)
        pen.line((75, 75, 75 + 60 * math.cos(turn), 75 + 60 * math.sin(turn)), fill=color, width=10)
    for index, high in enumerate((60, 96, 60, 96, 60)):
        left = 186 + index * 66
        pen.rounded_rectangle((left, 123 - high, left + 44, 123), 10, fill=color)
    return picture


# --- sheets ---------------------------------------------------------------------------------------


def frames_at(video: Path, moments: Sequence[float]) -> list[Image.Image]:
    """Return the pictures that a video shows at the moments, in seconds, which go up."""
    wanted, found = list(moments), []
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            while wanted and (frame.time or 0.0) >= wanted[0] - 1e-3:
                found.append(Image.fromarray(frame.to_ndarray(format="rgb24")))
                wanted.pop(0)
    assert not wanted, "the video is over before"
    return found


def make_sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Return rows of pictures on one sheet, each with its longer side ``SIDE``."""
    small = [[_small(picture) for picture in row] for row in rows]
    widths = [sum(p.width for p in row) + GAP * (len(row) + 1) for row in small]
    heights = [max(p.height for p in row) for row in small]
    sheet = Image.new("RGB", (max(widths), sum(heights) + GAP * (len(rows) + 1)), PAPER)
    y = GAP
    for row, width, height in zip(small, widths, heights, strict=True):
        x = (sheet.width - width) // 2 + GAP
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width + GAP
        y += height + GAP
    return sheet


def _small(picture: Image.Image) -> Image.Image:
    share = SIDE / max(picture.size)
    if picture.width == picture.height:
        share *= 0.75
    return picture.resize(
        (round(picture.width * share), round(picture.height * share)), Image.Resampling.LANCZOS
    )


def show(studio: Studio, showing: Showing, **params: Any) -> Path:
    """Render a showing and return the video."""
    operation = default_registry(FontAlphabet()).get(showing.operation)
    wish = operation.params_model.model_validate({**showing.params, **params})
    plan = operation.plan(wish, studio.sources(showing.roles))
    return studio.render(plan, showing.name)


def main(arguments: list[str]) -> int:
    target = Path(arguments[0])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(Path(folder))
        for showing in SHOWINGS:
            if showing.name not in (arguments[1:] or {each.operation for each in SHOWINGS}):
                continue
            rows = [
                frames_at(show(studio, showing, aspect=aspect), showing.moments)
                for aspect in ASPECTS
            ]
            make_sheet(rows).save(target / f"{showing.name}.jpg", quality=QUALITY)
            sys.stdout.write(f"{showing.name}.jpg\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
