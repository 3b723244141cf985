"""Database addresses: which ones are understood, and how a file becomes one."""

from pathlib import Path

from sqlalchemy.engine import URL, make_url

POSTGRES_DRIVER = "postgresql+psycopg"
_POSTGRES_NAMES = frozenset({"postgres", "postgresql", POSTGRES_DRIVER})


def parse_url(url: str) -> URL:
    """Return the address as SQLAlchemy takes it.

    ``sqlite:///path``, ``postgres://``, ``postgresql://`` and ``postgresql+psycopg://`` are
    understood; anything else raises ValueError, which never repeats a password.
    """
    parsed = make_url(url)
    if parsed.drivername in _POSTGRES_NAMES:
        return parsed.set(drivername=POSTGRES_DRIVER)
    if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
        return parsed.set(drivername="sqlite")
    msg = f"unknown kind of database {parsed.drivername!r}: use sqlite:///path or postgresql://..."
    raise ValueError(msg)


def sqlite_url(path: Path) -> str:
    """Return the address of a SQLite file, whatever characters its path holds."""
    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"
