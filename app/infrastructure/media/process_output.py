"""What a child process wrote: the last part of its stderr, without paths; and whether it lives."""

import os
import re
from collections import deque
from pathlib import Path

KEPT_BYTES = 16 * 1024
SHOWN_LINES = 20

_PATH = re.compile(r"(?:file:)?(?<![\w.])/(?:[^\s'\",:;()\[\]]+)")
_ADDRESS = re.compile(r" @ 0x[0-9a-f]+")

_SESSION, _UTIME, _STIME = 3, 11, 12
"""Fields of /proc/<pid>/stat, counted from the one after the command's name."""


class BoundedTail:
    """Keeps the last bytes of an endless stream."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._pieces: deque[bytes] = deque()
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._pieces.append(data[-self._kept_bytes :])
        self._size += len(self._pieces[-1])
        while self._size - len(self._pieces[0]) >= self._kept_bytes:
            self._size -= len(self._pieces.popleft())

    def text(self) -> str:
        return b"".join(self._pieces)[-self._kept_bytes :].decode(errors="replace")


def hide_paths(text: str) -> str:
    """Return the last lines of ``text`` with every path and memory address taken out."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(_ADDRESS.sub("", _PATH.sub("<file>", line)) for line in lines[-SHOWN_LINES:])


def activity(session: int) -> int:
    """Return a figure that grows while any process of ``session`` computes, reads or writes.

    The sum of clock ticks and of bytes through system calls over its processes; blocking for a
    moment, since it looks through /proc. It may also shrink, when one of them ends.
    """
    total = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            if int(fields[_SESSION]) != session:
                continue
            total += int(fields[_UTIME]) + int(fields[_STIME])
            io = Path(entry.path, "io").read_text()
        except OSError:
            continue
        counters = dict(line.split(": ") for line in io.splitlines())
        total += int(counters["rchar"]) + int(counters["wchar"])
    return total
