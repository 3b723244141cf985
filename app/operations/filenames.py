"""What an output is called, made of the name that somebody gave its input."""

import re
import unicodedata
from pathlib import PurePosixPath

STEM_LENGTH = 120
_RESERVED = re.compile(r'[<>:"|?*]')
"""What some systems do not take in a name."""


def stem_of(filename: str) -> str:
    """Return a name without its ending, safe in a file's name anywhere; "" when nothing is left."""
    last = filename.replace("\\", "/").rsplit("/", 1)[-1]
    printable = "".join(c for c in unicodedata.normalize("NFC", last) if c.isprintable())
    stem = PurePosixPath(_RESERVED.sub("_", printable)).stem.strip(" .")
    return stem[:STEM_LENGTH].rstrip(" .")


def output_name(filename: str, suffix: str, *, otherwise: str = "clip", ending: str = "mp4") -> str:
    """Return ``<stem>-<suffix>.<ending>``, with ``otherwise`` for a name of which nothing is left."""
    return f"{stem_of(filename) or otherwise}-{suffix}.{ending}"
