"""What the six templates have in common: their inputs, the shape of the frame, the two steps."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, Generic, TypeVar

from app.domain.errors import InvalidInputs
from app.domain.jobs import InputRole
from app.operations import house_profile
from app.operations.base import (
    ClipInput,
    Expected,
    FFmpegStep,
    InputRule,
    Params,
    Plan,
    PlannedOutput,
    PythonStep,
    StillInput,
)
from app.operations.filenames import stem_of
from app.operations.templates.composition import Composition
from app.operations.templates.graph import Timing, render_arguments
from app.operations.templates.motion import squeeze
from app.operations.templates.params import ASPECTS, Aspect, TemplateParams, is_leftward
from app.operations.templates.scene import PROGRAM, Scene, picture_file
from app.operations.templates.style import Style, make_style
from app.operations.templates.text import Alphabet, Wording, reads_leftwards

P = TypeVar("P", bound=TemplateParams)

DRAWING_SHARE = 0.15
"""Of a render's time, which drawing its elements takes."""
OUTPUT_FILE = "render.mp4"

CLIP = InputRule(InputRole.CLIP, 1, 1)
MAYBE_CLIP = InputRule(InputRole.CLIP, 0, 1)
MAYBE_IMAGE = InputRule(InputRole.IMAGE, 0, 1)
LOGO = InputRule(InputRole.LOGO, 0, 1)


@dataclass(frozen=True, slots=True)
class Given:
    """The inputs of a render by what they are for."""

    clip: ClipInput | None
    still: StillInput | None
    logo: StillInput | None

    @property
    def pictures(self) -> tuple[StillInput, ...]:
        return tuple(each for each in (self.still, self.logo) if each is not None)


@dataclass(frozen=True, slots=True)
class Stage:
    """What a template composes for. ``seconds`` of the clip, None without one."""

    style: Style
    given: Given
    words: Wording
    is_rtl: bool
    seconds: float | None

    def length(self, usual: float, needed: float) -> tuple[float, float]:
        """Return how long the render is, and when what is on it ends.

        ``usual`` without a clip. ``needed``: a shorter clip has its cues squeezed.
        """
        seconds = usual if self.seconds is None else self.seconds
        return seconds, max(seconds, needed)


class Template(ABC, Generic[P]):
    """One template. ``alphabet`` knows which characters can be drawn."""

    name: ClassVar[str]
    description: ClassVar[str]
    inputs: ClassVar[tuple[InputRule, ...]]
    params_model: ClassVar[type[Params]]
    work_factor: ClassVar[float] = 2.0
    releases_inputs: ClassVar[bool] = False
    allowed: ClassVar[str] = ""
    """Said of inputs that each fit, but not together."""

    def __init__(self, alphabet: Alphabet) -> None:
        self._alphabet = alphabet

    @abstractmethod
    def texts(self, params: P) -> Iterable[str]:
        """Return the texts whose first letter says where lines begin, when no language is given."""

    @abstractmethod
    def compose(self, params: P, stage: Stage) -> Composition:
        """Return the render. Raises an ``AppError`` where parameters and clip do not fit."""

    def check_text(self, params: P) -> None:
        """Raise UnsupportedCharacters for text that cannot be drawn, whatever the inputs are."""
        words = Wording(self._alphabet)
        for name, value in params.model_dump(exclude=set(TemplateParams.model_fields)).items():
            if isinstance(value, str):
                words.draw(name, value)
            elif value is not None:
                words.draw_all(
                    name, (each if isinstance(each, str) else each["text"] for each in value)
                )
        words.check()

    def takes(self, given: Given) -> bool:
        """Whether inputs that each fit the rules fit together."""
        return given.clip is None or given.still is None

    def plan(self, params: P, sources: Sequence[ClipInput | StillInput]) -> Plan:
        """Return the two steps: draw the elements, render. Raises InvalidInputs,
        UnsupportedCharacters, InvalidParams.
        """
        given = _given(sources)
        if not self.takes(given):
            msg = f"{self.name} takes {self.allowed}."
            raise InvalidInputs(msg, extra={"allowed": self.allowed})
        style = make_style(params.aspect or _nearest(given), params.accent_color)
        words = Wording(self._alphabet)
        seconds = given.clip.media.duration_seconds if given.clip else None
        is_rtl = _is_rtl(params.language, self.texts(params))
        composition = self.compose(params, Stage(style, given, words, is_rtl, seconds))
        words.check()
        composition = _fitted(composition)
        timing = _timing(composition.seconds, given.clip)
        scene = composition.scene(style, is_rtl=is_rtl, language=params.language or "")
        return Plan(
            steps=(
                _drawing(scene, given),
                _rendering(composition, style, timing, given.clip, is_rtl=is_rtl),
            ),
            outputs=(PlannedOutput(OUTPUT_FILE, self._filename(given), "video/mp4"),),
            result=self._told(composition, style, timing),
            warnings=(*words.warnings, *_warnings(composition)),
            effort=timing.frames * style.width * style.height / 1e6,
        )

    def _filename(self, given: Given) -> str:
        stem = stem_of(given.clip.filename) if given.clip else ""
        return f"{stem}-{self.name}.mp4" if stem else f"{self.name}.mp4"

    def _told(self, composition: Composition, style: Style, timing: Timing) -> dict[str, Any]:
        seconds = float(timing.seconds)
        return {
            "aspect": style.aspect,
            "width": style.width,
            "height": style.height,
            "frame_rate": timing.rate,
            "duration_seconds": round(seconds, 6),
            "elements": [
                {
                    "name": cue.name,
                    "start_seconds": _rounded_down(min(cue.start, seconds)),
                    "end_seconds": _rounded_down(seconds if cue.stays else min(cue.end, seconds)),
                }
                for cue in composition.cues
            ],
        }


def _rounded_down(seconds: float) -> float:
    """Return a time to the millisecond, never after the end of what it lies in."""
    return math.floor(seconds * 1000 + 1e-6) / 1000


def _given(sources: Sequence[ClipInput | StillInput]) -> Given:
    clips = [each for each in sources if isinstance(each, ClipInput)]
    pictures = {each.role: each for each in sources if isinstance(each, StillInput)}
    return Given(
        clips[0] if clips else None, pictures.get(InputRole.IMAGE), pictures.get(InputRole.LOGO)
    )


def _nearest(given: Given) -> Aspect:
    """Return the shape nearest to the clip's or the picture's, 16:9 without either."""
    if given.clip is not None:
        width, height = house_profile.upright_size(given.clip.media.video)
    elif given.still is not None:
        width, height = given.still.still.width, given.still.still.height
    else:
        return ASPECTS[0]
    shape = math.log(width / height)

    def away(aspect: Aspect) -> float:
        wide, high = house_profile.SIZES[aspect]
        return abs(math.log(wide / high) - shape)

    return min(ASPECTS, key=away)


def _is_rtl(language: str | None, texts: Iterable[str]) -> bool:
    return reads_leftwards(texts) if language is None else is_leftward(language)


def _fitted(composition: Composition) -> Composition:
    """Return the composition with cues that were made for longer squeezed into its length."""
    longest = max((cue.end for cue in composition.cues), default=0.0)
    if longest <= composition.seconds:
        return composition
    factor = composition.seconds / longest
    cues = squeeze(composition.cues, factor)
    return replace(composition, cues=cues, shortened=True)


def _timing(seconds: float, clip: ClipInput | None) -> Timing:
    rate = house_profile.rate_for(clip.media.video if clip else None)
    return Timing(max(round(Fraction(str(seconds)) * rate), 1), rate)


def _drawing(scene: Scene, given: Given) -> PythonStep:
    return PythonStep(
        name="drawing",
        weight=DRAWING_SHARE,
        program=PROGRAM,
        arguments=scene.as_json(),
        inputs=tuple(each.name for each in given.pictures),
        outputs=tuple(picture_file(name) for name in scene.element_names),
    )


def _rendering(
    composition: Composition,
    style: Style,
    timing: Timing,
    clip: ClipInput | None,
    *,
    is_rtl: bool,
) -> FFmpegStep:
    media = clip.media if clip else None
    frame = 1 / timing.rate
    pixels = style.width * style.height
    return FFmpegStep(
        name="rendering",
        weight=1 - DRAWING_SHARE,
        arguments=render_arguments(composition, style, timing, clip, is_rtl=is_rtl),
        output=OUTPUT_FILE,
        expected=Expected(
            duration_seconds=float(timing.seconds),
            duration_tolerance=frame,
            has_audio=True,
            overrun_tolerance=frame,
        ),
        source_has_damage_check=media is not None,
        pixels=max(pixels, media.video.width * media.video.height if media else 0),
    )


def _warnings(composition: Composition) -> list[str]:
    if not composition.shortened:
        return []
    return [
        f"The clip is only {composition.seconds:.3f} s long: everything on it comes and goes faster."
    ]
