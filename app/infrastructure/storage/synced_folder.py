"""A folder whose entries are made durable without a new descriptor, of which there may be none left."""

import os
import threading
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class SyncedFolder:
    """One folder, opened at its first use and then kept. Its calls may come from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._opened: list[int] = []

    def prepare(self) -> None:
        """Open it, so that a ``sync`` after it cannot fail for want of a descriptor.

        Raises ``OSError``.
        """
        if not self._opened:
            self._current()

    def sync(self) -> None:
        """Make its entries durable. Raises ``OSError``."""
        os.fsync(self._current())

    def close(self) -> None:
        """Let go of it. A later call opens it again."""
        with self._lock:
            while self._opened:
                os.close(self._opened.pop())

    def _current(self) -> int:
        with self._lock:
            there = self._path.lstat()
            if self._opened and os.path.samestat(os.fstat(self._opened[-1]), there):
                return self._opened[-1]
            # Another one lies in its place; the old one stays open, since a thread may be at it.
            self._opened.append(os.open(self._path, _FOLDER))
            return self._opened[-1]
