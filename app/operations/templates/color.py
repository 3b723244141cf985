"""Colours by how they look: OKLCH in and out of ``#RRGGBB``, and the contrast of two (WCAG 2)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

READABLE = 4.5
"""The contrast that text must have against what lies behind it."""
STEPS = 24
ROUNDING = 1e-4
KNEE_CODED, KNEE_LINEAR = 0.04045, 0.0031308
"""Below them sRGB is a straight line."""


@dataclass(frozen=True, slots=True)
class Look:
    """A colour as it looks: lightness 0..1, chroma 0..0.4, hue in radians (OKLCH)."""

    lightness: float
    chroma: float
    hue: float


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, 1..21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    """Return how much light a colour gives, 0..1."""
    red, green, blue = map(_to_linear, _channels(color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def mix(color: str, other: str, share: float) -> str:
    """Return ``color`` with ``share`` (0..1) of ``other`` laid over it, as a player blends."""
    pairs = zip(_channels(color), _channels(other), strict=True)
    return _hex(one + (two - one) * share for one, two in pairs)


def look_of(color: str) -> Look:
    """Return how a colour looks."""
    red, green, blue = map(_to_linear, _channels(color))
    long = math.cbrt(0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue)
    middle = math.cbrt(0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue)
    short = math.cbrt(0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue)
    a = 1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short
    b = 0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short
    lightness = 0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short
    return Look(lightness, math.hypot(a, b), math.atan2(b, a))


def color_of(look: Look) -> str:
    """Return the colour that looks so, with as much of its chroma as a screen can show."""
    most, least = look.chroma, 0.0
    channels = _to_rgb(look, most)
    if not _is_shown(channels):
        for _ in range(STEPS):
            middle = (most + least) / 2
            most, least = (most, middle) if _is_shown(_to_rgb(look, middle)) else (middle, least)
        channels = _to_rgb(look, least)
    return _hex(_to_coded(min(max(each, 0.0), 1.0)) for each in channels)


def readable(color: str, behind: str, *, at_least: float = READABLE) -> str:
    """Return ``color``, made only as much lighter or darker as it must be to be read on ``behind``."""
    if contrast(color, behind) >= at_least:
        return color
    look = look_of(color)
    away = 1.0 if contrast("#FFFFFF", behind) >= contrast("#000000", behind) else 0.0
    near, far = 0.0, 1.0
    for _ in range(STEPS):
        middle = (near + far) / 2
        far, near = (
            (middle, near) if _reads(look, away, middle, behind, at_least) else (far, middle)
        )
    return _towards(look, away, far)


def _reads(look: Look, away: float, share: float, behind: str, at_least: float) -> bool:
    return contrast(_towards(look, away, share), behind) >= at_least


def _towards(look: Look, away: float, share: float) -> str:
    lightness = look.lightness + (away - look.lightness) * share
    return color_of(Look(lightness, look.chroma, look.hue))


def _to_rgb(look: Look, chroma: float) -> tuple[float, float, float]:
    a, b = chroma * math.cos(look.hue), chroma * math.sin(look.hue)
    long = (look.lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (look.lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (look.lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )


def _is_shown(channels: tuple[float, float, float]) -> bool:
    return all(-ROUNDING <= each <= 1 + ROUNDING for each in channels)


def _channels(color: str) -> tuple[float, float, float]:
    red, green, blue = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def _hex(channels: Iterable[float]) -> str:
    return "#" + "".join(f"{round(each * 255):02X}" for each in channels)


def _to_linear(coded: float) -> float:
    return coded / 12.92 if coded <= KNEE_CODED else ((coded + 0.055) / 1.055) ** 2.4


def _to_coded(linear: float) -> float:
    return linear * 12.92 if linear <= KNEE_LINEAR else 1.055 * linear ** (1 / 2.4) - 0.055
