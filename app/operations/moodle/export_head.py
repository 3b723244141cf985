"""A first look at what claims to be a log export: its encoding, delimiter and header, or its fault."""

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from app.domain.errors import (
    EmptyFile,
    LogDelimiterUnknown,
    LogHeaderMissing,
    LogHeaderUnknown,
    LogNotText,
    LogWithoutEvents,
)
from app.operations.moodle.columns import CODES, MOST_COLUMNS, Column, Header, match_header
from app.operations.moodle.moments import has_offsets, read_moment

HEAD_BYTES = 64 * 1024
"""So much of a file is looked at before there is a job."""
DELIMITERS = ",;\t"
WRONG_DELIMITERS = "|:^~"
"""What some tools write; looked for only to say so."""
SAMPLE_ROWS = 50

UTF8 = "utf-8"
MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order mark -> encoding. UTF-32 begins with the mark of UTF-16 and zeros: it is binary here."""
CODE_PAGES = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254")
"""Of the languages' versions of Windows; the header tells which."""
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x1a\x1b")
_MOST_CONTROLS = 0.02


@dataclass(frozen=True, slots=True)
class ExportHead:
    """How to read an export. ``mark_bytes`` are to be skipped.

    ``code_page`` is what bytes are read as that are no UTF-8, where the header did not tell which
    of the two it is. ``names_offsets``: its times say how far they are from UTC.
    """

    encoding: str
    code_page: str
    mark_bytes: int
    delimiter: str
    header: Header
    names_offsets: bool

    def as_json(self) -> dict[str, Any]:
        """Return it for another process; ``head_from_json`` is the way back."""
        header = {
            "language": self.header.language,
            "places": {column.name: place for column, place in self.header.places.items()},
            "width": self.header.width,
            "unknown": list(self.header.unknown),
        }
        return {
            "encoding": self.encoding,
            "code_page": self.code_page,
            "mark_bytes": self.mark_bytes,
            "delimiter": self.delimiter,
            "header": header,
            "names_offsets": self.names_offsets,
        }


def head_from_json(data: dict[str, Any]) -> ExportHead:
    """Return the look that ``as_json`` told."""
    told = data["header"]
    header = Header(
        language=told["language"],
        places={Column[name]: place for name, place in told["places"].items()},
        width=told["width"],
        unknown=tuple(told["unknown"]),
    )
    return ExportHead(**{**data, "header": header})


def look_at_export(head: bytes, size_bytes: int) -> ExportHead:
    """Return how to read the export that ``head`` begins; ``size_bytes`` is the whole file's length.

    Raises EmptyFile, LogNotText, LogHeaderMissing, LogHeaderUnknown, LogDelimiterUnknown,
    LogWithoutEvents.
    """
    if size_bytes == 0 or not head.strip(b"\xef\xbb\xbf\xff\xfe \t\r\n"):
        raise EmptyFile("The file has no bytes." if size_bytes == 0 else "The file has no text.")
    is_whole = len(head) >= size_bytes
    mark_bytes, encodings = _encodings(head)
    found: tuple[str, str, Header, str] | None = None
    first_line = ""
    for encoding in encodings:
        text = _decode(head, mark_bytes, encoding)
        first_line = first_line or _first_line(text)
        for delimiter in DELIMITERS:
            header = match_header(_cells(text, delimiter))
            if header is not None and (found is None or _known(header) > _known(found[2])):
                found = encoding, delimiter, header, text
    if found is None or found[2].missing:
        raise _refusal(first_line, found[2] if found else None)
    encoding, delimiter, header, text = found
    rows = list(islice(_rows(text, delimiter), 1, SAMPLE_ROWS + 1))
    if is_whole and not rows:
        raise LogWithoutEvents("The file has a header and no line below it.")
    place = header.places[Column.TIME]
    times = [row[place] for row in rows if len(row) > place]
    code_page = encoding if encoding in CODE_PAGES else _code_page(header.language)
    return ExportHead(encoding, code_page, mark_bytes, delimiter, header, has_offsets(times))


def _known(header: Header) -> int:
    return len(header.places)


def _encodings(head: bytes) -> tuple[int, tuple[str, ...]]:
    """Return the length of the mark and the encodings it may be. Raises LogNotText."""
    for mark, encoding in MARKS:
        if head.startswith(mark) and not head.startswith(codecs.BOM_UTF32_LE):
            return len(mark), (encoding,)
    controls = sum(byte < ord(" ") and byte not in _TEXT_CONTROLS for byte in head)
    if b"\0" in head.lstrip(b"\r\n").partition(b"\n")[0] or controls > len(head) * _MOST_CONTROLS:
        raise LogNotText(
            "The file is no text: it has bytes that no CSV has. UTF-16 needs its byte order mark.",
            extra={"encodings": encodings_shown()},
        )
    return 0, (UTF8, *CODE_PAGES)


def encodings_shown() -> list[str]:
    """Return the encodings that are read, for people."""
    return ["UTF-8", "UTF-16 with a byte order mark", "Windows-1252 (1250, 1251, 1253, 1254)"]


def _decode(head: bytes, mark_bytes: int, encoding: str) -> str:
    """Return the text of the head; a character cut in half at its end, or a wrong one, is replaced."""
    return head[mark_bytes:].decode(encoding, "replace")


def _first_line(text: str) -> str:
    return text.lstrip("\r\n").partition("\n")[0].rstrip("\r")


def _cells(text: str, delimiter: str) -> list[str]:
    return next(_rows(text, delimiter), [])


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the rows that have anything in them, up to what cannot be read."""
    reader = csv.reader(text.lstrip("\r\n").splitlines(keepends=True), delimiter=delimiter)
    try:
        for row in reader:
            if any(row):
                yield [cell.strip() for cell in row]
    except csv.Error:
        return


def _code_page(language: str) -> str:
    pages = {"pl": "cp1250", "cs": "cp1250", "ru": "cp1251", "el": "cp1253", "tr": "cp1254"}
    return pages.get(language, "cp1252")


def _refusal(
    line: str, header: Header | None
) -> LogHeaderMissing | LogHeaderUnknown | LogDelimiterUnknown:
    """Say what is wrong with a first line that is no header of an export."""
    for delimiter in WRONG_DELIMITERS:
        other = match_header(_cells(line, delimiter))
        if other is not None and not other.missing:
            return LogDelimiterUnknown(
                f'The columns are separated by "{delimiter}"; it must be comma, semicolon or tab.',
                extra={"found": delimiter, "allowed": ["comma", "semicolon", "tab"]},
            )
    first = [_cells(line, delimiter) for delimiter in DELIMITERS]
    if any(read_moment(cell) for cells in first for cell in cells[:MOST_COLUMNS]):
        return LogHeaderMissing(
            "The first line is an event, not a header: export the log again with its header line."
        )
    if header is None:
        shown = [cell[:60] for cell in max(first, key=len)[:12]]
        msg = "The first line is not the header of a Moodle log in any language known here."
        return LogHeaderUnknown(msg, extra={"found": shown, "languages": list(CODES)})
    missing = [column.value for column in header.missing]
    msg = f"The header lacks {', '.join(missing)} (looked for in: {header.language})."
    facts = {"missing": missing, "unknown": list(header.unknown), "language": header.language}
    return LogHeaderUnknown(msg, extra=facts)
