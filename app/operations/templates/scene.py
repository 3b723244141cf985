"""What a template wants drawn: text, shapes and pictures, stacked in regions of the frame. Pure data.

A scene is given to the program ``draw`` as JSON (``Scene.as_json``). Each ``Element`` becomes one
RGBA PNG cropped to its own box, whose place in the frame the program tells as four numbers:
``<name>_x``, ``<name>_y``, ``<name>_w``, ``<name>_h``, in pixels of the frame. Sizes are in pixels of
the frame throughout; colours are ``#RRGGBB``.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

PROGRAM = "draw"
"""The name of the program, for ``PythonStep``."""


class Anchor(StrEnum):
    """Where in a region its elements gather. START is the side at which a line of text begins."""

    START = "start"
    CENTER = "center"
    END = "end"


class Fit(StrEnum):
    """How a picture fills its box: cut at the edges, or whole with room beside it."""

    COVER = "cover"
    CONTAIN = "contain"


@dataclass(frozen=True, slots=True)
class Shadow:
    """A soft shadow below what it belongs to. ``opacity`` 0..1."""

    dy: int
    blur: int
    opacity: float
    color: str = "#000000"


@dataclass(frozen=True, slots=True)
class Text:
    """Lines of text. Shrinks from ``size`` to ``smallest`` before it is cut with an ellipsis; wraps at
    the region's width into at most ``lines`` lines; a line feed always begins one. ``weight`` 400..800.
    ``leading`` is the distance of lines and ``tracking`` what is added between letters, both in ems.
    """

    text: str
    size: int
    smallest: int
    lines: int
    weight: int
    color: str
    leading: float = 1.2
    tracking: float = 0.0
    anchor: Anchor = Anchor.START
    shadow: Shadow | None = None
    kind: str = "text"


@dataclass(frozen=True, slots=True)
class Shape:
    """A filled rectangle with round corners; ``color_end`` makes it a gradient along ``angle`` degrees.

    ``width`` 0: as wide as the region. Opacities 0..1; a scrim is a shape that fades to nothing.
    Angle 0 runs from left to right, 90 from top to bottom. Gradients are smooth at both ends and
    dithered, so that no bands are seen.
    """

    width: int
    height: int
    color: str
    opacity: float = 1.0
    radius: int = 0
    color_end: str | None = None
    opacity_end: float | None = None
    angle: int = 90
    kind: str = "shape"


@dataclass(frozen=True, slots=True)
class Glow:
    """Soft light: an ellipse, ``opacity`` in its middle and nothing at its edge, dithered."""

    width: int
    height: int
    color: str
    opacity: float
    kind: str = "glow"


@dataclass(frozen=True, slots=True)
class Ripples:
    """A ground like still water that something fell into: a gradient from ``color`` to ``color_end``
    along ``angle``, and discs of ``light`` about ``x``, ``y``, out to each of ``radii``, each of
    ``opacity``.
    """

    width: int
    height: int
    color: str
    color_end: str
    angle: int
    light: str
    opacity: float
    x: int
    y: int
    radii: tuple[int, ...]
    kind: str = "ripples"


@dataclass(frozen=True, slots=True)
class Picture:
    """A still or logo that somebody brought, by its name in the job's folder, fitted into a box."""

    source: str
    width: int
    height: int
    fit: Fit
    radius: int = 0
    shadow: Shadow | None = None
    kind: str = "picture"


@dataclass(frozen=True, slots=True)
class Row:
    """Things side by side, in reading direction, aligned at their tops, middles or ends."""

    children: tuple["Node", ...]
    gap: int
    align: Anchor = Anchor.CENTER
    kind: str = "row"


@dataclass(frozen=True, slots=True)
class Column:
    """Things below each other."""

    children: tuple["Node", ...]
    gap: int
    align: Anchor = Anchor.START
    kind: str = "column"


@dataclass(frozen=True, slots=True)
class Plate:
    """Something on a plate of its own, with room around it. ``width`` and ``height`` at least so much:
    a number in a circle is a plate whose radius is half of both. ``color_other`` is taken in place of
    ``color`` where the picture on it (a logo) is seen better on that. ``stripe`` is the width of a
    stripe of ``stripe_color`` along the side at which text begins, within the plate and its corners.
    """

    child: "Node"
    color: str
    opacity: float
    radius: int
    padding_x: int
    padding_y: int
    width: int = 0
    height: int = 0
    shadow: Shadow | None = None
    color_other: str | None = None
    stripe: int = 0
    stripe_color: str | None = None
    kind: str = "plate"


Node = Text | Shape | Glow | Ripples | Picture | Row | Column | Plate


@dataclass(frozen=True, slots=True)
class Element:
    """One thing that moves by itself. ``name``: lower-case letters, digits and ``_``, unique.

    ``above``: how far below the one before it stands, where that is not its region's gap.
    """

    name: str
    node: Node
    above: int | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """A box of the frame and the elements stacked in it, ``gap`` apart unless one says otherwise.

    It may reach beyond the frame.

    They gather at ``across`` and ``down``. What does not fit in height makes all of its text smaller
    together, down to each one's smallest, then takes lines away. ``overlay``: the elements lie upon
    each other instead of below each other.
    """

    x: int
    y: int
    width: int
    height: int
    elements: tuple[Element, ...]
    gap: int = 0
    across: Anchor = Anchor.START
    down: Anchor = Anchor.START
    overlay: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is drawn for one render. ``is_rtl``: START is on the right, rows run leftwards.

    ``language`` (BCP 47, empty when unknown) chooses among shapes of letters where a font has several.
    """

    width: int
    height: int
    regions: tuple[Region, ...]
    is_rtl: bool = False
    language: str = ""

    @property
    def element_names(self) -> tuple[str, ...]:
        return tuple(element.name for region in self.regions for element in region.elements)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def picture_file(name: str) -> str:
    """Return the name of the file, in the job's folder, that an element is drawn into."""
    return f"{name}.png"
