"""The template ``announcement``: something is going to happen, over a clip, a picture or a ground."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from app.operations.base import InputRule, Params
from app.operations.templates.composition import Composition, Footage, Zoom
from app.operations.templates.graph import whole_size
from app.operations.templates.motion import STAGGER, Cue, Entrance
from app.operations.templates.params import TemplateParams
from app.operations.templates.parts import (
    REGULAR,
    bar,
    chip,
    headline,
    make_ground,
    region,
    scrimmed,
    whole,
    with_logo,
    write,
)
from app.operations.templates.scene import Anchor, Element, Fit, Picture, Region, Text
from app.operations.templates.style import Box, Step, Style, growth
from app.operations.templates.template import LOGO, MAYBE_CLIP, MAYBE_IMAGE, Stage, Template
from app.operations.templates.text import Line, Paragraph, Title

USUAL, READING = 5.0, 20.0
"""Seconds without a clip: so many and one more for so many letters."""
NEEDED = 3.5
BESIDE = 72
"""Width of the text beside a picture that is still to be seen, in units; on a ground it is wider."""
BETWEEN = 8
"""At least so much is between that text and an upright clip, which stands beside it then; in units."""
ON_GROUND = 116
LETTERS_IN_LINE = {"title": 17, "body": 38}
"""Rough, of an upright frame: how high the scrim must be there."""


class AnnouncementParams(TemplateParams):
    """What is announced."""

    title: Title = Field(description="What it is about.", examples=["Open day at the harbour"])
    body: Paragraph = Field(
        description="A sentence or two. Line ends are kept.",
        examples=["Come and see how the tide mill works."],
    )
    date: Line | None = Field(
        default=None, description="When it is, as it is to be read.", examples=["14 June, 10:00"]
    )


class Announcement(Template[AnnouncementParams]):
    """Date, title and body come up one after the other beside the picture."""

    name: ClassVar[str] = "announcement"
    description: ClassVar[str] = (
        "Announce something: title, text and date over a clip, over a picture that comes slowly"
        " nearer, or on a ground of its own."
    )
    inputs: ClassVar[tuple[InputRule, ...]] = (MAYBE_CLIP, MAYBE_IMAGE, LOGO)
    params_model: ClassVar[type[Params]] = AnnouncementParams
    allowed: ClassVar[str] = "a clip or an image, not both, or neither"

    def texts(self, params: AnnouncementParams) -> Iterable[str]:
        return (params.title, params.body)

    def compose(self, params: AnnouncementParams, stage: Stage) -> Composition:
        style, given = stage.style, stage.given
        letters = len(params.title) + len(params.body)
        seconds, end = stage.length(USUAL + letters / READING, NEEDED)
        elements, names = _elements(params, stage)
        place = _place(params, stage)
        beside, soft = _beside(stage)
        is_pictured = _is_pictured(stage)
        centre = style.is_wide or not is_pictured
        regions = [
            region(
                place,
                *elements,
                gap=style.units(2.6),
                down=Anchor.CENTER if centre else Anchor.END,
            )
        ]
        cues = [
            Cue(name, 0.45 + STAGGER * 1.5 * index, end, entrance, style.units(3))
            for index, (name, entrance) in enumerate(names)
        ]
        if is_pictured:
            regions.append(scrimmed(style, place, is_rtl=stage.is_rtl, soft=soft))
            cues.insert(0, Cue("scrim", 0.0, end, Entrance.FADE))
        composition = Composition(
            seconds,
            (*_still(stage), *regions),
            tuple(cues),
            ground=None if is_pictured else make_ground(style, is_mirrored=stage.is_rtl),
            footage=Footage(whole(style), is_cut=False, left=beside) if given.clip else None,
            zoom=Zoom("still", whole(style)) if given.still else None,
        )
        return with_logo(composition, style, given.logo, end)


def _still(stage: Stage) -> tuple[Region, ...]:
    style, still = stage.style, stage.given.still
    if still is None:
        return ()
    picture = Picture(still.name, style.width, style.height, Fit.COVER)
    return (Region(0, 0, style.width, style.height, (Element("still", picture),)),)


def _elements(
    params: AnnouncementParams, stage: Stage
) -> tuple[list[Element], list[tuple[str, Entrance]]]:
    style, words = stage.style, stage.words
    found = []
    if params.date is not None:
        found.append((Element("date", chip(style, words.draw("date", params.date))), Entrance.LIFT))
    title = _headline(style, words.draw("title", params.title), is_pictured=_is_pictured(stage))
    body = write(style, Step.SUBTITLE, words.draw("body", params.body), lines=6, weight=REGULAR)
    found += [
        (Element("title", title, above=style.units(3.4)), Entrance.RISE),
        (Element("bar", bar(style, 12), above=style.units(1.8)), Entrance.GROW),
        (Element("body", body, above=style.units(3.6)), Entrance.LIFT),
    ]
    return [element for element, _ in found], [(element.name, how) for element, how in found]


def _headline(style: Style, text: str, *, is_pictured: bool) -> Text:
    """Return the title; a square has no room for a large one and a picture."""
    found = headline(style, text)
    return (
        replace(found, size=style.size(Step.DISPLAY)) if is_pictured and style.is_square else found
    )


def _is_pictured(stage: Stage) -> bool:
    return stage.given.clip is not None or stage.given.still is not None


def _place(params: AnnouncementParams, stage: Stage) -> Box:
    style, safe = stage.style, stage.style.safe
    is_pictured = _is_pictured(stage)
    if style.is_wide:
        width = style.units(BESIDE if is_pictured else ON_GROUND)
        x = safe.x + safe.width - width if stage.is_rtl else safe.x
        return Box(x, safe.y, width, safe.height)
    if not is_pictured:
        return safe
    height = min(_likely_height(style, params), safe.height)
    return Box(safe.x, safe.y + safe.height - height, safe.width, height)


def _beside(stage: Stage) -> tuple[int | None, int | None]:
    """Return where an upright clip begins that has room beside the text, and how far the scrim fades:
    a little way into that clip. None for all others.
    """
    style, clip = stage.style, stage.given.clip
    if clip is None or not style.is_wide:
        return None, None
    taken = style.safe.x + style.units(BESIDE)
    room = style.width - taken - whole_size(clip.media, whole(style))[0]
    if room < 2 * style.units(BETWEEN):
        return None, None
    gap = room // 4 * 2
    return gap + (0 if stage.is_rtl else taken), gap + style.units(BETWEEN)


def _likely_height(style: Style, params: AnnouncementParams) -> int:
    """Return how high the text will be, roughly: what it takes more, it gets by being smaller."""
    larger = 1.0 if style.is_square else growth(len(params.title))
    title = min(math.ceil(len(params.title) / LETTERS_IN_LINE["title"] * larger), 4) * larger
    breaks = params.body.count("\n")
    body = min(math.ceil(len(params.body) / LETTERS_IN_LINE["body"]) + breaks, 6)
    lines = title * style.size(Step.DISPLAY) * 1.08 + body * style.size(Step.SUBTITLE) * 1.28
    return round(lines) + style.units(19 if params.date else 12)
