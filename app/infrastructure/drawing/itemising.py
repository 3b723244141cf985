"""Which face draws which part of a line: one for all of it where there is one, else by cluster."""

import re
import unicodedata
from dataclasses import dataclass

from app.infrastructure.drawing.bidi import in_visual_order
from app.infrastructure.drawing.clusters import clusters
from app.infrastructure.drawing.fonts import Face, characters_of, face_for, seen

_LEFT_OUT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200e\u200f\u061c\u202a-\u202e\u2060-\u206f\ufeff]"
)


@dataclass(frozen=True, slots=True)
class Run:
    """A part of a line that one face draws in one direction."""

    text: str
    face: Face
    is_rtl: bool


def plain(text: str) -> str:
    """Return ``text`` without what is never seen and would only disturb: controls, soft hyphens."""
    return _LEFT_OUT.sub("", unicodedata.normalize("NFC", text))


def itemise(text: str, *, is_rtl: bool, whole: Face | None) -> list[Run]:
    """Return the runs of a line from left to right. ``whole`` draws all of it, if it is given.

    Raises ``LookupError`` for what no face has.
    """
    stretches = in_visual_order(text, is_rtl=is_rtl)
    if whole is not None:
        return [Run(text[each.start : each.end], whole, each.is_rtl) for each in stretches]
    faces = _faces(text)
    runs: list[Run] = []
    for stretch in stretches:
        parts = _by_face(text, faces, stretch.start, stretch.end, is_rtl=stretch.is_rtl)
        runs += reversed(parts) if stretch.is_rtl else parts
    return runs


def _by_face(text: str, faces: list[Face], start: int, end: int, *, is_rtl: bool) -> list[Run]:
    parts: list[Run] = []
    for index in range(start, end):
        if parts and parts[-1].face is faces[index]:
            parts[-1] = Run(parts[-1].text + text[index], faces[index], is_rtl)
        else:
            parts.append(Run(text[index], faces[index], is_rtl))
    return parts


def _faces(text: str) -> list[Face]:
    """Return the face of each character. Signs and spaces stay with the letters before them."""
    found: list[Face] = []
    current: Face | None = None
    for cluster in clusters(text):
        needed = {ord(character) for character in seen(cluster)}
        has_letter = any(character.isalpha() for character in cluster)
        if current is None or has_letter or not needed <= characters_of(current):
            current = _face_of(cluster)
        found += [current] * len(cluster)
    return found


def _face_of(cluster: str) -> Face:
    face = face_for(cluster)
    if face is None:
        msg = f"no face has {cluster!r}, which was to be found before"
        raise LookupError(msg)
    return face
