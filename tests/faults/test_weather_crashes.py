"""The order in which things become durable, and machines that crash and keep only that."""

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import Server, strace, wait_for
from tests.e2e.wire import SlowPatch, create, offset_of, patch

BODY = os.urandom(600_000)
FIRST, SECOND = 200_000, 400_000
MODES = ("patch", "complete", "off")
MakeServer = Callable[..., Server]


@dataclass(frozen=True)
class Trace:
    """The system calls of a server that matter here, in the order in which they came to their end."""

    lines: list[str]

    def at(self, pattern: str) -> list[int]:
        return [number for number, line in enumerate(self.lines) if re.search(pattern, line)]

    def answer(self, status: int) -> int:
        """Where an answer's first bytes leave: it has begun by then, whenever the call ends."""
        (found,) = self.at(rf"socket:.*HTTP/1\.1 {status} ")
        return found

    def commits(self) -> list[int]:
        return self.at(r"f(data)?sync\(\d+<[^>]*tidemill\.db-wal>")

    def data_syncs(self, path: str) -> list[int]:
        return self.at(rf"f(data)?sync\(\d+<[^>]*/uploads/{path.rsplit('/', 1)[-1]}>")

    def folder_syncs(self) -> list[int]:
        return self.at(r"fsync\(\d+<[^>]*/uploads>")


@contextmanager
def traced(server: Server, log: Path) -> Iterator[Callable[[], Trace]]:
    """Trace the server inside the block; what it did is to be asked for behind it."""
    calls = "trace=fsync,fdatasync,write,writev,sendto,sendmsg"
    options = ("-o", str(log), "-y", "-s", "40", "-e", calls)
    with strace(server.pid, *options, log=log.with_suffix(".messages")):
        yield lambda: _read(log)


def _read(log: Path) -> Trace:
    """Put each call where it ended; a write to a socket where it began, for it may be seen then."""
    lines, begun = [], {}
    for line in log.read_text(errors="replace").splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            if "socket:" in call:
                lines.append(call)
            else:
                begun[thread] = call
        elif call.startswith("<..."):
            if thread in begun:
                lines.append(begun.pop(thread))
        else:
            lines.append(call)
    return Trace(lines)


def _traced_create(server: Server, api: httpx.Client, log: Path) -> tuple[str, bool]:
    """Create an upload; return its path, and whether its row was on the disk before the answer."""
    with traced(server, log) as trace:
        path = create(api, len(BODY))
        wait_for(lambda: trace().at(r"HTTP/1\.1 201 "), "the answer in the trace")
        seen = trace()
    return path, any(at < seen.answer(201) for at in seen.commits())


def _traced_patch(
    server: Server, api: httpx.Client, path: str, part: tuple[int, int], log: Path
) -> tuple[Trace, int]:
    with traced(server, log) as trace:
        answer = patch(api, path, part[0], BODY[part[0] : part[1]])
        assert answer.status_code == 204
        wait_for(lambda: trace().at(r"HTTP/1\.1 204 "), "the answer in the trace")
        seen = trace()
    return seen, seen.answer(204)


def _file(server: Server, path: str) -> Path:
    return server.data / "uploads" / path.rsplit("/", 1)[-1]


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_leaves_only_when_what_its_mode_promises_is_on_the_disk(
    make_server: MakeServer, tmp_path: Path, mode: str
) -> None:
    server = make_server({"FSYNC": mode}).start()
    with server.client() as api:
        path, was_durable = _traced_create(server, api, tmp_path / "create.trace")
        assert was_durable or mode == "off"
        part, rest = (0, FIRST), (FIRST, len(BODY))
        seen, answered = _traced_patch(server, api, path, part, tmp_path / "part.trace")
        if mode == "patch":
            _assert_in_order(seen, path, answered)
        else:
            assert not seen.data_syncs(path)
        seen, answered = _traced_patch(server, api, path, rest, tmp_path / "rest.trace")
        if mode == "off":
            assert not seen.data_syncs(path)
            assert not seen.folder_syncs()
        else:
            _assert_in_order(seen, path, answered)
        assert api.get(path).content == BODY


def _assert_in_order(seen: Trace, path: str, answered: int) -> None:
    """First the bytes and their file's entry, then the row that counts on them, then the answer."""
    data, folder = seen.data_syncs(path), seen.folder_syncs()
    assert data, "the bytes were not synced"
    assert folder, "the entry of the file was not synced"
    safe = max(data[0], folder[0])
    assert any(safe < at < answered for at in seen.commits()), "the row was told before, or late"


def _lose_what_was_not_synced(server: Server, path: str) -> int:
    """Do to a stopped server's upload what a crash of the machine may do; return what is safe."""
    upload_id = path.rsplit("/", 1)[-1]
    with closing(sqlite3.connect(server.data / "tidemill.db")) as db, db:
        query = "SELECT synced_offset FROM uploads WHERE id = ?"
        ((synced,),) = db.execute(query, (upload_id,)).fetchall()
        db.execute("UPDATE uploads SET boot_id = 'the boot before'")
    file = _file(server, path)
    size = file.stat().st_size
    with file.open("r+b") as stored:
        # Pages that were never written come back as zeros, and the length may be anything.
        stored.seek(synced)
        stored.write(bytes(size - synced + 5000))
    return int(synced)


@pytest.mark.parametrize("mode", MODES)
def test_a_kill_costs_nothing_that_came_and_a_crash_of_the_machine_only_what_was_not_promised(
    make_server: MakeServer, mode: str
) -> None:
    server = make_server({"FSYNC": mode}).start()
    with server.client() as api:
        path = create(api, len(BODY))
        assert patch(api, path, 0, BODY[:FIRST]).status_code == 204
        with SlowPatch(server.port, path, FIRST, len(BODY) - FIRST) as under_way:
            under_way.send(BODY[FIRST:SECOND])
            wait_for(lambda: _file(server, path).stat().st_size == SECOND, "the second part")
            server.kill()
    assert _file(server, path).read_bytes() == BODY[:SECOND]
    safe = SECOND
    if mode != "off":  # then nothing is promised, and nothing is known of what was lost
        safe = _lose_what_was_not_synced(server, path)
        assert safe == (FIRST if mode == "patch" else 0)
    server.start()
    with server.client() as api:
        assert offset_of(api, path) == safe
        assert _file(server, path).read_bytes() == BODY[:safe]
        assert patch(api, path, safe, BODY[safe:]).status_code == 204
        assert api.get(path).content == BODY
