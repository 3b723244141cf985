"""How long a cleanup that failed waits."""

from datetime import timedelta

from app.services.disposal import retry_delay


def test_the_wait_doubles_up_to_an_hour_and_never_ends() -> None:
    assert [retry_delay(n).total_seconds() for n in (1, 2, 3, 8)] == [10, 20, 40, 1280]
    assert retry_delay(10) == timedelta(hours=1)
    assert retry_delay(1_000_000) == timedelta(hours=1)
