"""Times as Moodle's languages write them, and how a whole file tells day from month."""

from datetime import UTC, datetime

import pytest

from app.operations.moodle.moments import (
    DateEvidence,
    DateOrder,
    _plain,
    as_utc,
    has_offsets,
    read_moment,
)
from app.operations.moodle.months import MONTHS

MORNING = "2026-03-05T10:15:00Z"
EVENING = "2026-03-05T22:15:01Z"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5/03/26, 10:15:00", MORNING),
        ("05/03/2026, 10:15", MORNING),
        ("05.03.2026 10:15", MORNING),
        ("5. März 2026, 10:15:00", MORNING),
        ("Do, 5. Mär 2026, 10:15", MORNING),
        ("5 mars 26, 10:15", MORNING),
        ("jeudi 5 mars 2026, 10:15:00", MORNING),
        ("5 de marzo de 2026, 10:15", MORNING),
        ("5 marzo 2026, 10:15:01 PM", EVENING),
        ("5/03/26 às 10:15", MORNING),
        ("5 de março de 2026 às 10:15:00", MORNING),
        ("5 maart 2026, 10:15", MORNING),
        ("5 marca 2026, 10:15", MORNING),
        ("5 марта 2026, 10:15:00", MORNING),
        ("5 Μαρτίου 2026, 10:15:01 μμ", EVENING),
        ("5 Mart 2026, 10:15:01 ÖS", EVENING),
        ("5 Mart 2026, 10:15 ÖÖ", MORNING),
        ("5. března 2026, 10:15", MORNING),
        ("5. 3. 2026, 10.15", MORNING),
        ("2026-03-05 10:15", MORNING),
        ("2026-03-05T10:15:00", MORNING),
        ("Thu, 5 Mar 2026, 10:15 AM", MORNING),
        ("Thursday, 5 March 2026, 10:15:01 p.m.", EVENING),
        ("March 5, 2026, 10:15 AM", MORNING),
        ("5\u00a0March\u00a02026, 10:15\u202fAM", MORNING),
        ("5/03/2026, 22:15:01 PM", EVENING),
        ("12/01/26, 12:30 AM", "2026-01-12T00:30:00Z"),
        ("31/12/99, 23:59:59", "1999-12-31T23:59:59Z"),
        ("29/02/24, 0:00:00", "2024-02-29T00:00:00Z"),
    ],
)
def test_a_time_is_read_day_first(text: str, expected: str) -> None:
    moment = read_moment(text)
    assert moment is not None
    assert moment.day_first is not None
    assert as_utc(moment.day_first) == expected


@pytest.mark.parametrize("language", MONTHS)
def test_every_name_of_every_month_is_read(language: str) -> None:
    for number, names in enumerate(MONTHS[language], start=1):
        for name in names.split():
            moment = read_moment(f"14 {name} 2025, 08:09:10")
            assert moment is not None, name
            assert moment.day_first == moment.month_first
            assert as_utc(moment.day_first or 0) == f"2025-{number:02}-14T08:09:10Z", name


def test_no_name_means_two_months() -> None:
    meant: dict[str, set[int]] = {}
    for months in MONTHS.values():
        assert len(months) == 12
        for number, names in enumerate(months, start=1):
            for name in names.split():
                meant.setdefault(_plain(name), set()).add(number)
    assert {name: found for name, found in meant.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "yesterday", "31/02/26, 10:00", "5/03/26", "10:15", "5/03/26, 24:00"),
        *("5/03/26, 10:60", "5 smarch 2026, 10:15", "5/03/1826, 10:15", "1" * 5000),
        *("5/3/26, 10:15 extra words", "٥/٠٣/٢٦, ١٠:١٥x", "Anna Ågren"),
    ],
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert read_moment(text) is None


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("2026-03-05T10:15:00Z", 0),
        ("2026-03-05T10:15:00+01:00", 3600),
        ("2026-03-05 10:15:00.123456-0530", -19800),
        ("5 March 2026, 10:15 UTC", 0),
        ("5/03/26, 10:15", None),
    ],
)
def test_an_offset_is_kept(text: str, offset: int | None) -> None:
    moment = read_moment(text)
    assert moment is not None
    assert moment.offset == offset
    assert has_offsets([text]) is (offset is not None)


def evidence_of(*texts: str) -> DateEvidence:
    evidence = DateEvidence()
    for text in texts:
        moment = read_moment(text)
        assert moment is not None
        evidence.take(moment)
    return evidence


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["5 March 2026, 10:00"], (DateOrder.DAY_FIRST, "unambiguous")),
        (["3/04/26, 10:00", "13/04/26, 10:00"], (DateOrder.DAY_FIRST, "days above 12")),
        (["3/04/26, 10:00", "3/14/26, 10:00"], (DateOrder.MONTH_FIRST, "days above 12")),
        # Newest first. As months they would jump back and forth.
        (
            ["1/03/26, 10:00", "12/02/26, 10:00", "11/02/26, 10:00"],
            (DateOrder.DAY_FIRST, "sequence"),
        ),
        (
            ["3/01/26, 10:00", "2/12/26, 10:00", "2/11/26, 10:00"],
            (DateOrder.MONTH_FIRST, "sequence"),
        ),
        (["3/04/26, 10:00", "2/04/26, 10:00"], (DateOrder.DAY_FIRST, "assumed")),
        (["3/04/26, 1:00 PM", "3/03/26, 1:00 PM"], (DateOrder.MONTH_FIRST, "assumed")),
    ],
)
def test_the_whole_file_tells_day_from_month(
    texts: list[str], expected: tuple[DateOrder, str]
) -> None:
    assert evidence_of(*texts).decide(is_english=True) == expected


def test_a_file_runs_backwards_unless_its_times_rise() -> None:
    falling = evidence_of("3/04/26, 10:00", "2/04/26, 10:00")
    rising = evidence_of("2/04/26, 10:00", "3/04/26, 10:00")
    assert falling.is_newest_first(DateOrder.DAY_FIRST)
    assert not rising.is_newest_first(DateOrder.DAY_FIRST)


def test_seconds_become_rfc_3339() -> None:
    for moment in (
        datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2026, 1, 2, tzinfo=UTC),
    ):
        assert as_utc(int(moment.timestamp())) == moment.strftime("%Y-%m-%dT%H:%M:%SZ")
