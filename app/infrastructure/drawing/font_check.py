"""Examines the fonts for ``tidemill doctor``: whether they are there, and can be set in any script."""

from importlib.metadata import PackageNotFoundError

from app.infrastructure.drawing.fonts import FACES, Face, can_shape, path_of
from app.services.diagnosis import Finding, failure, ok, warning

FONTS = "fonts"


def examine_fonts() -> list[Finding]:
    """Look whether every font is there, and whether its letters can be joined and turned around."""
    absent = [face for face in FACES if not _is_there(face)]
    if absent:
        names = ", ".join(f"{face.name} (of {face.distribution})" for face in absent)
        todo = "install Tidemill again: its fonts are packages that it depends on"
        return [failure(FONTS, f"not here: {names}; no render with text will succeed", todo)]
    names = ", ".join(face.name for face in FACES)
    if not can_shape():
        what = (
            f"{names}, but no FriBidi: text in Arabic, Hebrew or Devanagari, or with combining "
            "marks, is refused (unsupported_characters)"
        )
        return [warning(FONTS, what, "install FriBidi (apt-get install libfribidi0)")]
    return [ok(FONTS, f"{names}; letters that join or run leftwards are shaped")]


def _is_there(face: Face) -> bool:
    try:
        return path_of(face).is_file()
    except (FileNotFoundError, PackageNotFoundError):
        return False
