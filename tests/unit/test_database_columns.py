"""Column types: what goes in comes out, and its order is the order of what is stored."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from app.domain.jobs import JobStatus
from app.infrastructure.database.columns import EnumText, UtcDateTime

DIALECT = sqlite.dialect()
ZONES = st.timezones() | st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours)))
INSTANTS = st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1), timezones=ZONES)  # noqa: DTZ001


@given(INSTANTS)
def test_an_instant_survives_to_the_microsecond_as_utc(instant: datetime) -> None:
    stored = UtcDateTime().process_bind_param(instant, DIALECT)
    assert isinstance(stored, int)
    found = UtcDateTime().process_result_value(stored, DIALECT)
    assert found == instant.astimezone(UTC)
    assert found is not None
    assert found.utcoffset() == timedelta()


@given(INSTANTS, INSTANTS)
def test_stored_instants_sort_as_the_instants_do(one: datetime, other: datetime) -> None:
    stored = [UtcDateTime().process_bind_param(each, DIALECT) for each in (one, other)]
    one, other = one.astimezone(UTC), other.astimezone(UTC)
    assert (stored[0] < stored[1], stored[0] == stored[1]) == (one < other, one == other)


def test_no_instant_is_none() -> None:
    assert UtcDateTime().process_bind_param(None, DIALECT) is None
    assert UtcDateTime().process_result_value(None, DIALECT) is None


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), DIALECT)  # noqa: DTZ001


@pytest.mark.parametrize("status", list(JobStatus))
def test_an_enum_is_stored_as_its_value(status: JobStatus) -> None:
    column = EnumText(JobStatus)
    stored = column.process_bind_param(status, DIALECT)
    assert stored == status.value
    assert type(stored) is str
    assert column.process_result_value(stored, DIALECT) is status
