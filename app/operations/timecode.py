"""Times in a clip as people write them: seconds, or hours, minutes and seconds."""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Annotated

from pydantic import Field, Strict

PATTERN = r"^(?:(?:\d{1,3}:)?[0-5]?\d:[0-5]?\d|\d{1,7})(?:\.\d{1,9})?$"
"""HH:MM:SS.mmm, MM:SS.mmm or seconds; hours, minutes and decimals may be left out."""

Timecode = (
    Annotated[float, Strict(), Field(allow_inf_nan=False)]
    | Annotated[str, Field(pattern=PATTERN, examples=["00:01:05.500"])]
)
"""A moment in a clip, counted from its first frame."""

_PATTERN = re.compile(PATTERN)
_SIXTY = 60


def to_seconds(value: float | str) -> Fraction:
    """Return the exact number of seconds; 0.1 is a tenth, not its nearest binary fraction.

    Raises ``ValueError`` for text in another form.
    """
    if not isinstance(value, str):
        return Fraction(Decimal(str(value)))
    if not _PATTERN.fullmatch(value):
        msg = f"not a time: {value!r}"
        raise ValueError(msg)
    total = Fraction(0)
    for part in value.split(":"):
        total = total * _SIXTY + Fraction(part)
    return total


def say(value: Fraction) -> str:
    """Return a time in seconds for a sentence, to the millisecond."""
    return f"{float(value):.3f} s"
