"""What a render is made of: footage, a drawn ground, and elements with their cues. Pure data."""

from dataclasses import dataclass

from app.operations.templates.motion import Cue, Drift
from app.operations.templates.scene import Region, Scene
from app.operations.templates.style import Box, Style


@dataclass(frozen=True, slots=True)
class Dim:
    """Footage that gets darker, so that text can stand all over it: ``left`` of its light stays."""

    left: float
    start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Footage:
    """A clip in a box of the frame: cut to fill it, or whole over a blurred copy of itself.

    ``left``: where in the box a clip begins that is narrower; in its middle if None.
    """

    box: Box
    is_cut: bool
    dim: Dim | None = None
    left: int | None = None


@dataclass(frozen=True, slots=True)
class Zoom:
    """A drawn picture in a box that comes slowly nearer. ``name`` is its element."""

    name: str
    box: Box


@dataclass(frozen=True, slots=True)
class Ground:
    """What lies behind everything: an opaque element over the whole frame, and lights that drift."""

    name: str
    regions: tuple[Region, ...]
    drifts: tuple[Drift, ...] = ()


@dataclass(frozen=True, slots=True)
class Composition:
    """A whole render. In order from the back: ground, footage or zoom, then the cues' elements.

    ``regions`` hold the cues' elements and the zoom's. ``shortened``: the times were squeezed.
    """

    seconds: float
    regions: tuple[Region, ...]
    cues: tuple[Cue, ...]
    ground: Ground | None = None
    footage: Footage | None = None
    zoom: Zoom | None = None
    shortened: bool = False

    def scene(self, style: Style, *, is_rtl: bool, language: str) -> Scene:
        """Return all that is to be drawn, ground first."""
        ground = self.ground.regions if self.ground else ()
        regions = (*ground, *self.regions)
        return Scene(style.width, style.height, regions, is_rtl, language)
