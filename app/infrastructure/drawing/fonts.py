"""The fonts that come with the packages, and which characters they have."""

import importlib.metadata
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fontTools.ttLib import TTFont

UNSEEN = frozenset({"Cf", "Zs", "Zl", "Zp", "Cc"})
"""Categories of what leaves no mark: spaces, joiners, direction marks, line ends."""


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


class FontAlphabet:
    """Implements ``operations.templates.text.Alphabet`` over all faces together."""

    def lacking(self, text: str) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(
                character
                for character in text
                if unicodedata.category(character) not in UNSEEN
                and not any(ord(character) in characters_of(face) for face in FACES)
            )
        )
