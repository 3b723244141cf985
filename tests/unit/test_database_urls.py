"""Database addresses."""

from pathlib import Path

import pytest

from app.infrastructure.clock import SystemClock
from app.infrastructure.database.engine import SqlDatabase
from app.infrastructure.database.urls import is_sqlite, parse_url, sqlite_url


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_name_of_postgres_means_the_one_driver(scheme: str) -> None:
    url = parse_url(f"{scheme}://me:secret@db:5433/tidemill?sslmode=require")
    assert url.render_as_string(hide_password=False) == (
        "postgresql+psycopg://me:secret@db:5433/tidemill?sslmode=require"
    )
    assert not is_sqlite(url)


@pytest.mark.parametrize("path", ["/data/tidemill.db", "/data/a b/50%#1?.db", "relative.db"])
def test_a_path_survives_its_address(path: str) -> None:
    url = parse_url(sqlite_url(Path(path)))
    assert is_sqlite(url)
    assert url.database == path


def test_other_databases_are_refused_without_telling_a_password() -> None:
    with pytest.raises(ValueError, match="mysql") as caught:
        parse_url("mysql://me:secret@db/tidemill")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="memory"):
        SqlDatabase.open(url, clock=SystemClock())
