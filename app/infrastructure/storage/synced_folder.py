"""A folder that stays open: its files are reached in one step, and its entries are made durable
without a new descriptor, of which there may be none left.
"""

import os
import threading

from app.infrastructure.storage.paths import DataFolder


class SyncedFolder:
    """One folder of the data folder, opened at its first use and then kept.

    Its calls may come from any thread. With each it is looked at whether the folder in its place is
    still the one that is open, so a link or a mount in its place is met like at the first time.
    """

    def __init__(self, folder: DataFolder, name: str) -> None:
        self._folder = folder
        self._name = name
        self._path = str(folder.root / name)
        self._lock = threading.Lock()
        # The newest last, each with the device and inode that it has for as long as it is open.
        self._opened: list[tuple[int, int, int]] = []

    def descriptor(self) -> int:
        """Return a descriptor of the folder, for ``dir_fd``; it is ours to close.

        Raises ``OSError``, and ``StorageFailed`` for a folder on another file system.
        """
        there = os.lstat(self._path)
        if self._opened:
            descriptor, device, inode = self._opened[-1]
            if (there.st_dev, there.st_ino) == (device, inode):
                return descriptor
        # Another one lies in its place; the old one stays open, since a thread may be at it.
        return self._open()

    def sync(self) -> None:
        """Make its entries durable. Raises ``OSError``."""
        os.fsync(self.descriptor())

    def close(self) -> None:
        """Let go of it. A later call opens it again."""
        with self._lock:
            while self._opened:
                os.close(self._opened.pop()[0])

    def _open(self) -> int:
        with self._lock, self._folder.open_folder(self._name) as found:
            status = os.fstat(found)
            kept = os.dup(found)
            self._opened.append((kept, status.st_dev, status.st_ino))
            return kept
