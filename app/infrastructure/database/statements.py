"""What the repositories share: conditional writes, inserts that may meet their like, pages.

Statements are built once per module with named parameters, so that a call costs a look-up in
SQLAlchemy's cache and not a compilation.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Executable, Insert, Select, Table, Update, bindparam, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from app.domain.errors import ConflictingUpdate
from app.services.ports import Cursor

Values = Mapping[str, Any]
"""The parameters of a statement."""


def changed(connection: Connection, statement: Executable, values: Values) -> int:
    """Run a write and return how many rows it met."""
    return connection.execute(statement, values).rowcount


def change_one(connection: Connection, statement: Update, values: Values, what: str) -> None:
    """Run a conditional update; raises ConflictingUpdate when it meets no row."""
    if changed(connection, statement, values) == 0:
        msg = f"The {what} has changed in the meantime, try again"
        raise ConflictingUpdate(msg)


def insert_missing(connection: Connection, table: Table, values: Values) -> bool:
    """Insert a row unless its like is there, and return whether it was inserted."""
    return connection.execute(_insert_missing(connection.dialect.name, table), values).rowcount > 0


def _insert_missing(dialect: str, table: Table) -> Insert:
    # ON CONFLICT DO NOTHING reads the same on both; only SQLAlchemy has a class for each.
    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return insert.on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def newest_first(table: Table, query: Select[Any]) -> tuple[Select[Any], Select[Any]]:
    """Return the statements for the first page and for a page after a cursor, newest first.

    Both take ``limit_``; the second also ``after_at`` and ``after_id`` (see ``page_values``).
    """
    created_at, row_id = table.c.created_at, table.c.id
    first = query.order_by(created_at.desc(), row_id.desc()).limit(bindparam("limit_"))
    after = tuple_(
        bindparam("after_at", type_=created_at.type), bindparam("after_id", type_=row_id.type)
    )
    return first, first.where(tuple_(created_at, row_id) < after)


def page_values(cursor: Cursor | None, limit: int) -> dict[str, Any]:
    """Return the parameters of one page."""
    values: dict[str, Any] = {"limit_": limit}
    if cursor is not None:
        values |= {"after_at": cursor.created_at, "after_id": cursor.id}
    return values
