"""A worker's sign of life on one host: a lock on a file under ``run/``, freed by the kernel."""

import fcntl
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from app.domain.errors import StorageFailed
from app.domain.ids import is_id

_PREFIX, _SUFFIX = "worker-", ".lock"
_ATTEMPTS = 100
"""Somebody who looks at the fresh file holds its lock for an instant; then we try again."""


class WorkerLock:
    """Held from ``acquire`` to ``release``, or until the process dies, however it dies."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, run_folder: Path, worker: str) -> "WorkerLock":
        """Make and lock the file of a worker id that is new. Raises StorageFailed."""
        path = _path(run_folder, worker)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            for _ in range(_ATTEMPTS):
                descriptor = os.open(path, flags, 0o600)
                if _lock(descriptor, fcntl.LOCK_EX) and _is_at(descriptor, path):
                    return cls(path, descriptor)
                os.close(descriptor)
        except OSError as error:
            raise StorageFailed("The worker's lock cannot be made.") from error
        raise StorageFailed("The worker's lock is held by another process.")

    def release(self) -> None:
        """Remove the file and let go; a repeat is harmless."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


class WorkerLocks:
    """Which workers of this host are alive (``ports.Workers``)."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder

    def is_alive(self, worker: str) -> bool:
        try:
            path = _path(self._folder, worker)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (OSError, ValueError):
            return False
        try:
            return not _lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def living(self) -> dict[str, datetime]:
        """Return the workers that are alive, each with the time of its start."""
        found = {}
        for path in sorted(self._folder.glob(f"{_PREFIX}*{_SUFFIX}")):
            worker = path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
            with suppress(OSError):
                if self.is_alive(worker):
                    # Never written to, so that it has changed when it was made.
                    found[worker] = datetime.fromtimestamp(path.lstat().st_mtime, UTC)
        return found

    def remove_stale(self) -> list[str]:
        removed = []
        for path in sorted(self._folder.glob(f"{_PREFIX}*{_SUFFIX}")):
            worker = path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
            if is_id(worker) and _remove_if_free(path):
                removed.append(worker)
        return removed


def _remove_if_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        # Under the lock, so that a worker that has just made it sees that its file is gone.
        if not _lock(descriptor, fcntl.LOCK_EX) or not _is_at(descriptor, path):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)


def _path(run_folder: Path, worker: str) -> Path:
    if not is_id(worker):
        msg = "a worker is named by an identifier"
        raise ValueError(msg)
    return run_folder / f"{_PREFIX}{worker}{_SUFFIX}"


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
