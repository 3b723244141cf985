"""A link: one open connection, on which statements and transactions run by the driver alone."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError

from app.domain.errors import ConflictingUpdate
from app.infrastructure.database.statements import Form, Row, Statement, Values

_NOTHING: Values = {}


class Link:
    """SQLAlchemy opened the connection and ends it; between, only the driver is asked.

    ``begin``: what opens a transaction where the driver does not by itself. What goes wrong in the
    driver is raised as SQLAlchemy's error for it (see ``faults``).
    """

    __slots__ = ("_begin", "_connection", "_dialect", "_driver", "_errors", "_execute")

    def __init__(self, connection: Connection, begin: str | None = None) -> None:
        self._connection = connection
        self._begin = begin
        self._dialect = connection.dialect
        self._errors = connection.dialect.loaded_dbapi.Error
        driver: Any = connection.connection.dbapi_connection
        self._driver = driver
        self._execute = driver.execute

    # --- statements ------------------------------------------------------------------------------

    def rows(self, statement: Statement, values: Values = _NOTHING) -> list[Row]:
        """Return the rows of a query."""
        form = self._form(statement, values)
        cursor = self._run(form, values)
        try:
            return form.rows(cursor)
        except self._errors as error:  # a row is read when it is fetched
            # The traceback keeps the cursor, an open cursor SQLite's connection, and that its locks.
            cursor.close()
            raise self._wrapped(form.text, error) from error

    def first(self, statement: Statement, values: Values = _NOTHING) -> Row | None:
        """Return the first row of a query that finds few, None for no row."""
        found = self.rows(statement, values)
        return found[0] if found else None

    def value(self, statement: Statement, values: Values = _NOTHING) -> Any:
        """Return the one value that a query has for an answer."""
        (row,) = self.rows(statement, values)
        (value,) = row.values()
        return value

    def change(self, statement: Statement, values: Values) -> int:
        """Run a write and return how many rows it met."""
        return self._run(self._form(statement, values), values).rowcount

    def change_one(self, statement: Statement, values: Values, what: str) -> None:
        """Run a conditional update; raises ConflictingUpdate when it meets no row."""
        if self.change(statement, values) == 0:
            msg = f"The {what} has changed in the meantime, try again"
            raise ConflictingUpdate(msg)

    def insert_all(self, statement: Statement, rows: Sequence[Values]) -> None:
        """Insert rows that all name the same columns; there is at least one."""
        form = self._form(statement, rows[0])
        try:
            parameters = [form.parameters(values) for values in rows]
            self._driver.cursor().executemany(form.text, parameters)
        except Exception as error:
            raise self._wrapped(form.text, error) from error

    # --- transactions ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Open a transaction: a writer's waits for all other writers, a reader's is one snapshot."""
        if self._begin is not None:
            self.tell(self._begin)

    def commit(self) -> None:
        try:
            self._driver.commit()
        except self._errors as error:
            raise self._wrapped("COMMIT", error) from error

    def rollback(self) -> None:
        try:
            self._driver.rollback()
        except self._errors as error:
            raise self._wrapped("ROLLBACK", error) from error

    def discard(self) -> None:
        """Close a connection of which nobody knows what state it is in; what is open is undone."""
        self._connection.invalidate()
        self._connection.close()

    def close(self) -> None:
        self._connection.close()

    # --- the bare driver -------------------------------------------------------------------------

    @property
    def driver(self) -> Any:
        """The driver's connection, for what only one kind of database has."""
        return self._driver

    def tell(self, text: str) -> None:
        """Run a text without parameters."""
        try:
            self._execute(text)
        except self._errors as error:
            raise self._wrapped(text, error) from error

    def _form(self, statement: Statement, values: Values) -> Form:
        return statement.form(self._dialect, values)

    def _run(self, form: Form, values: Values) -> DBAPICursor:
        try:
            cursor: DBAPICursor = self._execute(form.text, form.parameters(values))
        except Exception as error:
            raise self._wrapped(form.text, error) from error
        return cursor

    def _wrapped(self, text: str, error: Exception) -> Exception:
        """Return what SQLAlchemy raises for an error: of the driver, or of a value it cannot take."""
        is_lost = isinstance(error, self._errors) and self._dialect.is_disconnect(
            error, self._driver, None
        )
        return DBAPIError.instance(
            text,
            None,
            error,
            self._errors,
            hide_parameters=True,
            connection_invalidated=is_lost,
            dialect=self._dialect,
        )


class Repository:
    """What every repository is: statements on the link of one transaction."""

    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link
