"""Stopping a process where it stands, at a moment when it keeps nobody else from the database."""

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

TRIES = 200


def pause(pid: int, database: Path) -> None:
    """Stop a process by SIGSTOP, neither within a transaction nor within a sweep: whoever is stopped
    while it writes stops every other writer of an SQLite file, and a sweep keeps its lease.
    """
    for _ in range(TRIES):
        os.kill(pid, signal.SIGSTOP)
        _wait_until_stopped(pid)
        if _is_free(database):
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)
    raise AssertionError("it was always within a transaction or a sweep")


def _wait_until_stopped(pid: int) -> None:
    """Wait for all of its threads; ``t`` is one that a tracer has stopped."""
    until = time.monotonic() + 20
    while any(_state(thread) not in "Tt" for thread in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < until, "it did not stop"
        time.sleep(0.001)


def _state(thread: Path) -> str:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it has ended
        return "T"


def _is_free(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        held = connection.execute("SELECT 1 FROM leases WHERE name LIKE 'sweep:%'").fetchall()
        connection.rollback()
    return not held
