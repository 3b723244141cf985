"""What a log's job warns of, in sentences that fit their number."""

import pytest

from app.infrastructure.moodle.child import warnings_of

QUIET = {
    "rejected": 0,
    "date_order": "day-first",
    "date_order_by": "unambiguous",
    "times_twice": 0,
    "times_skipped": 0,
}


@pytest.mark.parametrize(
    ("fact", "one", "two"),
    [
        ("rejected", "1 line was rejected", "2 lines were rejected"),
        ("times_twice", "1 time lies in an hour", "2 times lie in an hour"),
        ("times_skipped", "1 time lies in an hour", "2 times lie in an hour"),
    ],
)
def test_a_warning_counts_one_as_one(fact: str, one: str, two: str) -> None:
    for number, begins in ((1, one), (2, two)):
        (said,) = warnings_of(QUIET | {fact: number})
        assert said.startswith(begins)
    assert warnings_of(QUIET) == []
