"""The template ``demo``: a recording with a title and captions at their times."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.domain.errors import InvalidParams
from app.operations.base import InputRule, Params
from app.operations.templates.composition import Composition, Footage
from app.operations.templates.motion import Cue, Entrance
from app.operations.templates.params import TemplateParams
from app.operations.templates.parts import (
    BOLD,
    MEDIUM,
    beside_logo,
    card,
    centered,
    plate,
    region,
    whole,
    with_logo,
    write,
)
from app.operations.templates.scene import Anchor, Element
from app.operations.templates.style import Box, Step, Style
from app.operations.templates.template import CLIP, LOGO, Stage, Template
from app.operations.templates.text import Line, Title
from app.operations.timecode import Timecode, say, to_seconds

TITLE_BEGIN, TITLE_SECONDS = 0.3, 5.0
NEEDED = 2.0
MOST_CAPTIONS = 24
SLACK = 0.05
"""Seconds: a clip's length is told rounded; a caption may end so much behind it."""
CAPTION_HEIGHT, TITLE_HEIGHT = 22, 18
CAPTION_SHARE = 0.8
SHORTEST = 0.2


class Caption(BaseModel):
    """One caption and when it is seen, counted from the clip's first frame."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Line = Field(description="What is said.", examples=["Drop a file here"])
    start: Timecode = Field(description="When it comes: seconds, or HH:MM:SS.mmm.", examples=[1.5])
    end: Timecode = Field(description="When it has gone.", examples=[4])

    @property
    def seconds(self) -> tuple[float, float]:
        return float(to_seconds(self.start)), float(to_seconds(self.end))

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        start, end = self.seconds
        if start < 0 or end - start < SHORTEST:
            msg = f"end must be at least {SHORTEST} s after start, and start not negative"
            raise ValueError(msg)
        return self


Captions = Annotated[tuple[Caption, ...], Field(max_length=MOST_CAPTIONS)]


class DemoParams(TemplateParams):
    """What is shown, and what is said about it."""

    title: Title = Field(description="What is shown.", examples=["Resumable uploads"])
    captions: Captions = Field(
        default=(),
        description="Up to 24 captions, none at the same time as another.",
        examples=[[{"text": "Drop a file here", "start": 1, "end": 3.5}]],
    )

    @model_validator(mode="after")
    def _are_apart(self) -> Self:
        spans = sorted(caption.seconds for caption in self.captions)
        for (_, end), (start, _) in pairwise(spans):
            if start < end:
                msg = f"two captions are there at the same time, at {start:g} s"
                raise ValueError(msg)
        return self


class Demo(Template[DemoParams]):
    """The title in the upper corner for its first seconds, captions below, each at its time."""

    name: ClassVar[str] = "demo"
    description: ClassVar[str] = (
        "Show something: a title over the first seconds of a clip, and captions at their times."
    )
    inputs: ClassVar[tuple[InputRule, ...]] = (CLIP, LOGO)
    params_model: ClassVar[type[Params]] = DemoParams

    def texts(self, params: DemoParams) -> Iterable[str]:
        return (params.title, *(caption.text for caption in params.captions))

    def compose(self, params: DemoParams, stage: Stage) -> Composition:
        style, words = stage.style, stage.words
        seconds = stage.seconds or NEEDED
        _check(params.captions, seconds)
        # Captions have times of their own, which are never squeezed; the title makes do.
        shown = min(TITLE_BEGIN + TITLE_SECONDS, seconds)
        share = min(shown / NEEDED, 1.0)
        title = write(style, Step.SUBTITLE, words.draw("title", params.title), lines=2, weight=BOLD)
        regions = [region(_top(stage), Element("title", card(style, title, padding=(2.8, 1.9))))]
        cues = [
            Cue(
                "title",
                TITLE_BEGIN * share,
                shown,
                Entrance.SLIDE,
                style.units(5),
                enter_seconds=0.8 * share,
                leave_seconds=0.45 * share,
            )
        ]
        texts = words.draw_all("captions", (caption.text for caption in params.captions))
        for index, (caption, text) in enumerate(zip(params.captions, texts, strict=True), start=1):
            said = centered(write(style, Step.SUBTITLE, text, lines=3, weight=MEDIUM))
            element = Element(f"caption_{index}", plate(style, said, padding=(2.2, 1.5)))
            regions.append(region(_bottom(style), element, across=Anchor.CENTER, down=Anchor.END))
            cues.append(_cue(style, element.name, caption, seconds))
        footage = Footage(whole(style), is_cut=False)
        composition = Composition(seconds, tuple(regions), tuple(cues), footage=footage)
        return with_logo(composition, style, stage.given.logo, seconds)


def _check(captions: Sequence[Caption], seconds: float) -> None:
    """Raise InvalidParams for captions beyond the clip's end."""
    errors = [
        {
            "loc": f"captions.{index}.end",
            "message": f"is {say(to_seconds(caption.end))}, beyond the clip's end",
            "allowed": f"at most {seconds:.3f}",
        }
        for index, caption in enumerate(captions)
        if caption.seconds[1] > seconds + SLACK
    ]
    if errors:
        where = ", ".join(error["loc"] for error in errors)
        msg = f"{where}: beyond the clip's end. The clip is {seconds:.3f} s long."
        raise InvalidParams(msg, extra={"errors": errors, "duration_seconds": seconds})


def _cue(style: Style, name: str, caption: Caption, seconds: float) -> Cue:
    start, end = caption.seconds
    end = min(end, seconds)
    share = min((end - start) / 1.2, 1.0)
    return Cue(
        name,
        start,
        end,
        Entrance.LIFT,
        style.units(1.6),
        enter_seconds=0.4 * share,
        leave_seconds=0.22 * share,
    )


def _top(stage: Stage) -> Box:
    style, safe = stage.style, stage.style.safe
    width = round(safe.width * 0.7) if style.is_wide else safe.width
    x = safe.x + safe.width - width if stage.is_rtl else safe.x
    box = Box(x, safe.y, width, style.units(TITLE_HEIGHT))
    return beside_logo(style, stage.given.logo, box, is_rtl=stage.is_rtl)


def _bottom(style: Style) -> Box:
    safe, height = style.safe, style.units(CAPTION_HEIGHT)
    width = style.units(safe.width * CAPTION_SHARE / style.unit) if style.is_wide else safe.width
    x = safe.x + (safe.width - width) // 2
    return Box(x, safe.y + safe.height - height, width, height)
