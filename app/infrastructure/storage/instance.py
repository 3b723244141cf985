"""Whose folder this is: the marker that must match the database, and the lock of a start."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from app.domain.ids import is_id, new_id
from app.domain.layout import CACHE, MARKER, OUTPUTS, RUN, UPLOADS, WORK
from app.infrastructure.storage.paths import DataFolder, StartRefused

__all__ = ["Instance", "StartRefused", "check_instance", "read_marker", "startup_lock"]

FORMAT = 1
"""The version of the folder's layout; a newer one than ours is refused."""
LARGEST_MARKER = 64 * 1024
_POLL_SECONDS = 0.05
_RECIPE = (
    "Stop every Tidemill process, then restore the data folder and the database from the same "
    "backup, or point TIDEMILL_DATA_DIR and TIDEMILL_DATABASE_URL at the pair that belongs together."
)


@dataclass(frozen=True, slots=True)
class Instance:
    """What the marker says: the id that folder and database share, and since when."""

    id: str
    created_at: str


def read_marker(folder: DataFolder) -> Instance | None:
    """Return the folder's marker, None when there is none.

    Raises ``StartRefused`` for a marker that cannot be read or is of a newer format.
    """
    path = folder.root / MARKER
    try:
        data = json.loads(_read(path))
        instance = Instance(id=data["instance"], created_at=data["created_at"])
        version = data["format"]
        is_valid = is_id(instance.id) and isinstance(version, int)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"The marker {path} cannot be read. {_RECIPE}"
        raise StartRefused(msg) from error
    if not is_valid:
        msg = f"The marker {path} is damaged. {_RECIPE}"
        raise StartRefused(msg)
    if version > FORMAT:
        msg = f"{folder.root} was written by a newer Tidemill (format {version}): start that one."
        raise StartRefused(msg)
    return instance


def check_instance(folder: DataFolder, database_id: str | None, *, now: datetime) -> str:
    """Return the id that folder and database share; the caller stores it in the database if new.

    A fresh pair gets a new id. The marker is written first: a crash before the database has the id
    leaves an empty, marked folder, and the next start takes up its id. Raises ``StartRefused`` when
    folder and database do not belong together. A repeat is harmless.
    """
    marker = read_marker(folder)
    if marker is None:
        if database_id is not None:
            msg = (
                f"The database belongs to instance {database_id}, but the folder {folder.root} has "
                f"no {MARKER}: it is not that instance's folder, or it was emptied. {_RECIPE}"
            )
            raise StartRefused(msg)
        with _refusing(folder.root):
            return _write_marker(folder, now)
    if database_id is None and _holds_files(folder):
        msg = (
            f"The folder {folder.root} holds files of instance {marker.id}, but the database is "
            f"fresh: its rows are missing, and without them nobody knows what the files are. "
            f"{_RECIPE}"
        )
        raise StartRefused(msg)
    if database_id is not None and database_id != marker.id:
        msg = (
            f"The folder {folder.root} belongs to instance {marker.id}, the database to instance "
            f"{database_id}. {_RECIPE}"
        )
        raise StartRefused(msg)
    return marker.id


def _read(path: Path) -> bytes:
    # Not blocking: to open a pipe that somebody put there would wait for its other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(LARGEST_MARKER)


@contextmanager
def startup_lock(folder: DataFolder, *, wait_seconds: float) -> Iterator[None]:
    """Hold the folder's lock for migration and start-up; blocking, so call it in a thread.

    Never held while serving: several processes and the command work on one folder. A lock dies with
    its process. Raises ``StartRefused`` after ``wait_seconds``.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with _refusing(folder.root):
        descriptor = os.open(folder.root / RUN / "start.lock", flags, 0o600)
    try:
        _lock(descriptor, folder.root, time.monotonic() + wait_seconds)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _refusing(root: Path) -> Iterator[None]:
    """Refuse the start on a folder that cannot be written."""
    try:
        yield
    except OSError as error:
        msg = f"The data folder {root} cannot be written: {error.strerror}."
        raise StartRefused(msg) from error


def _lock(descriptor: int, root: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                msg = f"Another process is starting on {root} and does not finish."
                raise StartRefused(msg) from error
            time.sleep(_POLL_SECONDS)
        else:
            return


def _holds_files(folder: DataFolder) -> bool:
    return any(
        names
        for name in (UPLOADS, WORK, OUTPUTS, CACHE)
        for _, _, names in os.walk(folder.root / name)
    )


def _write_marker(folder: DataFolder, now: datetime) -> str:
    """Write a new marker whole or not at all, and return its id."""
    instance_id = new_id()
    data = {"instance": instance_id, "created_at": now.isoformat(), "format": FORMAT}
    draft = folder.root / RUN / MARKER
    draft.unlink(missing_ok=True)  # what an earlier start left, or a link that somebody put there
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(json.dumps(data, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder.root / MARKER)
    descriptor = os.open(folder.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return instance_id
