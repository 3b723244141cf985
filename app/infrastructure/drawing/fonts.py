"""The fonts that come with the packages, and which characters they have."""

import importlib.metadata
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fontTools.ttLib import TTFont

from app.infrastructure.drawing.clusters import clusters

UNSEEN = frozenset({"Cf", "Zs", "Zl", "Zp", "Cc"})
"""Categories of what leaves no mark: spaces, joiners, direction marks, line ends."""

SELECTORS = frozenset({"\u034f", *map(chr, range(0xFE00, 0xFE10))})
"""What only chooses among shapes of the character before it."""
LEFTWARD = frozenset({"R", "AL", "AN"})
INDIC = (range(0x0900, 0x1000), range(0x1CD0, 0x1D00), range(0xA830, 0xA840), range(0xA8E0, 0xA900))
"""Where the letters are whose order and shape hang on each other."""


@dataclass(frozen=True, slots=True)
class Face:
    """A variable font. ``distribution`` is the package that it comes with, ``file`` its name there."""

    name: str
    distribution: str
    file: str


FACES = (
    Face("Inter", "fontpkg-inter", "Inter[opsz,wght].ttf"),
    Face("Noto Sans", "fontpkg-noto-sans", "NotoSans[wdth,wght].ttf"),
    Face("Noto Sans Arabic", "fontpkg-noto-sans-arabic", "NotoSansArabic[wdth,wght].ttf"),
    Face("Open Sans", "fontpkg-open-sans", "OpenSans[wdth,wght].ttf"),
)
"""In the order in which they are preferred: Open Sans is there for its Hebrew."""


@cache
def path_of(face: Face) -> Path:
    """Return where a face lies. Raises ``FileNotFoundError`` when its package has it no more."""
    found = importlib.metadata.distribution(face.distribution)
    for file in found.files or ():
        if file.name == face.file:
            return Path(str(found.locate_file(file))).resolve()
    raise FileNotFoundError(face.file)


@cache
def characters_of(face: Face) -> frozenset[int]:
    """Return the code points that a face has a glyph for; read once for each process."""
    with TTFont(path_of(face), lazy=True) as font:
        return frozenset(font.getBestCmap())


def can_shape() -> bool:
    """Whether letters that join, stack or run leftwards can be drawn here: Pillow's way of doing so
    needs a library of the system, FriBidi, which it looks for when it is first asked.
    """
    from PIL import features  # noqa: PLC0415 - late: many a process never asks

    return bool(features.check("raqm"))


def needs_shaping(character: str) -> bool:
    """Whether a character is only right beside its neighbours: joined, placed or turned around."""
    return (
        unicodedata.category(character)[0] == "M"
        or unicodedata.bidirectional(character) in LEFTWARD
        or any(ord(character) in block for block in INDIC)
    )


def seen(text: str) -> Iterable[str]:
    """Return the characters that leave a mark."""
    return (c for c in text if unicodedata.category(c) not in UNSEEN and c not in SELECTORS)


def face_for(text: str) -> Face | None:
    """Return the first face that has every character of ``text``, None when none has."""
    needed = {ord(character) for character in seen(text)}
    return next((face for face in FACES if needed <= characters_of(face)), None)


class FontAlphabet:
    """Implements ``operations.templates.text.Alphabet`` over all faces together."""

    def lacking(self, text: str) -> tuple[str, ...]:
        shapes = can_shape()
        found: dict[str, None] = {}
        for cluster in clusters(text):
            characters = [*seen(cluster)]
            lacking = [c for c in characters if not _has(c) or (needs_shaping(c) and not shapes)]
            if not lacking and face_for(cluster) is None:
                # A mark on a letter of another font: no font can place it.
                lacking = characters[1:]
            found.update(dict.fromkeys(lacking))
        return tuple(found)


def _has(character: str) -> bool:
    return any(ord(character) in characters_of(face) for face in FACES)
