"""Every path that a process and all its children create, by strace: for a whole life or part by part."""

import re
from pathlib import Path

CREATING = "openat,openat2,open,creat,mkdir,mkdirat,mknod,mknodat,link,linkat,symlink,symlinkat"
RENAMING = "rename,renameat,renameat2"
_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) = (\d+)")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_UNFINISHED = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_PLACE = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
NO_FILES = ("/dev/", "/proc/", "/sys/")
IN_MEMORY = "/dev/shm/"
SANDBOX = "/newroot"
"""A root in memory that bubblewrap makes for one child."""

_MAKES = re.compile(r"O_CREAT|O_TMPFILE")
"""A spooled temporary file has no name: its place is the folder."""


class Creations:
    """Reads the trace of a server started with ``wrapper``, each line once.

    Left out are devices, and what a sandbox makes in a root of its own in memory: that is gone with
    it, but for the data bound into it.
    """

    def __init__(self, trace: Path) -> None:
        self._trace = trace
        self._read = 0
        self._begun: dict[str, str] = {}

    @property
    def wrapper(self) -> tuple[str, ...]:
        """What goes before the command. The tracer is the grandchild (-D), so that the server stays
        the process that was started; a second start adds to the trace (-A).
        """
        options = ("-D", "-f", "-qq", "-y", "-A", "-s", "4096", "--seccomp-bpf")
        return (
            "strace",
            *options,
            *("-o", str(self._trace), "-e", f"trace={CREATING},{RENAMING}"),
        )

    def take(self) -> set[str]:
        """Return the paths that were created since the last call."""
        paths = set()
        for line in self._calls():
            call = _CALL.match(line)
            if call is None or (call[1].startswith("open") and not _MAKES.search(call[2])):
                continue
            folder, name = _PLACE.findall(call[2])[-1]
            path = name if name.startswith("/") else f"{folder}/{name}"
            if path.startswith(IN_MEMORY) or not path.startswith((*NO_FILES, SANDBOX)):
                paths.add(path)
        return paths

    def _calls(self) -> list[str]:
        """The whole lines that are new, calls that other threads interrupted put together again."""
        lines = []
        for line in self._new_lines():
            if found := _UNFINISHED.match(line):
                self._begun[found[1]] = found[2]
            elif found := _RESUMED.match(line):
                lines.append(f"{found[1]} {self._begun.pop(found[1], '')}{found[2]}")
            else:
                lines.append(line)
        return lines

    def _new_lines(self) -> list[str]:
        if not self._trace.exists():
            return []
        with self._trace.open("rb") as trace:
            trace.seek(self._read)
            data = trace.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.decode(errors="replace").splitlines()
