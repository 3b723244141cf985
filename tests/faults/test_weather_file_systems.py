"""Real file systems that are full or read-only: clear refusals, true offsets, and on afterwards."""

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from app.server.protocol import LimitedProtocol
from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import TUS, create, offset_of, patch, problem
from tests.fakes.tus_client import TusClient, code_of
from tests.fakes.tus_server import tus_server

MIB = 1024 * 1024
BODY = os.urandom(12 * MIB)
FIRST = 2 * MIB
IMAGE_BYTES = 48 * MIB
MakeServer = Callable[..., Server]


def _run(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]} (as root?): {done.stderr.strip()}"


@pytest.fixture
def on_ext4(make_server: MakeServer, tmp_path: Path) -> Server:
    """A server that is not started, whose data folder is a small ext4 that only it sees."""
    image, data = tmp_path / "disk.img", tmp_path / "data0"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    _run("mkfs.ext4", "-q", "-m", "0", "-E", "root_owner", image)
    data.mkdir()
    place = f"{shlex.quote(str(image))} {shlex.quote(str(data))}"
    # A fresh file system brings lost+found along, which is nobody's.
    mount = f"mount -o loop {place} && rm -rf {shlex.quote(str(data))}/lost+found"
    wrapper = ("unshare", "--mount", "sh", "-c", f'{mount} && exec "$0" "$@"')
    return make_server({"DISK_RESERVE_BYTES": 0}, wrapper=wrapper)


def _inside(server: Server, path: str = "") -> Path:
    """The data folder, or an upload's file, as the server sees it."""
    folder = Path(f"/proc/{server.pid}/root{server.data}")
    return folder / "uploads" / path.rsplit("/", 1)[-1] if path else folder


def _fill(server: Server, *, but: int) -> Path:
    """Leave no more than ``but`` bytes free; return what is to be deleted."""
    ballast = _inside(server) / "uploads" / "ballast"
    found = os.statvfs(_inside(server))
    left = found.f_bavail * found.f_frsize - but
    with ballast.open("wb") as filler:
        while left > 0:
            left -= filler.write(os.urandom(min(left, MIB)))
        filler.flush()
        os.fsync(filler.fileno())
    return ballast


def test_a_real_disk_that_fills_up_refuses_clearly_and_goes_on_when_there_is_room(
    on_ext4: Server,
) -> None:
    server = on_ext4.start()
    with server.client() as api:
        path = create(api, len(BODY))
        assert patch(api, path, 0, BODY[:FIRST]).status_code == 204
        ballast = _fill(server, but=3 * MIB)
        problem(patch(api, path, FIRST, BODY[FIRST:]), 507, "no_space")
        offset = offset_of(api, path)
        assert FIRST <= offset < len(BODY)
        assert _inside(server, path).read_bytes() == BODY[:offset]
        # Neither the first bytes of another one nor its promise fit.
        problem(api.post("/files/", headers=TUS | {"Upload-Length": "10000000"}), 507, "no_space")
        assert api.get("/livez").status_code == 200
        assert offset_of(api, path) == offset
        ballast.unlink()
        assert patch(api, path, offset, BODY[offset:]).status_code == 204
        assert api.get(path).content == BODY


def _remount(server: Server, options: str) -> None:
    _run("nsenter", "-t", str(server.pid), "-m", "mount", "-o", options, server.data)


def test_a_disk_that_turns_read_only_is_told_and_loses_nothing(on_ext4: Server) -> None:
    server = on_ext4.start()
    with server.client() as api:
        path = create(api, len(BODY))
        assert patch(api, path, 0, BODY[:FIRST]).status_code == 204
        done = create(api, 5)
        assert patch(api, done, 0, b"hello").status_code == 204
        _run("sync", "-f", _inside(server))
        # What Linux does with a file system that has met an error.
        _remount(server, "remount,abort")
        _assert_refuses(api, path, done)
        wait_for(lambda: api.get("/readyz").status_code == 503, "a failing /readyz", 30)
        assert api.get("/livez").status_code == 200
        assert offset_of(api, path) == FIRST
    server.kill()
    server.start()
    with server.client() as api:
        assert offset_of(api, path) == FIRST
        assert _inside(server, path).read_bytes() == BODY[:FIRST]
        assert patch(api, path, FIRST, BODY[FIRST:]).status_code == 204
        assert api.get(path).content == BODY
        assert api.get(done).content == b"hello"


def _assert_refuses(api: httpx.Client, path: str, done: str) -> None:
    refused = patch(api, path, FIRST, BODY[FIRST:])
    assert refused.status_code in {500, 503}, refused.text
    assert refused.json()["code"] in {"storage_failed", "database_busy"}
    refused = api.post("/files/", headers=TUS | {"Upload-Length": "5"})
    assert refused.status_code in {500, 503, 507}, refused.text
    assert refused.headers["tus-resumable"] == "1.0.0"
    # Readers go on: nothing that is there is hidden by what cannot be written.
    assert offset_of(api, path) == FIRST
    assert api.get(done).content == b"hello"


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    _run("mount", "-t", "tmpfs", "-o", "size=32m,mode=700", "tmpfs", place)
    try:
        yield place
    finally:
        _run("umount", "-l", place)


def test_a_folder_that_is_read_only_for_a_while_refuses_and_then_goes_on(
    tmpfs: Path, tmp_path: Path
) -> None:
    root = tmpfs / "data"
    root.mkdir()
    # The database lies elsewhere: with a file open for writing nothing can be made read-only.
    (root / "tidemill.db").symlink_to(tmp_path / "tidemill.db")
    body = BODY[:MIB]
    with tus_server(root, protocol=LimitedProtocol) as server, TusClient(server.url) as tus:
        upload_id = tus.new(len(body))
        assert tus.patch(upload_id, 0, body[:1000]).status_code == 204
        promised = server.read(lambda tx: tx.uploads.unwritten_bytes())
        wait_for(lambda: _is_remounted(tmpfs, "ro"), "a file system that nobody writes")
        try:
            refused = tus.patch(upload_id, 1000, body[1000:])
            assert (refused.status_code, code_of(refused)) == (500, "storage_failed")
            assert tus.offset(upload_id) == 1000
            refused = tus.create(5, content=b"hello")
            assert (refused.status_code, code_of(refused)) == (500, "storage_failed")
            # What was refused keeps no room for itself.
            assert server.read(lambda tx: tx.uploads.unwritten_bytes()) == promised
        finally:
            assert _is_remounted(tmpfs, "rw")
        assert tus.offset(upload_id) == 1000
        assert tus.patch(upload_id, 1000, body[1000:]).status_code == 204
        assert server.file(upload_id).read_bytes() == body
        assert tus.create(5, content=b"hello").status_code == 201


def _is_remounted(place: Path, mode: str) -> bool:
    command = ["mount", "-o", f"remount,{mode}", str(place)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
