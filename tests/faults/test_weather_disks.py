"""Disks that err, are slow or take no byte more: refusals, true offsets, and a happy end."""

import os
import resource
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import shared_server
from tests.e2e.harness import Server, strace
from tests.e2e.wire import PATCH_TYPE, TUS, create, offset_of, patch
from tests.fakes.direct import Direct
from tests.fakes.served import settings_for
from tests.fakes.weather import assert_resumes

__all__ = ["shared_server"]

MIB = 1024 * 1024
BODY = os.urandom(2 * MIB)
FIRST = 300_000
WRITES = "pwritev,pwritev2,pwrite64,write,writev"


@dataclass(frozen=True)
class Begun:
    """An upload with its first bytes there."""

    server: Server
    api: httpx.Client
    path: str

    @property
    def file(self) -> Path:
        return self.server.data / "uploads" / self.path.rsplit("/", 1)[-1]

    def send_rest(self, offset: int = FIRST) -> httpx.Response:
        return patch(self.api, self.path, offset, BODY[offset:])

    def assert_prefix(self) -> int:
        """Check that what is told is there, and that it is what was sent; return how much it is."""
        offset = offset_of(self.api, self.path)
        assert self.file.read_bytes() == BODY[:offset]
        return offset

    def finish(self, offset: int) -> None:
        if offset < len(BODY):
            head = self.api.head(self.path, headers=TUS)
            assert "tidemill-batch" not in head.headers
            assert self.send_rest(offset).status_code == 204
        assert self.api.head(self.path, headers=TUS).headers["tidemill-batch"]
        assert self.file.read_bytes() == BODY


@pytest.fixture
def begun(shared_server: Server) -> Iterator[Begun]:
    with shared_server.client() as api:
        path = create(api, len(BODY))
        assert patch(api, path, 0, BODY[:FIRST]).status_code == 204
        yield Begun(shared_server, api, path)


NOTHING_MORE = (FIRST, FIRST)
NOTHING = (0, 0)
"""What there was before was not synced either, and the disk says that it may have lost it."""
SOME_MORE = (FIRST, len(BODY) - 1)


@pytest.mark.parametrize(
    ("fault", "status", "kept"),
    [
        (f"{WRITES}:error=EIO:when=2+", 500, SOME_MORE),
        (f"{WRITES}:error=EDQUOT:when=2+", 507, SOME_MORE),
        (f"{WRITES}:error=ENOSPC", 507, NOTHING_MORE),
        ("fdatasync,fsync:error=EIO", 500, NOTHING),
        ("fdatasync,fsync:error=ENOSPC", 507, NOTHING),
        ("openat:error=EIO", 500, NOTHING_MORE),
        ("openat:error=EIO:when=2+", 500, NOTHING_MORE),
        ("openat:error=EMFILE", 500, NOTHING_MORE),
        (f"{WRITES}:error=EINTR:when=1..2", 204, (len(BODY), len(BODY))),
    ],
)
def test_a_call_that_fails_is_told_and_costs_nothing_that_is_there(
    begun: Begun, tmp_path: Path, fault: str, status: int, kept: tuple[int, int]
) -> None:
    # Files are opened by their name below the folder, which is what strace sees of the call.
    place = begun.file.parent if fault.startswith("openat") else begun.file
    options = ("-P", str(place), "-e", f"inject={fault}")
    with strace(begun.server.pid, *options, log=tmp_path / "strace.log"):
        answer = begun.send_rest()
        assert answer.status_code == status, answer.text
        assert begun.api.get("/livez").status_code == 200
    offset = begun.assert_prefix()
    assert kept[0] <= offset <= kept[1]
    if "upload-offset" in answer.headers:
        assert int(answer.headers["upload-offset"]) == offset
    begun.finish(offset)


LOOKS = "newfstatat,fstatat64,statx,fstat,fstat64,openat"


@pytest.mark.parametrize("when", ["1", "2", "3", "4", "5", "1..5", "1+", "3+"])
def test_a_head_that_meets_a_disk_error_tells_the_offset_or_to_come_again(
    begun: Begun, tmp_path: Path, when: str
) -> None:
    """Any other answer would make clients begin again at byte 0."""
    fault = f"inject={LOOKS}:error=EIO:when={when}"
    # The file is looked at by its name below the folder, which is what strace sees of the call.
    options = ("-P", str(begun.file.parent), "-P", str(begun.file), "-e", fault)
    told: set[tuple[int, str | None]] = set()
    for attempt in range(3):
        with strace(begun.server.pid, *options, log=tmp_path / f"strace{attempt}.log"):
            answers = [begun.api.head(begun.path, headers=TUS) for _ in range(8)]
            assert begun.api.get("/livez").status_code == 200
        told = {(each.status_code, each.headers.get("upload-offset")) for each in answers}
        assert told <= {(423, None), (200, str(FIRST))}, told
        for each in answers:
            assert each.headers["tus-resumable"] == "1.0.0"
            assert each.headers["cache-control"] == "no-store"
            assert ("retry-after" in each.headers) == (each.status_code == 423)
        if (423, None) in told:
            break  # else a sweep that looked at the folder just then has met it
    assert (423, None) in told, "the fault was not met"
    assert ((200, str(FIRST)) in told) == (not when.endswith("+")), told
    begun.finish(begun.assert_prefix())


def test_what_was_refused_and_cannot_be_cut_off_does_not_count(
    begun: Begun, tmp_path: Path
) -> None:
    def too_much() -> Iterator[bytes]:
        yield BODY[FIRST:-1]
        yield b"and more than there may be"

    options = ("-P", str(begun.file), "-e", "inject=ftruncate:error=EIO")
    headers = TUS | PATCH_TYPE | {"Upload-Offset": str(FIRST)}
    with strace(begun.server.pid, *options, log=tmp_path / "strace.log"):
        answer = begun.api.patch(begun.path, headers=headers, content=too_much())
    assert answer.status_code == 500
    assert offset_of(begun.api, begun.path) == FIRST
    assert begun.file.read_bytes()[:FIRST] == BODY[:FIRST]
    begun.finish(FIRST)


def test_a_file_that_may_not_grow_ends_where_it_had_to(begun: Begun) -> None:
    # The write before the one that fails is a short one.
    limit, pid = MIB + 12_345, begun.server.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    assert begun.server.database_bytes() < limit, "the database would be what fails"
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        answer = begun.send_rest()
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    assert answer.status_code == 500
    assert int(answer.headers["upload-offset"]) == limit == begun.assert_prefix()
    begun.finish(limit)


def test_a_sync_that_takes_long_delays_its_own_upload_only(begun: Begun, tmp_path: Path) -> None:
    slow = "inject=fdatasync,fsync:delay_enter=1500000"
    answers: list[httpx.Response] = []
    waits: list[float] = []
    with (
        begun.server.client() as other,
        strace(begun.server.pid, "-P", str(begun.file), "-e", slow, log=tmp_path / "strace.log"),
    ):
        sender = threading.Thread(target=lambda: answers.append(begun.send_rest()))
        sender.start()
        while sender.is_alive():
            asked = time.perf_counter()
            assert other.get("/livez").status_code == 200
            assert patch(other, create(other, 3), 0, b"abc").status_code == 204
            waits.append(time.perf_counter() - asked)
        sender.join()
    assert answers[0].status_code == 204
    assert sorted(waits)[len(waits) // 2] < 0.7, waits
    begun.finish(len(BODY))


@pytest.mark.parametrize("most", [0, 1, 1000])
def test_a_disk_that_takes_little_at_a_time_gets_it_all_and_one_that_takes_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    body = BODY[:20_000]
    with Direct(settings_for(tmp_path / "data", jobs={"workers": 0})) as server:
        upload_id = server.create_upload(len(body))
        with monkeypatch.context() as patched:

            def little(fd: int, pieces: list[bytes], offset: int) -> int:
                return os.pwrite(fd, pieces[0][:most], offset) if most else 0

            patched.setattr(os, "pwritev", little)
            answer = server.patch(upload_id, 0, body)
        assert answer.status_code == (204 if most else 500)
        assert_resumes(server, upload_id, body, offset=len(body) if most else 0)
