"""Scenes drawn in this very process, and measured: where ink is, and of what colour."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from app.infrastructure.drawing.drawing import draw
from app.operations.templates.scene import Element, Node, Region, Scene, Text, picture_file

WHITE = "#FFFFFF"


@dataclass(frozen=True)
class Drawn:
    """What ``draw`` made of a scene: each element's picture and place, and what it told."""

    images: Mapping[str, Image.Image]
    numbers: Mapping[str, int]
    fitted: list[dict[str, object]]

    def place(self, name: str = "it") -> tuple[int, int, int, int]:
        """The box of an element in the frame: left, top, right, bottom."""
        x, y, width, height = (self.numbers[f"{name}_{letter}"] for letter in "xywh")
        return (x, y, x + width, y + height)

    def ink(self, name: str = "it") -> tuple[int, int, int, int]:
        """The smallest box around all that is seen of an element, in the frame."""
        found = self.images[name].getchannel("A").getbbox()
        assert found is not None, f"nothing of {name} is seen"
        x, y = self.place(name)[:2]
        return (found[0] + x, found[1] + y, found[2] + x, found[3] + y)


def draw_scene(folder: Path, scene: Scene) -> Drawn:
    """Draw a scene whose pictures lie in ``folder``."""
    targets = {name: folder / picture_file(name) for name in scene.element_names}
    reached: list[float] = []
    told = draw(scene, folder, targets, reached.append)
    assert reached == sorted(reached)
    images = {}
    for name, path in targets.items():
        with Image.open(path) as image:
            images[name] = image.copy()
    return Drawn(images, told.numbers, told.fitted)


def draw_node(folder: Path, node: Node, size: tuple[int, int] = (640, 360)) -> Drawn:
    """Draw one thing, called ``it``, at the start of a frame."""
    return draw_scene(folder, Scene(*size, (Region(0, 0, *size, (Element("it", node),)),)))


def text(words: str, size: int = 40, smallest: int = 12, lines: int = 2) -> Text:
    return Text(words, size, smallest, lines, 600, WHITE)
