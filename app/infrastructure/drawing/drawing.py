"""Draws a scene: one PNG for each element, cropped to its own box, and where that stands."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.infrastructure.drawing.layout import Layout, Mark
from app.infrastructure.drawing.painting import Box, Canvas, extent, rim
from app.infrastructure.drawing.pictures import Pictures
from app.operations.templates.scene import Column, Node, Picture, Plate, Row, Scene, Text

COMPRESSION = 1
"""Of the PNGs, which live for a moment."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Where each element stands, and which of them had to be made smaller or cut."""

    numbers: dict[str, int]
    fitted: list[dict[str, Any]]


def draw(
    scene: Scene,
    folder: Path,
    targets: Mapping[str, Path],
    report: Callable[[float], None],
) -> Drawn:
    """Draw every element of a scene into its target and return where each stands in the frame.

    ``folder`` has the pictures. Raises UnsupportedCharacters and what ``pictures.decode`` raises.
    """
    pictures = Pictures(folder, set(sources(scene)))
    report(0.1)
    placed = Layout(scene, pictures.sizes).place()
    report(0.4)
    drawn = Drawn({}, [])
    for index, (name, marks) in enumerate(placed.items()):
        box = _box(marks, scene)
        edge = rim(marks[0]) if marks else "#000000"
        canvas = Canvas(box, pictures, rim=edge, is_rtl=scene.is_rtl)
        for mark in marks:
            canvas.paint(mark)
        canvas.image.save(targets[name], format="PNG", compress_level=COMPRESSION)
        size = (box[2] - box[0], box[3] - box[1])
        numbers = zip("xywh", (*box[:2], *size), strict=True)
        drawn.numbers.update({f"{name}_{letter}": value for letter, value in numbers})
        drawn.fitted.extend(_fitted(name, marks))
        report(0.4 + 0.6 * (index + 1) / len(placed))
    return drawn


def _fitted(name: str, marks: Sequence[Mark]) -> Iterator[dict[str, Any]]:
    """Return how text of an element differs from what was wished, if it does."""
    texts = [(mark, mark.node) for mark in marks if isinstance(mark.node, Text)]
    ratios = [mark.lines[0][0].style.size / text.size for mark, text in texts if mark.lines]
    least = min(ratios, default=1.0)
    is_cut = any(mark.is_cut for mark, _ in texts)
    if is_cut or least < 1:
        yield {
            "element": name,
            "shrunk_to": round(least, 3) if least < 1 else None,
            "cut": is_cut,
        }


def _box(marks: Sequence[Mark], scene: Scene) -> Box:
    """Return the pixels that an element touches, on even ones as video wants it.

    It may lie beyond the frame, though not far: what nobody will see is not drawn.
    """
    boxes = [extent(mark) for mark in marks] or [(0, 0, 2, 2)]
    left, right = _even(min(b[0] for b in boxes), max(b[2] for b in boxes), scene.width)
    top, bottom = _even(min(b[1] for b in boxes), max(b[3] for b in boxes), scene.height)
    return (left, top, right, bottom)


def _even(start: int, end: int, size: int) -> tuple[int, int]:
    least, most = -2 * size, 3 * size
    start = min(max(start, least), most - 2) // 2 * 2
    return start, max(-(-min(end, most) // 2) * 2, start + 2)


def sources(scene: Scene) -> Iterator[str]:
    """Return the names of the pictures that a scene shows."""
    for region in scene.regions:
        for element in region.elements:
            yield from _sources_of(element.node)


def _sources_of(node: Node) -> Iterator[str]:
    match node:
        case Picture():
            yield node.source
        case Plate():
            yield from _sources_of(node.child)
        case Row() | Column():
            for child in node.children:
                yield from _sources_of(child)
