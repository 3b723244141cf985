"""Runs of FFmpeg over many hostile files under one trace, with a loopback server that counts."""

import http.server
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.hostile import LURES, Bait, Lure

CLIP_NAME = "0123456789abcdef0123456789abcdef"
WATCHED = "trace=open,openat,openat2,connect,bind,sendto"
PATIENCE = 5
"""Seconds: a session description makes FFmpeg wait for packets."""
NAMES_SERVICE = 'sun_path="/var/run/nscd/socket"'
"""Where the C library asks who the user is; a shell without HOME or SHELL in its environment does."""


class Loopback(http.server.ThreadingHTTPServer):
    """Answers every page with the clip, and remembers which were asked for."""

    def __init__(self, clip: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.clip = clip
        self.asked: list[str] = []
        self.connections = 0


class _Page(http.server.BaseHTTPRequestHandler):
    server: Loopback

    def setup(self) -> None:
        self.server.connections += 1
        super().setup()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.clip)))
        self.end_headers()
        self.wfile.write(self.server.clip)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name is given
        """Say nothing."""


@contextmanager
def loopback(clip: bytes) -> Iterator[Loopback]:
    """Serve on 127.0.0.1 for the length of the block."""
    with Loopback(clip) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Laid:
    """One lure laid out in a folder of its own, with its bait beside it."""

    lure: Lure
    bait: Bait
    folder: Path


def lay(root: Path, clip: bytes, port: int, lures: Sequence[Lure] = LURES) -> list[Laid]:
    """Write each lure as a job's input, and each bait as another tenant's film."""
    laid = []
    for number, lure in enumerate(lures):
        folder = root / f"job{number}"
        folder.mkdir(parents=True)
        bait = lure.bait(folder, port)
        bait.path.write_bytes(clip)
        (folder / CLIP_NAME).write_bytes(lure.write(bait, clip))
        laid.append(Laid(lure, bait, folder))
    return laid


def traced(
    root: Path,
    commands: Sequence[tuple[Path, Sequence[str]]],
    *,
    patience: int = PATIENCE,
    out: Path = Path("/dev/null"),
) -> str:
    """Run each command in its folder, all under one trace, two at a time; return the trace.

    Each for ``patience`` seconds at most, and what they say goes to ``out``.
    """
    script, trace = root / "commands.sh", root / "trace"
    lines = [
        f"cd {shlex.quote(str(folder))} && timeout {patience} {shlex.join(map(str, command))}"
        for folder, command in commands
    ]
    script.write_text(
        "".join(
            f"({line}) </dev/null >>{shlex.quote(str(out))} 2>&1 &\nwait_for_one\n"
            for line in lines
        )
    )
    gate = 'wait_for_one() { [ "$(jobs -rp | wc -l)" -lt 3 ] || wait -n; }\n'
    script.write_text(gate + script.read_text() + "wait\n")
    tracing = ["strace", "-f", "-qq", "-s", "300", "--seccomp-bpf", "-e", WATCHED, "-o", str(trace)]
    subprocess.run([*tracing, "bash", str(script)], check=True, timeout=patience + 110, cwd=root)
    return trace.read_text(errors="replace")


def connections(trace: str) -> list[str]:
    """The lines of ``trace`` in which a process reached out, to whatever but the machine's names."""
    lines = trace.splitlines()
    return [line for line in lines if "connect(" in line and NAMES_SERVICE not in line]
