"""The order in which things become durable, and machines that crash and keep only that."""

import base64
import hashlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import Server, strace, wait_for
from tests.e2e.wire import PATCH_TYPE, TUS, SlowPatch, create, offset_of, patch

BODY = os.urandom(600_000)
FIRST, SECOND = 200_000, 400_000
MODES = ("patch", "complete", "off")
MakeServer = Callable[..., Server]


@dataclass(frozen=True)
class Call:
    """A system call, and its place among all others at its beginning and at its end."""

    text: str
    begun: int
    ended: int


@dataclass(frozen=True)
class Trace:
    """The system calls of a server that matter here."""

    calls: list[Call]

    def at(self, pattern: str) -> list[Call]:
        return [call for call in self.calls if re.search(pattern, call.text)]

    def answers(self) -> list[Call]:
        """Where the first bytes of answers leave: they are on their way once that has begun."""
        return self.at(r"socket:.*HTTP/1\.1 [2-5]")

    def row_writes(self) -> list[Call]:
        return self.at(r"^p?write\w*\(\d+<[^>]*tidemill\.db-wal>")

    def row_syncs(self) -> list[Call]:
        return self.at(r"^f(data)?sync\(\d+<[^>]*tidemill\.db-wal>")

    def data_writes(self, path: str) -> list[Call]:
        # A copy names its source first.
        write = r"^(p?write\w*\(|ftruncate\(|copy_file_range\([^)]*\], )"
        return self.at(rf"{write}\d+<[^>]*/uploads/{_id(path)}>")

    def data_syncs(self, path: str) -> list[Call]:
        return self.at(rf"^f(data)?sync\(\d+<[^>]*/uploads/{_id(path)}>")

    def births(self, path: str) -> list[Call]:
        """Where the file was made."""
        return self.at(rf'^openat\(.*"{_id(path)}", [^,]*O_EXCL.* = \d')

    def folder_syncs(self) -> list[Call]:
        return self.at(r"^fsync\(\d+<[^>]*/uploads>")


def _id(path: str) -> str:
    return path.rsplit("/", 1)[-1]


@contextmanager
def traced(server: Server, log: Path) -> Iterator[Callable[[], Trace]]:
    """Trace the server inside the block; what it did is to be asked for behind it. Each sync takes
    long, so that what does not wait for it is seen before it.
    """
    kinds = "fsync,fdatasync,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,openat"
    calls = f"trace={kinds},ftruncate,copy_file_range"
    slow = "inject=fsync,fdatasync:delay_enter=20000"
    options = ("-o", str(log), "-y", "-s", "40", "-e", calls, "-e", slow)
    with strace(server.pid, *options, log=log.with_suffix(".messages")):
        yield lambda: _read(log)


def _read(log: Path) -> Trace:
    calls: list[Call] = []
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(log.read_text(errors="replace").splitlines()):
        thread, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[thread] = (number, text.removesuffix("<unfinished ...>"))
        elif text.startswith("<..."):
            if thread in begun:
                at, beginning = begun.pop(thread)
                calls.append(Call(beginning + text.partition("resumed>")[2], at, number))
        else:
            calls.append(Call(text, number, number))
    never = len(calls) + len(begun) + 10**9
    calls += [Call(text, at, never) for at, text in begun.values()]
    return Trace(sorted(calls, key=lambda call: call.begun))


def _file(server: Server, path: str) -> Path:
    return server.data / "uploads" / path.rsplit("/", 1)[-1]


# --- what an answer promises ---------------------------------------------------------------------

Act = Callable[[], httpx.Response]


@dataclass(frozen=True)
class Sender:
    """A client of a server, with the first steps of each way in which bytes are acknowledged. Each
    returns the request that is to be looked at, and the upload's path where it has one already.
    """

    server: Server
    api: httpx.Client

    def _patch(self, path: str, begin: int, end: int, **headers: str) -> Act:
        sent = TUS | PATCH_TYPE | {"Upload-Offset": str(begin)} | headers
        return lambda: self.api.patch(path, headers=sent, content=BODY[begin:end])

    def _post(self, content: bytes | None = None, **headers: str) -> Act:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = TUS | (PATCH_TYPE if content else {}) | named
        return lambda: self.api.post("/files/", headers=sent, content=content)

    def _begun(self, **headers: str) -> str:
        answer = self._post(None, Upload_Length=str(len(BODY)), **headers)()
        path = str(answer.headers["location"])
        assert self._patch(path, 0, FIRST)().status_code == 204
        return path

    def patch_first(self) -> tuple[Act, str]:
        path = create(self.api, len(BODY))
        return self._patch(path, 0, FIRST), path

    def patch_next(self) -> tuple[Act, str]:
        path = self._begun()
        return self._patch(path, FIRST, SECOND), path

    def patch_last(self) -> tuple[Act, str]:
        path = self._begun()
        return self._patch(path, FIRST, len(BODY)), path

    def patch_all(self) -> tuple[Act, str]:
        path = create(self.api, len(BODY))
        return self._patch(path, 0, len(BODY)), path

    def checked_patch_next(self) -> tuple[Act, str]:
        path = self._begun()
        return self._patch(path, FIRST, SECOND, **_checksum(BODY[FIRST:SECOND])), path

    def checked_patch_last(self) -> tuple[Act, str]:
        path = self._begun()
        return self._patch(path, FIRST, len(BODY), **_checksum(BODY[FIRST:])), path

    def creation_with_the_first_bytes(self) -> tuple[Act, str]:
        return self._post(BODY[:FIRST], Upload_Length=str(len(BODY))), ""

    def creation_with_all_bytes(self) -> tuple[Act, str]:
        return self._post(BODY, Upload_Length=str(len(BODY))), ""

    def creation_of_no_bytes(self) -> tuple[Act, str]:
        return self._post(Upload_Length="0"), ""

    def last_bytes_of_a_part(self) -> tuple[Act, str]:
        path = self._begun(Upload_Concat="partial")
        return self._patch(path, FIRST, len(BODY)), path

    def final(self) -> tuple[Act, str]:
        parts = []
        for _ in range(2):
            path = self._begun(Upload_Concat="partial")
            assert self._patch(path, FIRST, len(BODY))().status_code == 204
            parts.append(path)
        return self._post(Upload_Concat=f"final;{' '.join(parts)}"), ""

    def _lost_completion(self) -> str:
        """All bytes are there as after a kill right behind the last write; nobody has synced them."""
        path = create(self.api, len(BODY))
        _file(self.server, path).write_bytes(BODY)
        return path

    def head_that_completes(self) -> tuple[Act, str]:
        path = self._lost_completion()
        return lambda: self.api.head(path, headers=TUS), path

    def empty_patch_that_completes(self) -> tuple[Act, str]:
        path = self._lost_completion()
        return self._patch(path, len(BODY), len(BODY)), path


def _checksum(data: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return {"Upload-Checksum": f"sha256 {digest}"}


UNFINISHED = (
    Sender.patch_first,
    Sender.patch_next,
    Sender.checked_patch_next,
    Sender.creation_with_the_first_bytes,
)
WHOLE = (
    Sender.patch_last,
    Sender.patch_all,
    Sender.checked_patch_last,
    Sender.creation_with_all_bytes,
    Sender.creation_of_no_bytes,
    Sender.last_bytes_of_a_part,
    Sender.final,
    Sender.head_that_completes,
    Sender.empty_patch_that_completes,
)


NO_BYTES_COME = (
    Sender.creation_of_no_bytes,
    Sender.head_that_completes,
    Sender.empty_patch_that_completes,
)
MAKE_A_FILE = (
    Sender.patch_first,
    Sender.patch_all,
    Sender.creation_with_the_first_bytes,
    Sender.creation_with_all_bytes,
    Sender.creation_of_no_bytes,
    Sender.final,
)


@pytest.fixture(scope="module")
def server_of(make_own_server: MakeServer) -> Callable[[str], Server]:
    """The servers of all tests that only look, one for each mode."""
    return cache(lambda mode: make_own_server({"FSYNC": mode, "WORKERS": 0}).start())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", [*UNFINISHED, *WHOLE], ids=lambda way: way.__name__)
def test_an_answer_leaves_only_when_what_its_mode_promises_is_on_the_disk(
    server_of: Callable[[str], Server],
    tmp_path: Path,
    mode: str,
    way: Callable[[Sender], tuple[Act, str]],
) -> None:
    server = server_of(mode)
    with server.client() as api:
        act, path = way(Sender(server, api))
        with traced(server, tmp_path / "calls") as trace:
            answer = act()
            assert answer.is_success, answer.text
            wait_for(lambda: trace().answers(), "the answer in the trace")
        path = path or answer.headers["location"]
        seen = trace()
        assert bool(seen.data_writes(path)) == (way not in NO_BYTES_COME)
        assert bool(seen.births(path)) == (way in MAKE_A_FILE)
        if mode == "off":
            assert not seen.data_syncs(path)
            assert not seen.folder_syncs()
        elif mode == "patch" or way in WHOLE:
            _assert_in_order(seen, path)
        else:
            assert not seen.data_syncs(path)
            assert not seen.folder_syncs()


def _assert_in_order(seen: Trace, path: str) -> None:
    """First the bytes and their file's entry, then the row that counts on them, then the answer."""
    (answer,) = seen.answers()
    written = max((call.ended for call in seen.data_writes(path)), default=-1)
    data = [call.ended for call in seen.data_syncs(path) if call.begun > written]
    assert data, "the bytes were not synced after their last write"
    born = max((call.ended for call in seen.births(path)), default=-1)
    folder = [call.ended for call in seen.folder_syncs() if call.begun > born]
    assert folder, "the entry of the file was not synced after it was made"
    safe = max(data[0], folder[0])
    rows = [call.ended for call in seen.row_writes() if call.begun > safe]
    assert rows, "the row was told before"
    synced = [call.ended for call in seen.row_syncs() if call.begun > rows[0]]
    assert synced, "the row was not synced"
    assert synced[0] < answer.begun, "the answer was quicker than the row"


@pytest.mark.parametrize("mode", MODES)
def test_a_created_upload_has_its_row_on_the_disk_before_the_answer(
    server_of: Callable[[str], Server], tmp_path: Path, mode: str
) -> None:
    server = server_of(mode)
    with server.client() as api:
        with traced(server, tmp_path / "calls") as trace:
            create(api, len(BODY))
            wait_for(lambda: trace().answers(), "the answer in the trace")
        (answer,) = trace().answers()
        assert mode == "off" or any(call.ended < answer.begun for call in trace().row_syncs())


# --- machines that crash -------------------------------------------------------------------------


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
