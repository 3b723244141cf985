"""The one visual system of all templates: sizes, margins and colours.

Everything is measured in units of a ninetieth of the frame's shorter side (12 pixels of 1080), type
runs in one scale, and all colours follow from the accent: a near-black of its hue lies behind, white
and a grey of its hue are written with, and the accent itself marks. Where text meets a colour, that
colour is moved until the contrast is enough (``color.READABLE``), whatever the accent.
"""

from dataclasses import dataclass
from enum import StrEnum

from app.operations.house_profile import SIZES
from app.operations.templates.color import (
    Look,
    color_of,
    contrast,
    look_of,
    luminance,
    mix,
    readable,
)
from app.operations.templates.params import Aspect
from app.operations.templates.scene import Shadow

UNITS = 90
"""In the shorter side of a frame."""

DEFAULT_ACCENT = "#2DD4BF"

WHITE, BLACK = "#FFFFFF", "#0B0D10"

SCRIM = 0.8
"""Opacity of what is laid over a foreign picture where text is to stand: read on white, too."""
PLATE = 0.9
"""Opacity of a plate of its own."""
DIM = 0.34
"""What is left of a picture's brightness when text stands all over it."""


class Step(StrEnum):
    """A step of the type scale."""

    DISPLAY = "display"
    TITLE = "title"
    HEADING = "heading"
    SUBTITLE = "subtitle"
    BODY = "body"
    LABEL = "label"


UNITS_OF = {
    Step.DISPLAY: 9.0,
    Step.TITLE: 7.0,
    Step.HEADING: 5.5,
    Step.SUBTITLE: 3.9,
    Step.BODY: 3.3,
    Step.LABEL: 2.7,
}
"""Size of type, in units: each step is about 1.3 of the next."""
SMALLEST_SHARE = 0.55
"""How far type of the upper steps may shrink before lines are cut."""
SMALLEST_UNITS = 2.2
"""Nothing is written smaller: 26 pixels of 1080, which a phone still shows."""

FEW, MANY = 10, 32
"""Letters: what says so little is written larger, what says so much is not."""
LARGER = 1.5

SCALES = {"16:9": 1.0, "9:16": 1.1, "1:1": 1.0}
"""Upright videos are seen on a phone, where type must be a little larger."""

MARGINS = {"16:9": (8, 7, 7), "9:16": (7, 18, 24), "1:1": (7, 7, 7)}
"""Of the safe area, in units: at both sides, above, below. Upright videos are played under buttons."""


@dataclass(frozen=True, slots=True)
class Box:
    """A part of the frame in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours that fit each other; all text on them keeps its contrast.

    ``accent`` marks (with ``on_accent`` written upon it), as it was given unless it were lost on
    ``base``; ``bright`` is the accent as text and ``mark`` as bars on ``base``; ``base`` and ``deep``
    lie behind, ``glows`` shine on them.
    """

    accent: str
    on_accent: str
    bright: str
    mark: str
    base: str
    deep: str
    text: str
    muted: str
    glows: tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Style:
    """Sizes and colours for one frame."""

    aspect: Aspect
    width: int
    height: int
    palette: Palette

    @property
    def unit(self) -> int:
        return min(self.width, self.height) // UNITS

    @property
    def is_wide(self) -> bool:
        return self.width > self.height

    @property
    def is_tall(self) -> bool:
        return self.width < self.height

    @property
    def is_square(self) -> bool:
        return self.width == self.height

    @property
    def safe(self) -> Box:
        """The part of the frame that every screen shows, free of a player's own buttons."""
        side, above, below = (each * self.unit for each in MARGINS[self.aspect])
        return Box(side, above, self.width - 2 * side, self.height - above - below)

    def units(self, count: float) -> int:
        """Return a length in pixels, even: colours are stored for pairs of them."""
        return round(count * self.unit / 2) * 2

    def size(self, step: Step) -> int:
        """Return the size of type of a step, in pixels."""
        return round(UNITS_OF[step] * SCALES[self.aspect] * self.unit)

    def smallest(self, step: Step) -> int:
        """Return the size that type of a step may shrink to."""
        least = max(UNITS_OF[step] * SMALLEST_SHARE, SMALLEST_UNITS)
        return round(min(least, UNITS_OF[step]) * self.unit)

    @property
    def lift(self) -> Shadow:
        """The shadow that sets text off a moving picture."""
        return Shadow(dy=self.units(0.2), blur=self.units(1.2), opacity=0.55)

    @property
    def plate_lift(self) -> Shadow:
        """The shadow under a plate."""
        return Shadow(dy=self.units(0.6), blur=self.units(2.4), opacity=0.35)


def growth(letters: int) -> float:
    """Return how much larger text is that has its place to itself: a word or two must fill it."""
    return 1 + (LARGER - 1) * min(max((MANY - letters) / (MANY - FEW), 0.0), 1.0)


def make_style(aspect: Aspect, accent_color: str | None) -> Style:
    """Return the style of a frame."""
    width, height = SIZES[aspect]
    return Style(aspect, width, height, make_palette(accent_color or DEFAULT_ACCENT))


def make_palette(accent: str) -> Palette:
    """Derive every colour from one. Text keeps its contrast also where the glows are brightest."""
    look = look_of(accent)
    tint = min(look.chroma, 0.05)
    base = color_of(Look(0.25, tint, look.hue))
    deep = color_of(Look(0.155, min(look.chroma, 0.02), look.hue))
    vivid = min(max(look.lightness, 0.5), 0.72)
    glows = (
        color_of(Look(vivid, look.chroma, look.hue)),
        color_of(Look(vivid * 0.86, look.chroma, look.hue + 0.45)),
        color_of(Look(vivid * 0.86, look.chroma, look.hue - 0.5)),
    )
    rippled = mix(base, glows[0], 1 - (1 - RIPPLE) ** 4)
    lit = max(mix(rippled, glows[0], GLOW), mix(deep, WHITE, 1 - SCRIM), key=luminance)
    marking = readable(accent, base, at_least=SEEN)
    return Palette(
        accent=marking,
        on_accent=_ink_on(marking),
        bright=readable(accent, lit, at_least=4.7),
        mark=readable(accent, lit, at_least=SEEN),
        base=base,
        deep=deep,
        text=color_of(Look(0.985, min(look.chroma, 0.004), look.hue)),
        muted=readable(color_of(Look(0.84, min(look.chroma, 0.02), look.hue)), lit, at_least=5.5),
        glows=glows,
    )


SEEN = 3.0
"""Contrast of a mark to what lies behind it: less, and a chip is a stain."""
RIPPLE = 0.035
"""Opacity of each of a ground's discs of light; four lie upon each other at most."""
GLOW = 0.34
"""Opacity of the brightest glow at its middle."""


def _ink_on(accent: str) -> str:
    """Return near-black or white, whichever reads better; plain black where neither is enough."""
    best = max((WHITE, BLACK), key=lambda ink: contrast(ink, accent))
    return readable(best, accent, at_least=4.7)
