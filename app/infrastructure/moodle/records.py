"""Reads the records of a CSV file one by one, in constant memory whatever the bytes are."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from app.operations.moodle.export_head import UTF8, ExportHead

MOST_BYTES = 512 * 1024
"""Of one record with all its lines; Moodle's longest descriptions have a few thousand."""
MOST_LINES = 2000
BUFFER_BYTES = 256 * 1024
ASCII = "ascii"


class Reason(StrEnum):
    """Why a row was rejected."""

    TOO_FEW = "too_few_fields"
    TOO_MANY = "too_many_fields"
    BAD_TIME = "unreadable_time"
    WRONG_ORDER = "no_such_day"
    NO_ZONE = "no_timezone"
    NO_EVENT = "no_event_name"
    BAD_ENCODING = "not_in_the_encoding"
    TOO_LONG = "too_long"
    OPEN_QUOTE = "quote_never_closed"
    BROKEN = "not_csv"
    REPEATED_HEADER = "repeated_header"


@dataclass(frozen=True, slots=True)
class Record:
    """One record: the number of its first line, and its fields or why it has none."""

    line: int
    fields: list[str]
    reason: Reason | None = None


class RecordReader:
    """The records of a file behind its header, empty lines left out.

    A quoted field may have line ends. A quote that is not closed within the limits costs the line it
    is in alone: reading goes on with the next. ``encoding`` is what the file has turned out to be: of
    bytes that are no UTF-8 the first decide, when all before them was ASCII.
    """

    def __init__(self, path: Path, head: ExportHead) -> None:
        self._file = path.open("rb", buffering=BUFFER_BYTES)
        self.size_bytes = path.stat().st_size
        self._head = head
        self._delimiter = head.delimiter
        self._unread: list[bytes] = []
        self._line = 0
        self.encoding = head.encoding
        self._is_undecided = head.encoding == UTF8 and not head.mark_bytes
        self._source: BinaryIO | _Recoded = self._file
        if head.encoding.startswith("utf-16"):
            self._source = _Recoded(self._file, head.encoding)
        self._file.seek(head.mark_bytes)

    def close(self) -> None:
        self._file.close()

    @property
    def position(self) -> int:
        """How many bytes of the file were read."""
        return self._file.tell()

    @property
    def shown_encoding(self) -> str:
        """The encoding for people; one that never was put to the test is ASCII, which is UTF-8."""
        return UTF8 if self._is_undecided else self.encoding

    def __iter__(self) -> Iterator[Record]:
        """Yield every record, the header's first."""
        pending = _Pending()
        reader = csv.reader(pending, delimiter=self._delimiter)
        csv.field_size_limit(MOST_BYTES + 1)
        while True:
            lines, number, reason = self._next_lines()
            if not lines:
                return
            raw = b"".join(lines)
            if reason is None and not raw.strip(b" \t\r\n\x1a"):
                continue
            text = "" if reason else self._decode(raw)
            if text is None:
                reason = Reason.BAD_ENCODING
            if reason or text is None:
                yield Record(number, [], reason)
                continue
            pending.text = text
            try:
                yield Record(number, next(reader))
            except csv.Error:
                yield Record(number, [], Reason.BROKEN)

    def _next_lines(self) -> tuple[list[bytes], int, Reason | None]:
        """Return the lines of the next record, its first line's number and what is wrong with it."""
        first = self._read_line()
        number = self._line
        if len(first) > MOST_BYTES:
            self._skip_line(first)
            return [first[:1]], number, Reason.TOO_LONG
        if first.count(b'"') % 2 == 0:
            return ([first] if first else []), number, None
        lines, size, is_open = [first], len(first), True
        while is_open:
            line = self._read_line()
            size += len(line)
            if not line or size > MOST_BYTES or len(lines) >= MOST_LINES:
                # Read again from the second line on, which may well be right by itself.
                self._give_back([*lines[1:], *([line] if line else [])])
                self._line = number
                return [first], number, Reason.OPEN_QUOTE
            lines.append(line)
            is_open = line.count(b'"') % 2 == 0
        return lines, number, None

    def _read_line(self) -> bytes:
        """Return the next line with its end, at most a little more than ``MOST_BYTES`` of it."""
        line = self._unread.pop() if self._unread else self._source.readline(MOST_BYTES + 1)
        if line:
            self._line += 1
        return line

    def _give_back(self, lines: list[bytes]) -> None:
        self._unread.extend(reversed(lines))

    def _skip_line(self, line: bytes) -> None:
        """Read on to the end of a line that is too long, keeping nothing of it."""
        while line and not line.endswith(b"\n"):
            line = self._unread.pop() if self._unread else self._source.readline(BUFFER_BYTES)

    def _decode(self, raw: bytes) -> str | None:
        """Return the text, None when the bytes are not of the encoding."""
        if isinstance(self._source, _Recoded):
            text = raw.decode(UTF8)
            return None if "\ufffd" in text else text
        try:
            text = raw.decode(self.encoding)
        except UnicodeDecodeError:
            if not self._is_undecided:
                return None
            self.encoding, self._is_undecided = self._head.code_page, False
            return self._decode(raw)
        if self._is_undecided and not raw.isascii():
            self._is_undecided = False
        return text


class _Recoded(io.RawIOBase):
    """A UTF-16 file as if it were UTF-8; what cannot be read becomes the replacement character."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__()
        self._text = io.TextIOWrapper(file, encoding=encoding, errors="replace", newline="\n")

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._text.readline(-1 if size is None else size).encode(UTF8, "replace")


class _Pending:
    """Gives the reader one record and then nothing; it may ask again for the next."""

    def __init__(self) -> None:
        self.text: str | None = None

    def __iter__(self) -> "_Pending":
        return self

    def __next__(self) -> str:
        text, self.text = self.text, None
        if text is None:
            raise StopIteration
        return text
