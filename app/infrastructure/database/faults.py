"""What a vendor's error means to the service: the one place that translates them."""

import sqlite3
from typing import Any

from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)

from app.domain.errors import (
    AppError,
    ConflictingUpdate,
    DatabaseBusy,
    InternalError,
    NoSpace,
    StorageFailed,
)

_POSTGRES_DISK_FULL = "53100"
_POSTGRES_CONNECTION = "08"
_PRIMARY = 0xFF
"""SQLite's extended result codes keep the primary one in their low byte."""

_SQLITE_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_SQLITE_DISK = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
    }
)


VENDOR_ERRORS = (SQLAlchemyError, sqlite3.Error)
"""What to catch: SQLite's own come from what is run on the bare driver."""


def translate(error: SQLAlchemyError | sqlite3.Error) -> AppError:
    """Return the error of ours for one of VENDOR_ERRORS; raise it ``from`` the original.

    DatabaseBusy: locked, unreachable, out of time or of connections. NoSpace: its disk is full.
    StorageFailed: its file cannot be read or written. ConflictingUpdate: a row that had to be there
    (or not) has moved on. Whatever else it is, is a bug: InternalError.
    """
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error)
    if isinstance(error, IntegrityError):
        return ConflictingUpdate()
    if not isinstance(error, DBAPIError):
        return InternalError()
    if isinstance(error.orig, sqlite3.Error):
        return _of_sqlite(error.orig)
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        return _of_postgres(error.orig)
    return InternalError()


def _of_sqlite(error: sqlite3.Error) -> AppError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY
    if code in _SQLITE_BUSY:
        return _busy()
    if code == sqlite3.SQLITE_FULL:
        return NoSpace("The disk of the database is full")
    if code in _SQLITE_DISK:
        return StorageFailed("The database's file cannot be read or written")
    return InternalError()


def _of_postgres(error: Any) -> AppError:
    state = getattr(error, "sqlstate", None)
    if state == _POSTGRES_DISK_FULL:
        return NoSpace("The disk of the database is full")
    if state is None or state.startswith(_POSTGRES_CONNECTION):
        # Whoever set the address up is told more than "busy"; clients wait in either case.
        return DatabaseBusy("The database cannot be reached", retry_after_seconds=1)
    return _busy()


def _busy() -> DatabaseBusy:
    return DatabaseBusy(retry_after_seconds=1)
