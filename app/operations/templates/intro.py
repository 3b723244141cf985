"""The template ``intro``: who speaks, as a card in the lower third of a clip."""

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from app.operations.base import InputRule, Params
from app.operations.templates.composition import Composition, Footage
from app.operations.templates.motion import STAGGER, Cue, Entrance
from app.operations.templates.params import TemplateParams
from app.operations.templates.parts import (
    HEAVY,
    MEDIUM,
    alone,
    card,
    chip,
    region,
    whole,
    with_logo,
    write,
)
from app.operations.templates.scene import Anchor, Element
from app.operations.templates.style import Box, Step, Style
from app.operations.templates.template import CLIP, LOGO, Stage, Template
from app.operations.templates.text import Line

BEGIN = 0.5
LONGEST = 8.0
"""Seconds: a name is read by then, and the clip is what people came for."""
NEEDED = 3.0
HEIGHT = 34
WIDE_SHARE = 0.62


class IntroParams(TemplateParams):
    """Who is introduced."""

    team: Line = Field(description="Team, company or course.", examples=["Field Research"])
    full_name: Line = Field(description="The name.", examples=["Amara Okafor"])
    role: Line = Field(description="What the person does.", examples=["Hydrologist"])


class Intro(Template[IntroParams]):
    """A card with name and role slides in, a tab with the team rises from it; both leave again."""

    name: ClassVar[str] = "intro"
    description: ClassVar[str] = (
        "Introduce a person: name, role and team in the lower third of a clip, for up to 8 seconds."
    )
    inputs: ClassVar[tuple[InputRule, ...]] = (CLIP, LOGO)
    params_model: ClassVar[type[Params]] = IntroParams

    def texts(self, params: IntroParams) -> Iterable[str]:
        return (params.full_name, params.role, params.team)

    def compose(self, params: IntroParams, stage: Stage) -> Composition:
        style, words = stage.style, stage.words
        seconds, end = stage.length(NEEDED, NEEDED)
        name = write(
            style, Step.HEADING, words.draw("full_name", params.full_name), lines=2, weight=HEAVY
        )
        role = write(
            style,
            Step.BODY,
            words.draw("role", params.role),
            lines=2,
            weight=MEDIUM,
            color=style.palette.muted,
        )
        if not style.is_wide:
            name = alone(name)  # on a phone there is nothing else to look at down there
        place = region(
            _place(style, is_rtl=stage.is_rtl),
            Element("team", chip(style, words.draw("team", params.team))),
            Element("card", card(style, name, role, gap=1.5)),
            gap=style.units(0.6),
            down=Anchor.END,
        )
        until = min(end, LONGEST)
        cues = (
            Cue("card", BEGIN, until, Entrance.SLIDE, style.units(6)),
            Cue("team", BEGIN + 3 * STAGGER, until - STAGGER, Entrance.RISE),
        )
        footage = Footage(whole(style), is_cut=False)
        composition = Composition(seconds, (place,), cues, footage=footage)
        return with_logo(composition, style, stage.given.logo, end)


def _place(style: Style, *, is_rtl: bool) -> Box:
    safe, height = style.safe, style.units(HEIGHT)
    width = round(safe.width * WIDE_SHARE) if style.is_wide else safe.width
    x = safe.x + safe.width - width if is_rtl else safe.x
    return Box(x, safe.y + safe.height - height, width, height)
