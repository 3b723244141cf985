"""What a server costs: processor time and memory of its whole process tree, from /proc."""

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def tree(pid: int) -> Iterator[int]:
    """Yield ``pid`` and all that descend from it."""
    yield pid
    try:
        tasks = list((_PROC / str(pid) / "task").iterdir())
    except OSError:
        return
    for task in tasks:
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from tree(int(child))


def cpu_seconds(pid: int) -> float:
    """Return user and system seconds of the tree so far, ended children included."""
    total = 0
    for each in tree(pid):
        try:
            fields = (_PROC / str(each) / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / _TICKS


def forget_peak(pid: int) -> None:
    """Let ``peak_mebibytes`` begin anew."""
    for each in tree(pid):
        try:
            (_PROC / str(each) / "clear_refs").write_text("5")
        except OSError:
            continue


def resident_mebibytes(pid: int) -> float:
    return _status(pid, "VmRSS:")


def peak_mebibytes(pid: int) -> float:
    return _status(pid, "VmHWM:")


def _status(pid: int, field: str) -> float:
    total = 0
    for each in tree(pid):
        try:
            lines = (_PROC / str(each) / "status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(field))
    return total / 1024
