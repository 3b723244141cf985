"""``tidemill migrate``: bring the database to the schema of this version."""

import typer

from app.cli.terminal import load_settings


def migrate() -> None:
    """Bring the database to the schema of this version; a repeat changes nothing.

    The SQLite database in the data folder is migrated by `tidemill serve` too; any other is
    migrated only here. Works on PostgreSQL, though `serve` does not run on it yet.

    \b
    Examples:
      tidemill migrate
      TIDEMILL_DATABASE_URL=postgresql://tidemill@db/tidemill tidemill migrate

    \b
    Exit codes: 0 done, 1 failed, 2 wrong command line or settings.
    """  # noqa: D301 - \b keeps the lines apart in the help
    # Here, since the database brings much with it, and other commands should start quickly.
    from app.bootstrap import migrate_database  # noqa: PLC0415

    before, after = migrate_database(load_settings())
    if before == after:
        typer.echo(f"The database is at revision {after}: nothing to do.")
    else:
        typer.echo(f"The database went from revision {before or 'none'} to {after}.")
