"""What all templates take: the shape of the frame, the colour, the language."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from app.operations.base import Params

Aspect = Literal["16:9", "9:16", "1:1"]

ASPECTS: tuple[Aspect, ...] = ("16:9", "9:16", "1:1")

LEFTWARD_LANGUAGES = frozenset(
    {*("ar", "arc", "ckb", "dv", "fa", "he", "iw", "ji", "ks", "lrc", "mzn")}
    | {*("pnb", "prs", "ps", "sd", "syr", "ug", "ur", "yi")}
)
LEFTWARD_SCRIPTS = frozenset({"arab", "hebr", "thaa", "syrc", "nkoo", "adlm"})
_SCRIPT = re.compile(r"[A-Za-z]{4}\Z")

LANGUAGE_PATTERN = r"^[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8}){0,4}$"

Color = Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$", strict=True), AfterValidator(str.upper)]


class TemplateParams(Params):
    """Of every template."""

    aspect: Aspect | None = Field(
        default=None,
        description="Shape of the video: 1920x1080, 1080x1920 or 1080x1080. Left out: the one nearest"
        " to the clip or picture, 16:9 without.",
        examples=["16:9"],
    )
    accent_color: Color | None = Field(
        default=None,
        description="The colour that marks things, as #RRGGBB. All others are derived from it, so that"
        " text stays easy to read.",
        examples=["#1F6FEB"],
    )
    language: Annotated[str, Field(pattern=LANGUAGE_PATTERN, strict=True)] | None = Field(
        default=None,
        description="The language of the text (BCP 47). It decides on which side things begin; left"
        " out: the first letter of the text does.",
        examples=["en", "ar"],
    )


def is_leftward(language: str) -> bool:
    """Whether a language, in the script its tag names or implies, is written from right to left."""
    parts = language.lower().split("-")
    scripts = [part for part in parts[1:] if _SCRIPT.match(part)]
    if scripts:
        return scripts[0] in LEFTWARD_SCRIPTS
    return parts[0] in LEFTWARD_LANGUAGES
