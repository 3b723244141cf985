"""How quick writes are: what decides whether the next one is made inline or in a thread."""

import structlog

log = structlog.get_logger(__name__)

SLOW_SECONDS = 0.02
QUICK_WRITES = 4
"""So many quick writes in a row, and writes are inline (again)."""
MOST_REMEMBERED = 1000


class WritePace:
    """What all the writes to one disk have shown.

    The disk has to have been quick in the last few writes, whoever made them, and the file in its
    own last ones: one file that stalls must not stall everybody again with each of its requests.
    """

    def __init__(self) -> None:
        self._quick_in_a_row = 0
        self._slow_files: dict[str, int] = {}

    def is_quick(self, file: str) -> bool:
        """Whether the next write to ``file`` may be made inline."""
        return self._quick_in_a_row >= QUICK_WRITES and file not in self._slow_files

    def note(self, file: str, seconds: float) -> None:
        """Take note of how long a write took."""
        if seconds <= SLOW_SECONDS:
            self._quick_in_a_row += 1
            if self._slow_files:
                self._note_quick(file)
            return
        if self.is_quick(file):
            log.info("upload.disk_slow", write_seconds=round(seconds, 3))
        self._quick_in_a_row = 0
        self._slow_files[file] = 0
        while len(self._slow_files) > MOST_REMEMBERED:
            del self._slow_files[next(iter(self._slow_files))]

    def _note_quick(self, file: str) -> None:
        if file not in self._slow_files:
            return
        self._slow_files[file] += 1
        if self._slow_files[file] >= QUICK_WRITES:
            del self._slow_files[file]
