"""Sets text into lines: which letters in which font, where a line ends, and how large it may be."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from app.domain.errors import UnsupportedCharacters
from app.infrastructure.drawing.bidi import first_strong
from app.infrastructure.drawing.clusters import clusters
from app.infrastructure.drawing.fonts import FACES, Face, FontAlphabet, can_shape, face_for, path_of
from app.infrastructure.drawing.itemising import Run, itemise, plain

SCALE = 4
"""Letters are drawn so many times larger and then made smaller: evenly spaced, never hinted."""
LARGEST = 1600
"""Pixels: letters above this size are drawn with less of that, to save memory."""
STEP = 0.96
CAP_HEIGHT = 0.7275
"""Of the first face, in ems: what the eye takes for the top of a line."""
DESCENT = 0.22
"""In ems: kept free below a line whether its letters reach there or not, so that lines stand evenly."""
CLEARANCE = 0.06
"""In ems, between the ink of two lines."""
MOST_BALANCED = 3
"""More lines are body text, which fills its lines."""
NARROWER = (0.97, 0.94, 0.91, 0.88)
"""Shares of the width that body text may do with, so that its last word does not stand alone."""
ELLIPSIS = "…"
LARGE, REFERENCE = 32, 64
"""Pixels: from the first on letters keep their proportions, and are measured at the second."""
SMALL, BETWEEN = 14, 6
"""Pixels: below the first they keep them too; from there on they are measured every so many."""
_HAIR = 0.01
SPACES = " \t\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2008\u2009\u200a\u205f\u3000\u200b"
_PIECE = re.compile(
    rf"[^{SPACES}]*?(?:[-\u2010\u2013\u2014/](?=[^\W\d])|(?=[{SPACES}])|\Z)[{SPACES}]*"
)
_TIED = re.compile("[\u0590-\u08ff\u0900-\u0dff\ufb1d-\ufdff\ufe70-\ufeff]")
"""Scripts whose letters hang together or are placed by each other: nothing is put between them."""
_STRAY = " \t,;:.-\u2013\u2014/"
"""What looks lost before an ellipsis."""
_NEVER_FIRST = frozenset("\u2013\u2014-·•|/&+:;,.!?»”\u2019)…\u060c\u061b\u061f\u0964")
_LINE_ENDS = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Looks:
    """How text looks at any size. ``tracking`` in ems; ``language`` (BCP 47, may be empty) chooses
    among the shapes that a font has for a letter.
    """

    weight: int
    tracking: float = 0.0
    language: str = ""


@dataclass(frozen=True, slots=True)
class Style:
    """Looks at a size, in pixels."""

    size: int
    looks: Looks


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is set. ``left``..``bottom``: its ink, in pixels from where it starts on the
    baseline; ``top`` and ``left`` are negative above and before it.
    """

    text: str
    runs: tuple[Run, ...]
    style: Style
    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left


@dataclass(frozen=True, slots=True)
class Setting:
    """A text that is set. ``is_cut``: its end is missing."""

    style: Style
    lines: tuple[Line, ...]
    is_cut: bool


class Typesetter:
    """Measures and sets one text. ``is_rtl``: the direction of one without letters.

    Raises ``UnsupportedCharacters`` for what cannot be drawn here.
    """

    def __init__(self, text: str, looks: Looks, *, is_rtl: bool) -> None:
        self.paragraphs = [plain(part).strip() for part in _LINE_ENDS.split(text.strip())]
        if lacking := FontAlphabet().lacking("\n".join(self.paragraphs)):
            told = {"characters": {"text": list(lacking)}}
            raise UnsupportedCharacters("There are characters that cannot be drawn.", extra=told)
        self._face = face_for("".join(self.paragraphs) + ELLIPSIS)
        strong = first_strong(" ".join(self.paragraphs))
        self.is_rtl = is_rtl if strong is None else strong
        self._looks = looks
        self._exact = 0
        """The size at which it is measured whether the end has to be cut."""
        self._widths: dict[tuple[str, int], float] = {}
        self._settings: dict[tuple[float, int, int, int], Setting] = {}

    def fit(self, width: float, *, lines: int, size: int, smallest: int) -> Setting:
        """Set the text into ``width`` pixels: smaller first, then words broken, then its end cut."""
        asked = (width, lines, size, smallest)
        if asked not in self._settings:
            self._settings[asked] = self._fit(*asked)
        return self._settings[asked]

    def _fit(self, width: float, lines: int, size: int, smallest: int) -> Setting:
        self._exact = smallest = min(size, smallest)
        for candidate in sizes(size, smallest):
            wrapped = self._wrap(width, candidate, breaks_words=False)
            if wrapped is not None and len(wrapped) <= lines:
                setting = self._setting(self._balance(wrapped, width, candidate), candidate)
                if all(line.width <= width for line in setting.lines):
                    return setting
        wrapped = self._wrap(width - 1, smallest, breaks_words=True) or []
        if len(wrapped) <= lines:
            return self._setting(wrapped, smallest)
        rest = " ".join(wrapped[lines - 1 : lines + 1]).strip()
        kept = [*wrapped[: lines - 1], self._cut(rest, width - 1, smallest)]
        return replace(self._setting(kept, smallest), is_cut=True)

    def width(self, text: str, size: int) -> float:
        """Return how much room text takes, in pixels: of its ink, and of spaces at its sides."""
        measured = size if size == self._exact else _measured_at(size)
        known = self._widths.get((text, measured))
        if known is None:
            style = Style(measured, self._looks)
            known = sum(_extent(run, style) for run in self._runs(text))
            self._widths[text, measured] = known
        return known * size / measured

    def _runs(self, text: str) -> tuple[Run, ...]:
        return tuple(itemise(text, is_rtl=self.is_rtl, whole=self._face))

    def _wrap(self, width: float, size: int, *, breaks_words: bool) -> list[str] | None:
        """Return lines of at most ``width``; None when that takes breaking a word and may not."""
        space = self.width(" ", size)
        lines: list[str] = []
        for paragraph in self.paragraphs if any(self.paragraphs) else ():
            line, taken = "", 0.0
            for piece in pieces(paragraph):
                word = piece.rstrip(SPACES)
                room = self.width(word, size)
                if line and taken + room > width:
                    lines.append(line.rstrip(SPACES))
                    line, taken = "", 0.0
                if room > width:
                    if not breaks_words:
                        return None
                    *whole, word = self._break(word, width, size)
                    lines += whole
                    room = self.width(word, size)
                spaces = piece[len(piece.rstrip(SPACES)) :]
                line, taken = line + word + spaces, taken + room + space * len(spaces)
            lines.append(line.rstrip(SPACES))
        return lines

    def _break(self, word: str, width: float, size: int) -> Iterator[str]:
        line = ""
        for cluster in clusters(word):
            if line and self.width(line + cluster, size) > width:
                yield line
                line = ""
            line += cluster
        yield line

    def _balance(self, lines: list[str], width: float, size: int) -> list[str]:
        """Return lines of about the same length, as many as before: no last word stands alone."""
        if len(lines) < 2 or len(self.paragraphs) > 1:  # noqa: PLR2004 - one line is one
            return lines
        if len(lines) > MOST_BALANCED:
            return self._without_widow(lines, width, size)
        narrow, wide = width / len(lines) / 2, width
        best = lines
        while wide - narrow > size / 4:
            middle = (narrow + wide) / 2
            tried = self._wrap(middle, size, breaks_words=False)
            if tried is not None and len(tried) <= len(lines):
                wide, best = middle, tried
            else:
                narrow = middle
        return best

    def _without_widow(self, lines: list[str], width: float, size: int) -> list[str]:
        """Return as many lines, a little shorter if that gives the last word company."""
        for share in NARROWER:
            if len(pieces(lines[-1])) > 1:
                break
            tried = self._wrap(width * share, size, breaks_words=False)
            if tried is not None and len(tried) == len(lines):
                lines = tried
        return lines

    def _cut(self, text: str, width: float, size: int) -> str:
        """Return as much of ``text`` as fits with an ellipsis behind it."""
        parts = clusters(text)
        fits, too_many = 0, len(parts) + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self.width(_ended(parts[:middle]), size) <= width:
                fits = middle
            else:
                too_many = middle
        return _ended(parts[:fits])

    def _setting(self, lines: list[str], size: int) -> Setting:
        style = Style(size, self._looks)
        return Setting(style, tuple(self._line(line, style) for line in lines), is_cut=False)

    def _line(self, text: str, style: Style) -> Line:
        runs = self._runs(text)
        mask, origin = draw_line(runs, style)
        ink = mask.getbbox() or (origin[0], origin[1], origin[0], origin[1])
        left, right = ink[0] - origin[0], ink[2] - origin[0]
        return Line(text, runs, style, left, ink[1] - origin[1], right, ink[3] - origin[1])


def _measured_at(size: int) -> int:
    """Return the size at which text of a size is measured: its own would take long for each."""
    if size >= LARGE:
        return REFERENCE
    return SMALL + max(0, size - SMALL) // BETWEEN * BETWEEN


def _ended(parts: list[str]) -> str:
    return "".join(parts).rstrip(_STRAY) + ELLIPSIS


def pieces(text: str) -> list[str]:
    """Cut text where a line may end; spaces stay at the ends of pieces.

    No line begins with a dash or another sign that stands alone: those stay with what is before.
    """
    result: list[str] = []
    for piece in _PIECE.findall(text):
        if result and piece.strip(SPACES) in _NEVER_FIRST:
            result[-1] += piece
        elif piece:
            result.append(piece)
    return result


def sizes(size: int, smallest: int) -> Iterator[int]:
    """Return the sizes to try, from ``size`` down to ``smallest``, each a little smaller."""
    current = float(size)
    last = size + 1
    while round(current) > smallest:
        if round(current) != last:
            last = round(current)
            yield last
        current *= STEP
    yield min(size, smallest)


def scale_for(size: int) -> int:
    """Return how many times larger letters of a size are drawn."""
    return max(1, min(SCALE, LARGEST // max(size, 1)))


def font_of(face: Face, size: int, weight: int) -> ImageFont.FreeTypeFont:
    """Return a face at a size and weight, drawn ``scale_for(size)`` times larger."""
    engine = ImageFont.Layout.RAQM if can_shape() else ImageFont.Layout.BASIC
    return _loaded(face, size, weight, engine)


@lru_cache(maxsize=256)
def _loaded(face: Face, size: int, weight: int, engine: ImageFont.Layout) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(path_of(face), size * scale_for(size), layout_engine=engine)
    wanted = {"wght": float(weight), "opsz": float(size)}
    axes = [
        min(max(wanted.get(tag, default), low), high) for tag, low, default, high in _axes(face)
    ]
    font.set_variation_by_axes(axes)
    return font


@lru_cache(maxsize=len(FACES))
def _axes(face: Face) -> tuple[tuple[str, float, float, float], ...]:
    """Return tag, least, usual and most of each axis, in the font's own order."""
    with TTFont(path_of(face), lazy=True) as font:
        return tuple((a.axisTag, a.minValue, a.defaultValue, a.maxValue) for a in font["fvar"].axes)


class _Pen:
    """Draws and measures one run, in the pixels of the larger picture."""

    def __init__(self, run: Run, style: Style) -> None:
        self.text, self._is_rtl = run.text, run.is_rtl
        self._font = font_of(run.face, style.size, style.looks.weight)
        is_tracked = bool(style.looks.tracking) and not _TIED.search(run.text)
        self._space = style.looks.tracking * style.size * scale_for(style.size) * is_tracked
        self._options: dict[str, Any] = {}
        if can_shape():
            self._options["direction"] = "rtl" if run.is_rtl else "ltr"
            self._options["language"] = style.looks.language or None
            self._options["features"] = ["-liga", "-clig"] if is_tracked else None

    def box(self) -> tuple[float, float, float, float]:
        """Return what ink and room of the run take, from where it starts on the baseline."""
        left, top, right, bottom = self._font.getbbox(self.text, anchor="ls", **self._options)
        return min(left, 0), top, right + self._tracks(), bottom

    def length(self) -> float:
        """Return how far behind its start the next run starts."""
        return self._font.getlength(self.text, **self._options) + self._tracks()

    def draw(self, on: ImageDraw.ImageDraw, x: float, y: float) -> None:
        """Draw the run from ``x`` rightwards, its baseline at ``y``."""
        if not self._space:
            self._draw(on, self.text, x, y)
            return
        parts = clusters(self.text)
        if self._is_rtl:
            parts.reverse()
        for index, part in enumerate(parts):
            shown = parts[: index + 1]
            text = "".join(reversed(shown) if self._is_rtl else shown)
            before = self._length(text) - self._length(part)
            self._draw(on, part, x + before + index * self._space, y)

    def _tracks(self) -> float:
        return self._space * (len(clusters(self.text)) - 1) if self._space else 0.0

    def _length(self, text: str) -> float:
        return self._font.getlength(text, **self._options)

    def _draw(self, on: ImageDraw.ImageDraw, text: str, x: float, y: float) -> None:
        on.text((x, y), text, fill=255, font=self._font, anchor="ls", **self._options)


@lru_cache(maxsize=4096)
def _extent(run: Run, style: Style) -> float:
    """Return the room of a run: from its start, or its ink before that, to its end or its ink's."""
    left, _, right, _ = _Pen(run, style).box()
    return (right - left) / scale_for(style.size) + _HAIR


@lru_cache(maxsize=64)
def draw_line(runs: tuple[Run, ...], style: Style) -> tuple[Image.Image, tuple[int, int]]:
    """Return a line's coverage (an ``L`` picture) and where in it the line starts on its baseline."""
    scale = scale_for(style.size)
    pens = [_Pen(run, style) for run in runs]
    boxes = [pen.box() for pen in pens]
    around = style.size
    width = round(sum((box[2] - box[0]) / scale for box in boxes)) + 2 * around + 1
    # Whole pixels above and below the baseline, which so stays sharp.
    above = 2 - int(min([0, *(box[1] for box in boxes)]) // scale)
    below = 2 + int(max([0, *(box[3] for box in boxes)]) // scale)
    large = Image.new("L", (width * scale, (above + below) * scale))
    draw = ImageDraw.Draw(large)
    x = float(around * scale)
    for pen in pens:
        pen.draw(draw, x, above * scale)
        x += pen.length()
    return large.reduce(scale) if scale > 1 else large, (around, above)
