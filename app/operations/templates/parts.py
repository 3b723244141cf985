"""What several templates are made of: the ground, the logo, scrims, the pieces of type."""

from dataclasses import replace

from app.operations.base import StillInput
from app.operations.templates.composition import Composition, Ground
from app.operations.templates.motion import Cue, Drift, Entrance
from app.operations.templates.scene import (
    Anchor,
    Column,
    Element,
    Fit,
    Glow,
    Node,
    Picture,
    Plate,
    Region,
    Ripples,
    Row,
    Shape,
    Text,
)
from app.operations.templates.style import (
    BLACK,
    GLOW,
    MANY,
    PLATE,
    RIPPLE,
    SCRIM,
    WHITE,
    Box,
    Step,
    Style,
    growth,
)

LOGO_WIDTH, LOGO_HEIGHT = 20, 6.5
"""Room for a logo, in units; it is shown whole within it."""
REGULAR, MEDIUM, BOLD, HEAVY = 400, 500, 700, 800
LEADING = {
    Step.DISPLAY: 1.08,
    Step.TITLE: 1.12,
    Step.HEADING: 1.16,
    Step.SUBTITLE: 1.28,
    Step.BODY: 1.36,
    Step.LABEL: 1.2,
}
TIGHT = {Step.DISPLAY: -0.02, Step.TITLE: -0.018, Step.HEADING: -0.012}
"""Large type is set closer, in ems."""


def region(
    box: Box,
    *elements: Element,
    gap: int = 0,
    across: Anchor = Anchor.START,
    down: Anchor = Anchor.START,
) -> Region:
    """Return a region that fills a box."""
    return Region(box.x, box.y, box.width, box.height, elements, gap, across, down)


def whole(style: Style) -> Box:
    """Return the whole frame."""
    return Box(0, 0, style.width, style.height)


def write(
    style: Style,
    step: Step,
    text: str,
    *,
    lines: int,
    weight: int = BOLD,
    color: str | None = None,
) -> Text:
    """Return text of a step of the type scale, in the palette's own white unless told otherwise."""
    return Text(
        text,
        size=style.size(step),
        smallest=style.smallest(step),
        lines=lines,
        weight=weight,
        color=color or style.palette.text,
        leading=LEADING[step],
        tracking=TIGHT.get(step, 0.0),
    )


def alone(text: Text, letters: int | None = None) -> Text:
    """Return text that has its place to itself: larger, when it says little.

    ``letters`` of the longest that is shown in that place; its own unless told otherwise.
    """
    return replace(
        text, size=round(text.size * growth(len(text.text) if letters is None else letters))
    )


def headline(style: Style, text: str) -> Text:
    """Return what is said largest: on two lines if it is short, then on as many as four."""
    lines = 2 if len(text) < MANY else 4
    return alone(write(style, Step.DISPLAY, text, lines=lines, weight=HEAVY))


def centered(text: Text) -> Text:
    return replace(text, anchor=Anchor.CENTER)


def chip(style: Style, text: str, step: Step = Step.LABEL) -> Plate:
    """Return a word or two on a plate of the accent colour."""
    palette = style.palette
    label = write(style, step, text, lines=1, weight=BOLD, color=palette.on_accent)
    return Plate(
        label,
        color=palette.accent,
        opacity=1.0,
        radius=style.units(0.6),
        padding_x=style.units(1.5),
        padding_y=style.units(1.0),
    )


def bar(style: Style, width: float, height: float = 0.6) -> Shape:
    """Return a short bar of the accent colour; sizes in units."""
    color = style.palette.mark
    high = style.units(height)
    return Shape(style.units(width), high, color, radius=high // 2)


def card(
    style: Style, *lines: Text, gap: float = 1.4, padding: tuple[float, float] = (3, 2.4)
) -> Plate:
    """Return lines on a dark plate with a stripe of the accent colour; sizes in units."""
    palette = style.palette
    node = lines[0] if len(lines) == 1 else Column(lines, gap=style.units(gap))
    return Plate(
        node,
        color=palette.base,
        opacity=PLATE,
        radius=style.units(0.8),
        padding_x=style.units(padding[0]),
        padding_y=style.units(padding[1]),
        stripe=style.units(0.7),
        stripe_color=palette.mark,
        shadow=style.plate_lift,
    )


def plate(style: Style, node: Node, *, padding: tuple[float, float]) -> Plate:
    """Return something on a plain dark plate; padding in units."""
    return Plate(
        node,
        color=style.palette.base,
        opacity=PLATE,
        radius=style.units(1.2),
        padding_x=style.units(padding[0]),
        padding_y=style.units(padding[1]),
        shadow=style.plate_lift,
    )


def numeral(style: Style, number: int, side: float) -> Plate:
    """Return a number in a square of the accent colour; ``side`` in units."""
    palette, length = style.palette, style.units(side)
    size = round(length * 0.52)
    figure = Text(
        str(number),
        size=size,
        smallest=size // 2,
        lines=1,
        weight=HEAVY,
        color=palette.on_accent,
        anchor=Anchor.CENTER,
    )
    return Plate(
        figure,
        color=palette.accent,
        opacity=1.0,
        radius=style.units(side / 5),
        padding_x=0,
        padding_y=0,
        width=length,
        height=length,
    )


def logo_node(style: Style, logo: StillInput, *, larger: float = 1.0) -> Plate | Picture:
    """Return a logo, whole, on a plate that sets it off; one without transparency needs none."""
    picture = Picture(
        logo.name,
        style.units(LOGO_WIDTH * larger),
        style.units(LOGO_HEIGHT * larger),
        Fit.CONTAIN,
        radius=0 if logo.still.has_alpha else style.units(0.8),
    )
    if not logo.still.has_alpha:
        return picture
    return Plate(
        picture,
        color=WHITE,
        color_other=BLACK,
        opacity=0.94,
        radius=style.units(1.0),
        padding_x=style.units(1.4),
        padding_y=style.units(1.1),
    )


def corner_logo(style: Style, logo: StillInput, box: Box | None = None) -> Region:
    """Return the logo in the upper corner at which lines of text end."""
    safe = box or style.safe
    height = style.units(LOGO_HEIGHT + 2.4)
    place = Box(safe.x, safe.y, safe.width, height)
    return region(place, Element("logo", logo_node(style, logo)), across=Anchor.END)


def with_logo(
    composition: Composition, style: Style, logo: StillInput | None, end: float
) -> Composition:
    """Return the composition with the logo in its corner, if there is one."""
    if logo is None:
        return composition
    return replace(
        composition,
        regions=(*composition.regions, corner_logo(style, logo)),
        cues=(*composition.cues, logo_cue(end)),
    )


def beside_logo(style: Style, logo: StillInput | None, box: Box, *, is_rtl: bool) -> Box:
    """Return a box at the top less the corner that a logo takes."""
    if logo is None:
        return box
    safe = style.safe
    width = min(box.width, safe.width - style.units(LOGO_WIDTH + 5))
    return Box(safe.x + safe.width - width if is_rtl else safe.x, box.y, width, box.height)


def scrimmed(style: Style, text: Box, *, is_rtl: bool, soft: int | None = None) -> Region:
    """Return the scrim under a box of text that lies along one side, or at the bottom.

    ``soft``: how far it takes to fade away at the side, in pixels.
    """
    if style.is_wide:
        solid, soft = text.x + text.width, soft or style.units(SIDE_SOFT)
        left = 0
        if is_rtl:
            solid, left = style.width - text.x, text.x - soft
        node: Row | Column = side_scrim(style, solid, soft, is_rtl=is_rtl)
        return Region(left, 0, solid + soft, style.height, (Element("scrim", node),))
    soft = style.units(LOW_SOFT[style.is_tall])
    top = text.y - soft
    return Region(
        0,
        top,
        style.width,
        style.height - top,
        (Element("scrim", low_scrim(style, soft, style.height - text.y)),),
    )


def logo_cue(end: float) -> Cue:
    """Return when a logo is seen: nearly always, and it makes nothing of it."""
    return Cue("logo", 0.2, end, Entrance.FADE, enter_seconds=1.0)


SIDE_SOFT, LOW_SOFT = 58, (24, 34)
"""How far a scrim takes to fade away, in units."""


def side_scrim(style: Style, solid: int, soft: int, *, is_rtl: bool) -> Row:
    """Return a scrim along the side at which text begins: even under the text, then fading away."""
    deep, height = style.palette.deep, style.height
    fading = Shape(
        soft,
        height,
        deep,
        opacity=SCRIM,
        color_end=deep,
        opacity_end=0.0,
        angle=180 if is_rtl else 0,
    )
    return Row((Shape(solid, height, deep, opacity=SCRIM), fading), gap=0, align=Anchor.START)


def low_scrim(style: Style, soft: int, solid: int) -> Column:
    """Return a scrim along the lower edge: fading in from above, then even under the text."""
    deep, width = style.palette.deep, style.width
    fading = Shape(width, soft, deep, opacity=0.0, color_end=deep, opacity_end=SCRIM, angle=90)
    return Column((fading, Shape(width, solid, deep, opacity=SCRIM)), gap=0)


RIPPLES = (0.3, 0.52, 0.78, 1.08)
"""How far they reach, in the longer side of the frame."""


def _still_water(style: Style, *, is_mirrored: bool) -> Region:
    """Return what the lights of a ground drift over."""
    palette, width, height = style.palette, style.width, style.height
    water = Ripples(
        width,
        height,
        palette.base,
        palette.deep,
        angle=65 if is_mirrored else 115,
        light=palette.glows[0],
        opacity=RIPPLE,
        x=round((0.08 if is_mirrored else 0.92) * width),
        y=round(0.02 * height),
        radii=tuple(round(share * max(width, height)) for share in RIPPLES),
    )
    return Region(0, 0, width, height, (Element("ground", water),))


def make_ground(style: Style, *, is_mirrored: bool = False, is_still: bool = False) -> Ground:
    """Return a ground that looks made: dark in the accent's hue, ripples and three lights in it.

    The brightest is at the upper right, or left where ``is_mirrored``: away from where text begins.
    ``is_still``: it does not move, for where a moving picture stands beside it.
    """
    palette, width, height = style.palette, style.width, style.height
    large, small = max(width, height), min(width, height)
    places = (
        ("light_a", 0.80, 0.06 * height, 1.15 * large, GLOW),
        ("light_b", 0.06, 1.02 * height, 1.0 * large, GLOW * 0.85),
        ("light_c", 1.02, 0.90 * height, 0.8 * large, GLOW * 0.7),
    )
    regions = [_still_water(style, is_mirrored=is_mirrored)]
    drifts = []
    for index, (name, share, y, size, opacity) in enumerate(places):
        x = (1 - share if is_mirrored else share) * width
        side = style.units(size / style.unit)
        glow = Glow(side, side, palette.glows[index], opacity)
        left, top = round((x - side / 2) / 2) * 2, round((y - side / 2) / 2) * 2
        regions.append(Region(left, top, side, side, (Element(name, glow),)))
        reach = 0 if is_still else small // 12
        drifts.append(Drift(name, reach, round(reach * 0.7), 17 + 5 * index, 1.9 * index))
    return Ground("ground", tuple(regions), tuple(drifts))
