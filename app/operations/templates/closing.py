"""The template ``closing``: the last words, and where to turn to."""

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from app.operations.base import InputRule, Params
from app.operations.templates.composition import Composition, Dim, Footage
from app.operations.templates.motion import STAGGER, Cue, Entrance
from app.operations.templates.params import TemplateParams
from app.operations.templates.parts import (
    BOLD,
    REGULAR,
    bar,
    centered,
    chip,
    headline,
    logo_node,
    make_ground,
    region,
    whole,
    write,
)
from app.operations.templates.scene import Anchor, Element
from app.operations.templates.style import DIM, Step
from app.operations.templates.template import LOGO, MAYBE_CLIP, Stage, Template
from app.operations.templates.text import Line

USUAL = 5.0
NEEDED = 3.0
DARKENING = 0.9


class ClosingParams(TemplateParams):
    """The last words."""

    message: Line = Field(description="What is said last.", examples=["Thank you for watching"])
    contact: Line | None = Field(
        default=None, description="Whom to turn to.", examples=["hello@example.org"]
    )
    url: Line | None = Field(
        default=None, description="Where to read on; shown, not opened.", examples=["example.org"]
    )
    team: Line | None = Field(
        default=None, description="Team, company or course.", examples=["Field Research"]
    )


class Closing(Template[ClosingParams]):
    """The clip grows dark, or a ground lies behind; in its middle everything comes up in turn."""

    name: ClassVar[str] = "closing"
    description: ClassVar[str] = (
        "Close: a message, team, contact and address in the middle of a clip that grows dark, or on a"
        " ground of its own."
    )
    inputs: ClassVar[tuple[InputRule, ...]] = (MAYBE_CLIP, LOGO)
    params_model: ClassVar[type[Params]] = ClosingParams

    def texts(self, params: ClosingParams) -> Iterable[str]:
        return (params.message, params.team or "")

    def compose(self, params: ClosingParams, stage: Stage) -> Composition:
        style, given = stage.style, stage.given
        seconds, end = stage.length(USUAL, NEEDED)
        found = _elements(params, stage)
        place = region(
            style.safe,
            *(element for element, _ in found),
            across=Anchor.CENTER,
            down=Anchor.CENTER,
        )
        begin = 0.35
        cues = tuple(
            Cue(element.name, begin + 1.3 * STAGGER * index, end, entrance, style.units(3))
            for index, (element, entrance) in enumerate(found)
        )
        dim = Dim(DIM, 0.0, min(DARKENING, seconds / 4))
        return Composition(
            seconds,
            (place,),
            cues,
            ground=None if given.clip else make_ground(style, is_mirrored=stage.is_rtl),
            footage=Footage(whole(style), is_cut=False, dim=dim) if given.clip else None,
        )


def _elements(params: ClosingParams, stage: Stage) -> list[tuple[Element, Entrance]]:
    style, words, logo = stage.style, stage.words, stage.given.logo
    found: list[tuple[Element, Entrance]] = []
    if logo is not None:
        found.append((Element("logo", logo_node(style, logo, larger=1.5)), Entrance.FADE))
    message = headline(style, words.draw("message", params.message))
    found += [
        (Element("message", centered(message), above=style.units(5)), Entrance.RISE),
        (Element("bar", bar(style, 14), above=style.units(2.2)), Entrance.GROW),
    ]
    if params.team is not None:
        team = write(style, Step.SUBTITLE, words.draw("team", params.team), lines=2, weight=BOLD)
        found.append((Element("team", centered(team), above=style.units(4.4)), Entrance.LIFT))
    if params.contact is not None:
        contact = words.draw("contact", params.contact)
        text = write(style, Step.SUBTITLE, contact, lines=2, weight=REGULAR)
        above = style.units(1.2 if params.team is not None else 4.4)
        found.append((Element("contact", centered(text), above=above), Entrance.LIFT))
    if params.url is not None:
        address = chip(style, words.draw("url", params.url), Step.BODY)
        found.append((Element("url", address, above=style.units(3.6)), Entrance.LIFT))
    return found
