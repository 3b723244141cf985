"""The template ``persona``: a portrait of a person, beside a clip or picture of theirs."""

from collections.abc import Iterable
from typing import Annotated, ClassVar

from pydantic import Field

from app.operations.base import InputRule, Params
from app.operations.templates.composition import Composition, Footage, Zoom
from app.operations.templates.motion import STAGGER, Cue, Entrance
from app.operations.templates.params import TemplateParams
from app.operations.templates.parts import (
    HEAVY,
    MEDIUM,
    REGULAR,
    alone,
    bar,
    corner_logo,
    logo_cue,
    make_ground,
    region,
    write,
)
from app.operations.templates.scene import (
    Anchor,
    Column,
    Element,
    Fit,
    Picture,
    Plate,
    Region,
    Row,
    Shape,
)
from app.operations.templates.style import Box, Step, Style
from app.operations.templates.template import LOGO, MAYBE_CLIP, MAYBE_IMAGE, Given, Stage, Template
from app.operations.templates.text import Line, Paragraph, Trait

USUAL, READING = 6.0, 24.0
"""Seconds beside a picture: so many and one more for so many letters."""
NEEDED = 3.5
MOST_TRAITS = 5
PANEL = {"16:9": 68, "9:16": 84, "1:1": 38}
"""How much of the frame the person has, in units: of its width, of its height when upright."""
GIVEN_UP = 22
"""Of an upright frame's panel, in units, for as much text as there can be."""
FEW, MANY, TRAIT = 90, 400, 25
"""Letters: from the first on the person gives room, by the second all of it; a trait counts more."""
SHORT_QUOTE = 0.4
"""A quote is as short as a title with so much of its letters."""

Traits = Annotated[tuple[Trait, ...], Field(max_length=MOST_TRAITS)]


class PersonaParams(TemplateParams):
    """Who it is."""

    full_name: Line = Field(description="The name.", examples=["Amara Okafor"])
    role: Line = Field(description="What the person does.", examples=["Hydrologist"])
    quote: Paragraph | None = Field(
        default=None,
        description="Something the person says.",
        examples=["Water always tells you where it has been."],
    )
    traits: Traits = Field(
        default=(),
        description="Up to five words or short phrases.",
        examples=[["Curious", "Patient", "Outdoors in any weather"]],
    )


class Persona(Template[PersonaParams]):
    """The person fills one side of the frame; name, role, quote and traits come up on the other."""

    name: ClassVar[str] = "persona"
    description: ClassVar[str] = (
        "Portray a person: name, role, a quote and up to five traits beside a clip or picture."
    )
    inputs: ClassVar[tuple[InputRule, ...]] = (MAYBE_CLIP, MAYBE_IMAGE, LOGO)
    params_model: ClassVar[type[Params]] = PersonaParams
    allowed: ClassVar[str] = "one clip or one image"

    def takes(self, given: Given) -> bool:
        return (given.clip is None) != (given.still is None)

    def texts(self, params: PersonaParams) -> Iterable[str]:
        return (params.full_name, params.role, params.quote or "")

    def compose(self, params: PersonaParams, stage: Stage) -> Composition:
        style, given = stage.style, stage.given
        letters = sum(map(len, (params.full_name, params.role, params.quote or "", *params.traits)))
        seconds, end = stage.length(USUAL + letters / READING, NEEDED)
        panel, room = _sides(style, letters + TRAIT * len(params.traits), is_rtl=stage.is_rtl)
        found = _elements(params, stage)
        regions = [
            region(
                room,
                *(element for element, _ in found),
                gap=style.units(2.6),
                down=Anchor.CENTER,
            )
        ]
        cues = [
            Cue(element.name, 0.4 + 1.5 * STAGGER * index, end, entrance, style.units(3))
            for index, (element, entrance) in enumerate(found)
        ]
        if given.logo is not None:
            regions.append(corner_logo(style, given.logo, _logo_place(style, panel)))
            cues.append(logo_cue(end))
        if given.still is not None:
            picture = Picture(given.still.name, panel.width, panel.height, Fit.COVER)
            regions.append(
                Region(panel.x, panel.y, panel.width, panel.height, (Element("still", picture),))
            )
        return Composition(
            seconds,
            tuple(regions),
            tuple(cues),
            ground=make_ground(
                style, is_mirrored=not stage.is_rtl, is_still=given.clip is not None
            ),
            footage=Footage(panel, is_cut=True) if given.clip else None,
            zoom=Zoom("still", panel) if given.still else None,
        )


def _elements(params: PersonaParams, stage: Stage) -> list[tuple[Element, Entrance]]:
    style, words, palette = stage.style, stage.words, stage.style.palette
    step = Step.TITLE if style.aspect != "1:1" else Step.HEADING
    drawn = words.draw("full_name", params.full_name)
    name = alone(write(style, step, drawn, lines=3, weight=HEAVY))
    role = write(
        style,
        Step.SUBTITLE,
        words.draw("role", params.role),
        lines=2,
        weight=MEDIUM,
        color=palette.bright,
    )
    found = [
        (Element("name", name), Entrance.RISE),
        (Element("role", role, above=style.units(1.4)), Entrance.LIFT),
    ]
    if params.quote is None and not params.traits:
        found.append((Element("bar", bar(style, 12)), Entrance.GROW))
    if params.quote is not None:
        quote = words.draw("quote", params.quote)
        said = write(style, Step.SUBTITLE, quote, lines=8, weight=REGULAR)
        said = alone(said, round(len(quote) * SHORT_QUOTE))
        quoted = Plate(
            said,
            color=palette.base,
            opacity=0.0,
            radius=0,
            padding_x=style.units(2.4),
            padding_y=style.units(0.4),
            stripe=style.units(0.5),
            stripe_color=palette.mark,
        )
        found.append((Element("quote", quoted, above=style.units(4)), Entrance.LIFT))
    if params.traits:
        traits = words.draw_all("traits", params.traits)
        found.append(
            (Element("traits", _listed(style, traits), above=style.units(4)), Entrance.LIFT)
        )
    return found


def _listed(style: Style, traits: Iterable[str]) -> Column:
    side = style.units(1.0)
    mark = Shape(side, side, style.palette.mark, radius=side // 2)
    rows = [
        Row((mark, write(style, Step.BODY, trait, lines=1, weight=MEDIUM)), gap=style.units(1.4))
        for trait in traits
    ]
    return Column(tuple(rows), gap=style.units(1.5))


def _sides(style: Style, letters: int, *, is_rtl: bool) -> tuple[Box, Box]:
    """Return where the person is, and where the text."""
    length, safe = style.units(PANEL[style.aspect]), style.safe
    if style.is_tall:
        length -= style.units(GIVEN_UP * min(max((letters - FEW) / (MANY - FEW), 0.0), 1.0))
        top = length + style.units(5)
        bottom = safe.y + safe.height
        return Box(0, 0, style.width, length), Box(safe.x, top, safe.width, bottom - top)
    between = style.units(5 if style.is_wide else 3.5)
    width = style.width - length - safe.x - between
    if is_rtl:
        return (
            Box(0, 0, length, style.height),
            Box(length + between, safe.y, width, safe.height),
        )
    return (
        Box(style.width - length, 0, length, style.height),
        Box(safe.x, safe.y, width, safe.height),
    )


def _logo_place(style: Style, panel: Box) -> Box:
    """Return the part of the safe area that lies on the person's side, whose corner the logo takes."""
    safe = style.safe
    left = max(safe.x, panel.x + style.units(3))
    right = min(safe.x + safe.width, panel.x + panel.width - style.units(3))
    return Box(left, safe.y, right - left, safe.height)
