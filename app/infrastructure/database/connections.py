"""How connections are opened: the pragmas of SQLite, the limits of Postgres, and what BEGIN means.

There are two kinds of connection. A writer's transactions come one after the other, across all
processes: ``BEGIN IMMEDIATE`` on SQLite, an advisory lock on Postgres, so that "look, decide, write"
in one transaction is as safe on one as on the other. A reader's transaction is one snapshot and
cannot write.
"""

import sqlite3
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import URL

from app.infrastructure.database.link import Link
from app.infrastructure.database.urls import is_sqlite

WRITER_LOCK = 0x7469_6465
"""Postgres's advisory lock of whoever writes."""

_JOURNAL_SIZE_LIMIT = 16 * 1024 * 1024
"""Bytes to which a write-ahead log that has grown is cut back at a checkpoint."""

_INCREMENTAL = 2


def open_links(
    url: URL, *, writer: bool, busy_seconds: float, durable: bool = True
) -> Callable[[], Link]:
    """Return what opens a link of its own each time it is called (see ``open_engine``)."""
    engine = open_engine(url, writer=writer, busy_seconds=busy_seconds, durable=durable)
    begin = _begin(url, writer=writer)
    return lambda: Link(engine.connect(), begin)


def _begin(url: URL, *, writer: bool) -> str | None:
    """Return what opens a transaction; Postgres's driver sends its own BEGIN before it."""
    if is_sqlite(url):
        # IMMEDIATE takes the write lock now: a transaction that read first could not get it later.
        return "BEGIN IMMEDIATE" if writer else "BEGIN"
    return f"SELECT pg_advisory_xact_lock({WRITER_LOCK})" if writer else None


def open_engine(url: URL, *, writer: bool, busy_seconds: float, durable: bool = True) -> Engine:
    """Return an engine without a pool: each ``connect()`` is a connection of its own.

    ``busy_seconds`` is how long to wait for another's lock, and for Postgres to accept a connection.
    ``durable``: whether a commit in SQLite is on the disk when it returns; else a crash of the
    machine may undo the last ones, always whole and in their order.
    """
    if is_sqlite(url):
        return _sqlite_engine(url, writer=writer, busy_seconds=busy_seconds, durable=durable)
    return _postgres_engine(url, writer=writer, busy_seconds=busy_seconds)


def _sqlite_engine(url: URL, *, writer: bool, busy_seconds: float, durable: bool) -> Engine:
    # A connection is used by one thread at a time, but closed by another than used it.
    arguments = {"timeout": busy_seconds, "check_same_thread": False}
    engine = create_engine(url, poolclass=NullPool, connect_args=arguments)

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        if writer:
            _prepare_file(connection)
        _configure(connection, writer=writer, durable=durable)

    event.listen(engine, "connect", connected)
    _listen_to_begin(engine, _begin(url, writer=writer))
    return engine


def _prepare_file(connection: sqlite3.Connection) -> None:
    """Set what a file keeps, and what must precede its first table."""
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        # In this order: once the file has a header, auto_vacuum cannot be turned on any more.
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL").fetchone()


def _configure(connection: sqlite3.Connection, *, writer: bool, durable: bool) -> None:
    """Set what each connection needs anew."""
    # The driver would begin transactions by itself, before writes only, and never before DDL.
    connection.isolation_level = None
    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    connection.execute("PRAGMA foreign_keys=ON")
    # SQLite's own temporary files would lie outside the data folder.
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute(f"PRAGMA journal_size_limit={_JOURNAL_SIZE_LIMIT}").fetchone()
    if not writer:
        connection.execute("PRAGMA query_only=ON")


def shrinks_by_itself(connection: sqlite3.Connection) -> bool:
    """Whether the file gives free pages back when asked to (``auto_vacuum=INCREMENTAL``)."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    return bool(mode == _INCREMENTAL)


def _postgres_engine(url: URL, *, writer: bool, busy_seconds: float) -> Engine:
    arguments = {
        "connect_timeout": max(2, round(busy_seconds)),
        # A line that breaks without a word would hold the one writer for as long as TCP likes.
        "keepalives_idle": 30,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }
    engine = create_engine(
        url,
        poolclass=NullPool,
        connect_args=arguments,
        isolation_level="READ COMMITTED" if writer else "REPEATABLE READ",
    )
    if not writer:
        engine = engine.execution_options(postgresql_readonly=True)
    milliseconds = round(busy_seconds * 1000)

    def connected(connection: Any, _record: object) -> None:
        was, connection.autocommit = connection.autocommit, True
        connection.execute(f"SET lock_timeout = {milliseconds}")
        connection.execute(f"SET idle_in_transaction_session_timeout = {10 * milliseconds}")
        connection.autocommit = was

    event.listen(engine, "connect", connected)
    _listen_to_begin(engine, _begin(url, writer=writer))
    return engine


def _listen_to_begin(engine: Engine, begin: str | None) -> None:
    """Have transactions of SQLAlchemy's begin as those of links do."""
    if begin is None:
        return

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "begin", begun)
