"""Writes a backup of a data folder to standard output as a tar file, beside the running service.

python3 scripts/backup.py data > tidemill.tar
docker compose exec -T tidemill python - /data < scripts/backup.py > tidemill.tar

Needs nothing but Python 3.11. Exit codes: 0 done, 1 it cannot be read, 2 wrong command line.
"""

import argparse
import io
import os
import resource
import sqlite3
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

MARKER, DATABASE = "instance.json", "tidemill.db"
FOLDERS = ("uploads", "outputs")
"""What is in work/ is made anew, and run/ is of the living processes."""


class Backup:
    """One backup. Files are opened before the rows are read, and those that came meanwhile after.

    So every file that a saved row speaks of is held open at that moment, and one that is deleted
    later is saved all the same. Uploads only grow: what came after the rows is more, never wrong.
    """

    def __init__(self, folder: Path, database: Path) -> None:
        self._folder = folder
        self._database = database
        self._files: dict[str, BinaryIO] = {}

    def write(self, target: BinaryIO) -> tuple[int, int]:
        """Write all of it; return the number of files and their bytes, without the database."""
        self._open_new_files()
        try:
            rows = self._copy_database()
            self._open_new_files()
            marker = (self._folder / MARKER).read_bytes()
            with tarfile.open(fileobj=target, mode="w|") as tar:
                self._add(tar, MARKER, io.BytesIO(marker), len(marker))
                self._add(tar, DATABASE, io.BytesIO(rows), len(rows))
                total = sum(self._add_file(tar, name) for name in sorted(self._files))
            return len(self._files), total
        finally:
            for file in self._files.values():
                file.close()

    def _open_new_files(self) -> None:
        for name in self._names():
            # One that is gone again belongs to no row that is saved.
            with suppress(FileNotFoundError):
                self._files[name] = (self._folder / name).open("rb")

    def _names(self) -> Iterator[str]:
        for folder in FOLDERS:
            for entry in sorted(os.scandir(self._folder / folder), key=lambda each: each.name):
                name = f"{folder}/{entry.name}"
                if entry.is_file(follow_symlinks=False) and name not in self._files:
                    yield name

    def _copy_database(self) -> bytes:
        """Return the database as it is at one moment, without its WAL."""
        source = sqlite3.connect(f"{self._database.as_uri()}?mode=rw", uri=True, timeout=30)
        with closing(source), closing(sqlite3.connect(":memory:")) as copy:
            source.backup(copy)
            return copy.serialize()

    def _add_file(self, tar: tarfile.TarFile, name: str) -> int:
        file = self._files[name]
        size = os.fstat(file.fileno()).st_size
        self._add(tar, name, file, size)
        return size

    @staticmethod
    def _add(tar: tarfile.TarFile, name: str, content: BinaryIO, size: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        entry.mtime = int(time.time())
        if isinstance(content, io.BufferedReader):
            entry.mtime = int(os.fstat(content.fileno()).st_mtime)
        tar.addfile(entry, content)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the data folder, TIDEMILL_DATA_DIR")
    parser.add_argument("--database", type=Path, help="where TIDEMILL_DATABASE_URL has moved it")
    given = parser.parse_args()
    folder = given.folder.absolute()
    if sys.stdout.isatty():
        parser.error("the backup goes to standard output: add > tidemill.tar")
    # Every file is held open for a while.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        database = (given.database or folder / DATABASE).absolute()
        count, size = Backup(folder, database).write(sys.stdout.buffer)
        sys.stdout.flush()
    except (OSError, sqlite3.Error, tarfile.TarError) as error:
        print(f"backup: {folder}: {error}. This backup is of no use.", file=sys.stderr)
        return 1
    print(f"Saved the database and {count} files of {size} bytes.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
