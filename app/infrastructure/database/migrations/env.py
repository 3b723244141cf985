"""How Alembic runs here: always on a connection that ``migrate`` hands over."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection

from app.infrastructure.database.columns import EnumText, UtcDateTime
from app.infrastructure.database.tables import metadata


def render(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Write our column types into new migrations: enums as the text they are."""
    if kind == "type" and isinstance(item, EnumText):
        return "sa.Text()"
    if kind == "type" and isinstance(item, UtcDateTime):
        autogen.imports.add("from app.infrastructure.database.columns import UtcDateTime\n")
        return "UtcDateTime()"
    return False


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        render_item=render,
        # SQLite alters a table by copying it.
        render_as_batch=True,
        # SQLite's DDL is transactional once the driver keeps its hands off BEGIN (connections.py).
        transactional_ddl=True,
    )
    context.run_migrations()


run(context.config.attributes["connection"])
