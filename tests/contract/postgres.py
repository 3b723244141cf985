"""A private Postgres for the tests: its own cluster, on a socket of its own, gone afterwards."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

USER = "tidemill"
_START_SECONDS = 30.0
_STOP_SECONDS = 15.0
_MISSING = (
    "these tests need a real Postgres, and there is no initdb on PATH or below /usr/lib/postgresql:"
    " apt-get install postgresql"
)
# Nothing here has to survive the machine, so it need not wait for the disk.
_OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "autovacuum": "off",
}


class Cluster:
    """A running cluster. ``url(name)`` is the address of one of its databases."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self._folder}"

    def execute(self, statement: str) -> None:
        """Run one statement outside any transaction, in the maintenance database."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Make a cluster, run it, and leave nothing behind. Fails where Postgres is not installed."""
    programs = _find_programs()
    # Not below pytest's folder: Postgres will not run as root, and no one else may look in there.
    # Short, too: the path of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="tidemill-pg-"))
    user = _unprivileged_user()
    if user is not None:
        os.chown(folder, user, -1)
    try:
        with _server(programs, folder, user):
            yield Cluster(folder)
    finally:
        shutil.rmtree(folder)


def _find_programs() -> Path:
    found = shutil.which("initdb")
    if found is not None:
        # A link in a general folder leads to where its siblings are.
        return Path(found).resolve().parent
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if not versions:
        pytest.fail(_MISSING, pytrace=False)
    return versions[-1].parent


def _unprivileged_user() -> int | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    return known.get("postgres", known.get("nobody"))


@contextmanager
def _server(programs: Path, folder: Path, user: int | None) -> Iterator[None]:
    data = folder / "data"
    flags = ("-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
    made = subprocess.run(
        (programs / "initdb", "-D", data, *flags),
        user=user,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_START_SECONDS,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    options = [f"-c{name}={value}" for name, value in _OPTIONS.items()]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, f"-k{folder}", *options],
            user=user,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_it_answers(Cluster(folder), process, log)
        yield
    finally:
        # The immediate shutdown: its files are about to be removed anyway.
        process.send_signal(signal.SIGQUIT)
        process.wait(_STOP_SECONDS)


def _wait_until_it_answers(cluster: Cluster, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            cluster.execute("SELECT 1")
        except psycopg.OperationalError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return
