"""A first look at a Moodle log: every language, delimiter and encoding, and what is refused."""

import itertools

import pytest

from app.domain.errors import (
    AppError,
    EmptyFile,
    LogDelimiterUnknown,
    LogHeaderMissing,
    LogHeaderUnknown,
    LogNotText,
    LogWithoutEvents,
)
from app.operations.moodle.columns import CODES, LANGUAGES, MOST_COLUMNS, Column
from app.operations.moodle.export_head import (
    DELIMITERS,
    HEAD_BYTES,
    ExportHead,
    head_from_json,
    look_at_export,
)
from tests.fakes.moodle_logs import ANNA, HEADER, as_csv, header_of, row

PAGES = {"pl": "cp1250", "cs": "cp1250", "ru": "cp1251", "el": "cp1253", "tr": "cp1254"}


def look(data: bytes) -> ExportHead:
    return look_at_export(data[:HEAD_BYTES], len(data))


@pytest.mark.parametrize("language", CODES)
@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "windows"])
def test_an_export_is_recognised_in_every_language_delimiter_and_encoding(
    language: str, delimiter: str, encoding: str
) -> None:
    page = PAGES.get(language, "cp1252")
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    written = page if encoding == "windows" else encoding
    header = header_of(language)
    data = as_csv([ANNA[:1] + ("x",) * 8], header=header, delimiter=delimiter, encoding="utf-8")
    head = look((mark + data.decode()).encode(written))
    assert (head.header.language, head.delimiter) == (language, delimiter)
    assert list(head.header.places) == list(Column)
    if encoding == "windows":
        # A header of ASCII alone is UTF-8 until the rest of the file says otherwise.
        assert head.encoding in {page, "utf-8"}
        assert head.code_page == page
    else:
        assert head.encoding == written.removesuffix("-sig")
    assert head_from_json(head.as_json()) == head


def test_no_two_languages_share_a_whole_header() -> None:
    for one, other in itertools.combinations(LANGUAGES, 2):
        assert header_of(one.code) != header_of(other.code)


@pytest.mark.parametrize(
    "cells",
    [
        [name.upper() for name in HEADER],
        [f"  {name} " for name in HEADER],
        [*HEADER, "Grade"],
        [HEADER[3], HEADER[5], HEADER[1], HEADER[0]],
    ],
    ids=["capitals", "spaces", "another column", "four columns in another order"],
)
def test_a_header_may_be_a_little_different(cells: list[str]) -> None:
    head = look(as_csv([["5/03/26, 10:15"] * len(cells)], header=cells))
    assert head.header.language == "en"
    assert not head.header.missing


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EmptyFile),
        (b"\xef\xbb\xbf\r\n\r\n", EmptyFile),
        (as_csv([ANNA, ANNA], header=None), LogHeaderMissing),
        (as_csv([ANNA], delimiter="|"), LogDelimiterUnknown),
        (as_csv([ANNA], header=["id", "name", "grade"]), LogHeaderUnknown),
        (as_csv([ANNA], header=HEADER[:3]), LogHeaderUnknown),
        (as_csv([ANNA], header=[f"Column {n}" for n in range(100_000)]), LogHeaderUnknown),
        (as_csv([ANNA], header=[*HEADER, *"x" * MOST_COLUMNS]), LogHeaderUnknown),
        (as_csv([]), LogWithoutEvents),
        (b"\x00\x00\x00\x20ftypisom" + bytes(2000), LogNotText),
        (b"PK\x03\x04" + bytes(range(256)) * 40, LogNotText),
        (as_csv([ANNA]).decode().encode("utf-16-le"), LogNotText),
        (as_csv([ANNA]).decode().encode("utf-32"), LogNotText),
        (b"Time," * 20_000, LogHeaderUnknown),
        (b'"' * 70_000, LogHeaderUnknown),
        (b"x" * 70_000, LogHeaderUnknown),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else repr(value[:12]),
)
def test_what_a_first_look_can_tell_is_refused_by_name(data: bytes, error: type[AppError]) -> None:
    with pytest.raises(error) as caught:
        look(data)
    assert caught.value.code == error.code
    assert len(caught.value.detail) > 15


def test_a_refused_header_says_what_is_missing() -> None:
    with pytest.raises(LogHeaderUnknown) as caught:
        look(as_csv([ANNA[:3]], header=("Time", "User full name", "Grade")))
    assert caught.value.extra["missing"] == ["Event context", "Event name"]
    assert caught.value.extra["unknown"] == ["Grade"]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("2026-03-05T10:15:00+01:00", True),
        ("2026-03-05 10:15:00Z", True),
        ("5/03/26, 10:15", False),
    ],
)
def test_times_that_name_their_offset_need_no_timezone(when: str, expected: bool) -> None:
    assert look(as_csv([row(when=when)] * 3)).names_offsets is expected


def test_a_head_cut_anywhere_is_still_understood() -> None:
    data = as_csv([row(user="Ж" * 40)] * 5)
    for length in range(200, len(data)):
        assert look_at_export(data[:length], len(data)).header.language == "en"
