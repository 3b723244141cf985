"""The template ``how-it-works``: a few steps, one after the other, on a clip or a ground."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Annotated, ClassVar

from pydantic import Field

from app.operations.base import InputRule, Params
from app.operations.templates.composition import Composition, Footage
from app.operations.templates.motion import Cue, Entrance
from app.operations.templates.params import TemplateParams
from app.operations.templates.parts import (
    BOLD,
    alone,
    bar,
    beside_logo,
    card,
    headline,
    make_ground,
    numeral,
    plate,
    region,
    whole,
    with_logo,
    write,
)
from app.operations.templates.scene import Anchor, Element, Region, Row, Shape
from app.operations.templates.style import WHITE, Box, Step, Style
from app.operations.templates.template import LOGO, MAYBE_CLIP, Stage, Template
from app.operations.templates.text import Line, Title

TITLE_SECONDS = 2.0
STEP_SECONDS = 2.2
"""At least; longer steps stay until they are read."""
SECONDS_TO_LOOK, LETTERS_A_SECOND = 1.0, 16.0
ON_CLIP_BEGIN, ON_CLIP_STEP = 1.0, 1.2
"""Over a clip: when the first step comes, and how long each needs at least."""
HEADING_ROOM, TRACK = 13, 0.5
FEWEST, MOST = 2, 8

Steps = Annotated[tuple[Line, ...], Field(min_length=FEWEST, max_length=MOST)]


class HowItWorksParams(TemplateParams):
    """What works, and how."""

    title: Title = Field(description="What is explained.", examples=["How it works"])
    steps: Steps = Field(
        description="Two to eight steps, in order.",
        examples=[["Upload your video", "Choose a template", "Download the result"]],
    )


class HowItWorks(Template[HowItWorksParams]):
    """The title, then each step with its number, while a bar below fills part by part."""

    name: ClassVar[str] = "how-it-works"
    description: ClassVar[str] = (
        "Explain something in two to eight steps, one after the other, over a clip or on a ground of"
        " its own."
    )
    inputs: ClassVar[tuple[InputRule, ...]] = (MAYBE_CLIP, LOGO)
    params_model: ClassVar[type[Params]] = HowItWorksParams

    def texts(self, params: HowItWorksParams) -> Iterable[str]:
        return (params.title, *params.steps)

    def compose(self, params: HowItWorksParams, stage: Stage) -> Composition:
        title = stage.words.draw("title", params.title)
        steps = stage.words.draw_all("steps", params.steps)
        if stage.given.clip is not None:
            return _on_clip(stage, title, steps)
        return _on_ground(stage, title, steps)


def _on_clip(stage: Stage, title: str, steps: Sequence[str]) -> Composition:
    style = stage.style
    seconds, end = stage.length(0, ON_CLIP_BEGIN + ON_CLIP_STEP * len(steps))
    each = (end - ON_CLIP_BEGIN) / len(steps)
    moments = [ON_CLIP_BEGIN + each * index for index in range(len(steps) + 1)]
    safe = style.safe
    place = Box(safe.x, safe.y, safe.width, safe.height - style.units(3))
    width = safe.width if not style.is_wide else round(safe.width * 0.72)
    x = safe.x + safe.width - width if stage.is_rtl else safe.x
    regions, cues = _progress(stage, moments, end)
    for index, text in enumerate(steps):
        words = write(style, Step.SUBTITLE, text, lines=3, weight=BOLD)
        node = plate(
            style,
            Row((numeral(style, index + 1, 6.4), words), gap=style.units(2)),
            padding=(1.6, 1.4),
        )
        room = Box(x, place.y + place.height // 2, width, place.height - place.height // 2)
        regions.append(region(room, Element(f"step_{index + 1}", node), down=Anchor.END))
        cues.append(_step_cue(style, index, moments, Entrance.SLIDE))
    heading = card(
        style, write(style, Step.SUBTITLE, title, lines=2, weight=BOLD), padding=(2.4, 1.6)
    )
    regions.append(region(_top(stage), Element("title", heading)))
    cues.append(Cue("title", 0.25, end, Entrance.SLIDE, style.units(4)))
    footage = Footage(whole(style), is_cut=False)
    found = Composition(seconds, tuple(regions), tuple(cues), footage=footage)
    return with_logo(found, style, stage.given.logo, end)


def _on_ground(stage: Stage, title: str, steps: Sequence[str]) -> Composition:
    style = stage.style
    lengths = [max(STEP_SECONDS, SECONDS_TO_LOOK + len(s) / LETTERS_A_SECOND) for s in steps]
    moments = list(accumulate(lengths, initial=TITLE_SECONDS))
    seconds = end = moments[-1]
    safe = style.safe
    opening = region(
        safe,
        Element("title", headline(style, title)),
        Element("bar", bar(style, 14)),
        gap=style.units(2.2),
        down=Anchor.CENTER,
    )
    regions, cues = _progress(stage, moments, end)
    regions.append(opening)
    cues += [
        Cue("title", 0.15, TITLE_SECONDS, Entrance.RISE, style.units(3), leave_seconds=0.35),
        Cue("bar", 0.4, TITLE_SECONDS, Entrance.GROW, leave_seconds=0.3),
    ]
    heading = write(style, Step.SUBTITLE, title, lines=2, weight=BOLD, color=style.palette.bright)
    regions.append(region(_top(stage), Element("heading", heading)))
    cues.append(Cue("heading", TITLE_SECONDS, end, Entrance.FADE))
    room = _between(style)
    most, lines = max(map(len, steps)), 4 if style.is_wide else 6
    for index, text in enumerate(steps):
        words = alone(write(style, Step.TITLE, text, lines=lines, weight=BOLD), most)
        number = Element(f"number_{index + 1}", numeral(style, index + 1, 13))
        step = Element(f"step_{index + 1}", words)
        regions.append(region(room, number, step, gap=style.units(4), down=Anchor.CENTER))
        cues += [
            _step_cue(style, index, moments, Entrance.LIFT, name="number"),
            _step_cue(style, index, moments, Entrance.RISE, late=0.12),
        ]
    found = Composition(
        seconds, tuple(regions), tuple(cues), ground=make_ground(style, is_mirrored=stage.is_rtl)
    )
    return with_logo(found, style, stage.given.logo, end)


def _top(stage: Stage) -> Box:
    """Return the room for the title while the steps are seen."""
    style, safe = stage.style, stage.style.safe
    box = Box(safe.x, safe.y, safe.width, style.units(HEADING_ROOM))
    return beside_logo(style, stage.given.logo, box, is_rtl=stage.is_rtl)


def _between(style: Style) -> Box:
    """Return the room between heading and progress, in which a step stands."""
    safe, top, below = style.safe, style.units(HEADING_ROOM), style.units(5)
    return Box(safe.x, safe.y + top, safe.width, safe.height - top - below)


def _step_cue(
    style: Style,
    index: int,
    moments: Sequence[float],
    entrance: Entrance,
    *,
    name: str = "step",
    late: float = 0.0,
) -> Cue:
    start, end = moments[index], moments[index + 1]
    return Cue(
        f"{name}_{index + 1}",
        start + late,
        end,
        entrance,
        style.units(3),
        enter_seconds=min(0.7, (end - start) / 3),
        leave_seconds=min(0.3, (end - start) / 5),
    )


def _progress(stage: Stage, moments: Sequence[float], end: float) -> tuple[list[Region], list[Cue]]:
    """Return a bar at the lower edge of the safe area, of one part for each step."""
    style, safe, count = stage.style, stage.style.safe, len(moments) - 1
    gap, height = style.units(0.8), style.units(TRACK)
    length = (safe.width - gap * (count - 1)) // count
    y = safe.y + safe.height - height
    is_on_clip = stage.given.clip is not None
    color, opacity = (style.palette.deep, 0.7) if is_on_clip else (WHITE, 0.2)
    empty = Shape(length, height, color, opacity=opacity, radius=height // 2)
    track = Row((empty,) * count, gap=gap)
    regions = [Region(safe.x, y, safe.width, height, (Element("track", track),))]
    cues = [Cue("track", moments[0] - 0.3, end, Entrance.FADE)]
    for index in range(count):
        place = count - 1 - index if stage.is_rtl else index
        x = safe.x + place * (length + gap)
        if stage.is_rtl:
            x += safe.width - (count * length + gap * (count - 1))
        part = Shape(length, height, style.palette.bright, radius=height // 2)
        regions.append(Region(x, y, length, height, (Element(f"part_{index + 1}", part),)))
        cues.append(Cue(f"part_{index + 1}", moments[index], end, Entrance.GROW, enter_seconds=0.9))
    return regions, cues
