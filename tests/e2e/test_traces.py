"""Every path that the server and its children ever create lies below the data folder."""

import re
from collections.abc import Callable
from pathlib import Path

from app.domain.layout import UPLOADS, WORK
from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import await_job, open_session, upload

CREATING = "openat,openat2,open,creat,mkdir,mkdirat,mknod,mknodat,link,linkat,symlink,symlinkat"
RENAMING = "rename,renameat,renameat2"
_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) = (\d+)")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_UNFINISHED = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_PLACE = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
NO_FILES = ("/dev/", "/proc/", "/sys/")
SANDBOX = "/newroot"
"""A root in memory that bubblewrap makes for one child."""

_MAKES = re.compile(r"O_CREAT|O_TMPFILE")
"""A spooled temporary file has no name: its place is the folder."""


def _calls(trace: Path) -> list[str]:
    """The lines of a trace, calls that other threads interrupted put together again."""
    begun: dict[str, str] = {}
    lines = []
    for line in trace.read_text(errors="replace").splitlines():
        if found := _UNFINISHED.match(line):
            begun[found[1]] = found[2]
        elif found := _RESUMED.match(line):
            lines.append(f"{found[1]} {begun.pop(found[1], '')}{found[2]}")
        else:
            lines.append(line)
    return lines


def _created(trace: Path) -> set[str]:
    paths = set()
    for line in _calls(trace):
        call = _CALL.match(line)
        if call is None or (call[1] in {"open", "openat"} and not _MAKES.search(call[2])):
            continue
        folder, name = _PLACE.findall(call[2])[-1]
        paths.add(name if name.startswith("/") else f"{folder}/{name}")
    return paths


def test_nothing_is_ever_created_outside_the_data_folder(
    make_server: Callable[..., Server], short_clip: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    # -D: the tracer is the grandchild, and the server stays the process that was started.
    tracing = ("strace", "-D", "-f", "-qq", "-y", "-s", "4096", "--seccomp-bpf", "-o", str(trace))
    server = make_server(wrapper=(*tracing, "-e", f"trace={CREATING},{RENAMING}")).start()
    then = {"operation": "trim", "params": {"start": 0.5, "end": 1.5}}
    with server.client() as api:
        session_id = open_session(api, expected_files=1, then=then)
        finished = upload(api, short_clip.read_bytes(), filename="a.mp4", session=session_id)
        job = await_job(api, finished.headers["tidemill-job"])
        assert job["status"] == "completed", job
        assert api.get(job["outputs"][0]["url"]).is_success
        assert api.get("/metrics").is_success
        assert api.get("/docs").is_success
    server.stop()
    wait_for(lambda: f"{server.data}/outputs/" in trace.read_text(errors="replace"), "the trace")
    # What a sandbox makes in its own root in memory is gone with it, but for the data bound into it.
    created = {path for path in _created(trace) if not path.startswith((*NO_FILES, SANDBOX))}
    inside = {path for path in created if path.startswith(f"{server.data}")}
    assert any(f"/{UPLOADS}/" in path for path in inside)
    assert any(f"/{WORK}/" in path for path in inside)
    assert created - inside == set()
