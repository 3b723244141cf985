"""Each test that asks for a database gets a fresh one, on SQLite and on Postgres."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, NullPool, create_engine

from app.domain.ids import new_id
from app.infrastructure.database.engine import SqlDatabase
from app.infrastructure.database.migrate import upgrade
from app.infrastructure.database.urls import parse_url, sqlite_url
from tests.contract.postgres import Cluster, running_cluster
from tests.fakes.clock import FakeClock

TEMPLATE = "migrated"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One cluster per test process, started when the first test needs it."""
    with running_cluster() as cluster:
        cluster.execute(f"CREATE DATABASE {TEMPLATE}")
        upgrade(cluster.url(TEMPLATE))
        yield cluster


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "tidemill.db"
    upgrade(sqlite_url(path))
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a migrated, empty database."""
    if kind == "sqlite":
        path = tmp_path / "tidemill.db"
        shutil.copyfile(request.getfixturevalue("migrated_file"), path)
        yield sqlite_url(path)
        return
    yield from _database(request.getfixturevalue("cluster"), f" TEMPLATE {TEMPLATE}")


@pytest.fixture
def blank_url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a database that was never migrated; on SQLite there is no file yet."""
    if kind == "sqlite":
        yield sqlite_url(tmp_path / "tidemill.db")
        return
    yield from _database(request.getfixturevalue("cluster"), "")


def _database(cluster: Cluster, options: str) -> Iterator[str]:
    name = f"t{new_id()}"
    cluster.execute(f"CREATE DATABASE {name}{options}")
    yield cluster.url(name)
    cluster.execute(f"DROP DATABASE {name}")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def db(url: str, clock: FakeClock) -> AsyncIterator[SqlDatabase]:
    """The database, open."""
    database = SqlDatabase.open(url, clock=clock)
    yield database
    await database.close()


@pytest.fixture
async def other(url: str, clock: FakeClock) -> AsyncIterator[SqlDatabase]:
    """The same database, opened by what might be another process."""
    database = SqlDatabase.open(url, clock=clock)
    yield database
    await database.close()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """A plain look at the database, past all of our code."""
    engine = create_engine(parse_url(url), poolclass=NullPool)
    yield engine
    engine.dispose()
