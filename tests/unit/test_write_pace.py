"""When writes are made inline: once the disk is quick, and never into a file that has just stalled."""

import pytest

from app.infrastructure.storage.write_pace import (
    MOST_REMEMBERED,
    QUICK_WRITES,
    SLOW_SECONDS,
    WritePace,
)

QUICK, SLOW = SLOW_SECONDS / 10, SLOW_SECONDS * 10


@pytest.fixture
def pace() -> WritePace:
    pace = WritePace()
    for _ in range(QUICK_WRITES):
        assert not pace.is_quick("any")
        pace.note("any", QUICK)
    return pace


def test_a_disk_that_has_been_quick_is_quick_for_new_files_too(pace: WritePace) -> None:
    assert pace.is_quick("any")
    assert pace.is_quick("new")


def test_one_slow_write_sends_all_to_the_threads_until_the_disk_is_quick_again(
    pace: WritePace,
) -> None:
    pace.note("slow", SLOW)
    assert not pace.is_quick("any")
    for _ in range(QUICK_WRITES):
        pace.note("any", QUICK)
    assert pace.is_quick("any")


def test_a_file_that_stalled_stays_in_the_threads_until_it_is_quick_itself(pace: WritePace) -> None:
    pace.note("slow", SLOW)
    for _ in range(10 * QUICK_WRITES):
        pace.note("any", QUICK)
    assert not pace.is_quick("slow")
    for _ in range(QUICK_WRITES):
        pace.note("slow", QUICK)
    assert pace.is_quick("slow")


def test_of_many_files_that_stalled_the_last_ones_are_remembered(pace: WritePace) -> None:
    for number in range(MOST_REMEMBERED + 1):
        pace.note(str(number), SLOW)
    for _ in range(QUICK_WRITES):
        pace.note("any", QUICK)
    assert pace.is_quick("0")
    assert not pace.is_quick("1")
