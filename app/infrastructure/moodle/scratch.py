"""The scratch databases of a run: what a million rows are sorted with in constant memory."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

CACHE_KIB = 6 * 1024
KEPT_STRINGS = 20_000
BATCH_ROWS = 2000

RAW = """
CREATE TABLE strings (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE users (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, number TEXT NOT NULL, UNIQUE (name, number));
CREATE TABLE courses (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, number TEXT NOT NULL, UNIQUE (name, number));
CREATE TABLE events (
    line INTEGER PRIMARY KEY, day_first INTEGER, month_first INTEGER, utc_offset INTEGER,
    user INTEGER NOT NULL, course INTEGER NOT NULL, activity INTEGER NOT NULL,
    component INTEGER NOT NULL, context INTEGER NOT NULL, origin INTEGER NOT NULL);
CREATE TABLE rejected (line INTEGER PRIMARY KEY, reason TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
SORTED = """
CREATE TABLE cases (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE events (
    "case" INTEGER NOT NULL, at INTEGER NOT NULL, line INTEGER NOT NULL, person INTEGER NOT NULL,
    activity INTEGER NOT NULL, component INTEGER NOT NULL, context INTEGER NOT NULL,
    origin INTEGER NOT NULL);
CREATE TABLE rejected (line INTEGER PRIMARY KEY, reason TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


def _address(path: Path) -> str:
    return f"file:{quote(str(path))}"


def _finished(path: Path) -> str:
    """Return the address of a database that nobody writes to: no locks, no journal beside it."""
    return f"{_address(path)}?mode=ro&immutable=1"


@contextmanager
def new_database(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """Make a database that need not survive a crash: the file is thrown away with its job then."""
    with closing(sqlite3.connect(_address(path), uri=True, isolation_level=None)) as db:
        for setting in (
            "page_size=8192",
            "journal_mode=OFF",
            "synchronous=OFF",
            "locking_mode=EXCLUSIVE",
            "temp_store=FILE",
            f"cache_size=-{CACHE_KIB}",
        ):
            db.execute(f"PRAGMA {setting}")
        db.executescript(schema)
        db.execute("BEGIN")
        yield db
        db.execute("COMMIT")


def attach(db: sqlite3.Connection, path: Path, name: str) -> None:
    """Add a finished database, to be read only."""
    db.execute("COMMIT")
    db.execute(f"ATTACH ? AS {name}", (_finished(path),))
    db.execute(f"PRAGMA {name}.cache_size=-{CACHE_KIB}")
    db.execute("BEGIN")


@contextmanager
def open_finished(path: Path, *others: tuple[Path, str]) -> Iterator[sqlite3.Connection]:
    """Open finished databases for reading: ``path``, and ``others`` under their names."""
    with closing(sqlite3.connect(_finished(path), uri=True, isolation_level=None)) as db:
        db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        db.execute("PRAGMA temp_store=FILE")
        for other, name in others:
            db.execute(f"ATTACH ? AS {name}", (_finished(other),))
            db.execute(f"PRAGMA {name}.cache_size=-{CACHE_KIB}")
        yield db


class Numbers:
    """Gives each text, or pair of texts, of a table its number; remembers some thousands."""

    def __init__(self, db: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> None:
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        where = " AND ".join(f"{column} = ?" for column in columns)
        self._db = db
        self._find = f"SELECT id FROM {table} WHERE {where}"  # noqa: S608 - names are ours
        self._add = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608
        self._known: dict[tuple[str, ...], int] = {}

    def of(self, *texts: str) -> int:
        """Return the number of ``texts``, a new one the first time."""
        known = self._known.get(texts)
        if known is not None:
            return known
        row = self._db.execute(self._find, texts).fetchone()
        number = int(row[0] if row else self._db.execute(self._add, texts).lastrowid or 0)
        if len(self._known) >= KEPT_STRINGS:
            self._known.clear()
        self._known[texts] = number
        return number
