"""Bringing a database to the shape of this version, and saying which shape it has.

Nothing here locks an embedded database: its caller holds the data folder's lock. On Postgres the
writers' lock is taken, so that several processes may start at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, insert, inspect, select

from app.domain.errors import ConflictingUpdate, InternalError
from app.infrastructure.clock import SystemClock
from app.infrastructure.database.connections import open_engine, shrinks_by_itself
from app.infrastructure.database.faults import VENDOR_ERRORS, translate
from app.infrastructure.database.tables import instance, metadata
from app.infrastructure.database.urls import is_sqlite, parse_url

MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_SECONDS = 30.0
_IN_MEMORY = "sqlite://"


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at ``url`` up to ``revision``, making the file of a SQLite one.

    One transaction: an upgrade that fails changes nothing. Raises DatabaseBusy, NoSpace or
    StorageFailed; a repeat is harmless. Afterwards a SQLite file is in WAL mode and can shrink.
    """
    _migrate(url, lambda config: command.upgrade(config, revision))
    with _connected(url) as connection:
        if connection.dialect.name == "sqlite":
            _make_shrinkable(connection)


def downgrade(url: str, revision: str) -> None:
    """Take the database back to ``revision`` ("base": no tables), losing what it did not know."""
    _migrate(url, lambda config: command.downgrade(config, revision))


def current_revision(url: str) -> str | None:
    """Return the revision of the database at ``url``, None where nothing was migrated yet."""
    if _is_missing(url):
        return None
    with _connected(url, writer=False) as connection, connection.begin():
        return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str:
    """Return the newest revision this version knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise InternalError("There are no migrations in this installation")
    return head


def knows_revision(revision: str | None) -> bool:
    """Whether this version can bring a database of that revision to its own."""
    if revision is None:
        return True
    try:
        return ScriptDirectory.from_config(_config()).get_revision(revision) is not None
    except CommandError:
        return False


def check_migrations(url: str | None = None) -> None:
    """Raise InternalError where the tables in the code differ from those the migrations make.

    With ``url`` looks at that database (which has to be at the head), else migrates one in memory.
    """
    if url is not None:
        with _connected(url, writer=False) as connection, connection.begin():
            _compare(connection)
        return
    with _connected(_IN_MEMORY) as connection, connection.begin():
        command.upgrade(_config(connection), "head")
        _compare(connection)


def new_revision(message: str, revision: str) -> None:
    """Write a migration from the newest revision to the tables in the code (for developers)."""
    with _connected(_IN_MEMORY) as connection, connection.begin():
        command.upgrade(_config(connection), "head")
        config = _config(connection)
        command.revision(config, message, autogenerate=True, rev_id=revision)


def get_instance_id(url: str) -> str | None:
    """Return the id of the data folder this database belongs to; None: it belongs to none yet."""
    if _is_missing(url):
        return None
    with _connected(url, writer=False) as connection, connection.begin():
        if not inspect(connection).has_table(instance.name):
            return None
        return connection.execute(select(instance.c.id)).scalar_one_or_none()


def set_instance_id(url: str, instance_id: str) -> None:
    """Tie the migrated database to a data folder; raises ConflictingUpdate if it is another's."""
    with _connected(url) as connection, connection.begin():
        found = connection.execute(select(instance.c.id)).scalar_one_or_none()
        if found is None:
            row = {"singleton": 1, "id": instance_id, "created_at": SystemClock().now()}
            connection.execute(insert(instance), row)
        elif found != instance_id:
            msg = f"The database belongs to another data folder ({found})"
            raise ConflictingUpdate(msg)


def _migrate(url: str, steps: Callable[[Config], Any]) -> None:
    with _connected(url) as connection:
        is_file = connection.dialect.name == "sqlite"
        if is_file:
            # Altering a table copies and drops it, which would cascade; checked below instead.
            _pragma(connection, "PRAGMA foreign_keys=OFF")
        with connection.begin():
            steps(_config(connection))
            if is_file and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                raise InternalError("A migration left rows that refer to nothing")


def _make_shrinkable(connection: Connection) -> None:
    driver: Any = connection.connection.driver_connection
    if not shrinks_by_itself(driver):
        # A file that was not made here, a restored dump for instance: written anew, once.
        for statement in ("journal_mode=DELETE", "auto_vacuum=INCREMENTAL"):
            _pragma(connection, f"PRAGMA {statement}")
        driver.execute("VACUUM")
        _pragma(connection, "PRAGMA journal_mode=WAL")


def _pragma(connection: Connection, statement: str) -> None:
    """Run a statement that must not be in a transaction."""
    driver: Any = connection.connection.driver_connection
    driver.execute(statement).fetchall()


def _compare(connection: Connection) -> None:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    if context.get_current_revision() != head_revision():
        raise InternalError("The database is not at the newest revision: migrate it first")
    if differences := compare_metadata(context, metadata):
        listed = "; ".join(str(each) for each in differences)
        msg = f"The tables and the migrations differ: {listed}"
        raise InternalError(msg)


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _is_missing(url: str) -> bool:
    """Whether ``url`` is a file that is not there: merely looking must not make it."""
    parsed = parse_url(url)
    return is_sqlite(parsed) and not Path(parsed.database or "").exists()


@contextmanager
def _connected(url: str, *, writer: bool = True) -> Iterator[Connection]:
    parsed = parse_url(url)
    engine = open_engine(parsed, writer=writer, busy_seconds=_BUSY_SECONDS)
    try:
        with engine.connect() as connection:
            yield connection
    except VENDOR_ERRORS as error:
        raise translate(error) from error
    finally:
        engine.dispose()
