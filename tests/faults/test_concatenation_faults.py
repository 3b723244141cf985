"""Parts that are put together while the server is killed, or on a disk that fills up."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.e2e.harness import Server, strace, wait_for
from tests.e2e.wire import PATCH_TYPE, TUS, encode_metadata, open_session, problem
from tests.fakes.tus_client import RawRequest

MIB = 2**20
DISK_BYTES = 48 * MIB
ONE, TWO = bytes(range(256)) * (3 * MIB // 256), bytes(range(255, -1, -1)) * (2 * MIB // 256)


def new_part(api: httpx.Client, body: bytes) -> str:
    headers = TUS | PATCH_TYPE | {"Upload-Concat": "partial", "Upload-Length": str(len(body))}
    response = api.post("/files/", headers=headers, content=body)
    assert response.status_code == 201, response.text
    return str(response.headers["location"])


def wish(session: str, parts: list[str]) -> dict[str, str]:
    """The headers of a creation of a final."""
    metadata = encode_metadata({"session": session, "filename": "whole.mp4"})
    return TUS | {"Upload-Concat": "final;" + " ".join(parts), "Upload-Metadata": metadata}


def final_bytes(folder: Path, parts: list[str]) -> int:
    """How long the one upload is that is none of the parts; -1 while there is none."""
    known = {part.rpartition("/")[2] for part in parts}
    sizes = [path.stat().st_size for path in folder.iterdir() if path.name not in known]
    return max(sizes, default=-1)


def assert_parts_are_whole(api: httpx.Client, parts: list[str]) -> None:
    for part, body in zip(parts, (ONE, TWO), strict=True):
        found = api.head(part, headers=TUS)
        assert found.status_code == 200
        assert found.headers["upload-offset"] == str(len(body))


def kill_while_it_joins(
    server: Server, asked: dict[str, str], parts: list[str], slow: list[str], size: int, log: Path
) -> None:
    """Kill the server once the final has ``size`` bytes, at the system call that ``slow`` holds up."""
    uploads = server.data / "uploads"
    headers = {**asked, "Content-Length": "0"}
    with (
        strace(server.pid, *slow, log=log) as tracer,
        RawRequest(server.port, "POST", "/files/", headers),
    ):
        wait_for(lambda: final_bytes(uploads, parts) == size, f"a final of {size} bytes", 30)
        rows = server.rows("SELECT status FROM uploads WHERE kind = 'final'")
        server.kill(tracer)
    assert rows == [("receiving",)]
    assert final_bytes(uploads, parts) == size


def test_killed_in_the_copy_and_again_before_its_row_there_is_one_whole_final(
    server: Server, tmp_path: Path
) -> None:
    with server.client() as api:
        session = open_session(api, expected_files=1)
        parts = [new_part(api, ONE), new_part(api, TWO)]
    asked, log = wish(session, parts), tmp_path / "strace.log"
    second = str(server.data / "uploads" / parts[1].rpartition("/")[2])
    slow_copy = ["-P", second, "-e", "inject=copy_file_range:delay_enter=30000000"]
    kill_while_it_joins(server, asked, parts, slow_copy, len(ONE), log)
    server.start()
    with server.client() as api:
        assert_parts_are_whole(api, parts)
        assert api.get("/api/v1/batches").json()["items"] == []
    folder = str(server.data / "uploads")
    slow_sync = ["-P", folder, "-e", "inject=fsync:delay_enter=30000000"]
    kill_while_it_joins(server, asked, parts, slow_sync, len(ONE + TWO), log)
    server.start()
    with server.client() as api:
        # Killed in a sweep, the process took its lease along: that has to run out first.
        wait_for(lambda: api.get("/api/v1/batches").json()["items"], "the batch", 45)
        done = api.post("/files/", headers=asked)
        assert done.status_code == 201, done.text
        (batch,) = api.get("/api/v1/batches").json()["items"]
        assert done.headers["tidemill-batch"] == batch["id"]
        assert api.get(done.headers["location"]).content == ONE + TWO
        assert_parts_are_whole(api, parts)
        final_id = done.headers["tidemill-upload"]
        wait_for(lambda: server.leftovers() == [f"uploads/{final_id}"], "the end of the parts")
        assert len(server.events("upload.completed", upload_id=final_id)) == 1
        assert api.delete(f"/api/v1/batches/{batch['id']}").status_code == 204
    assert server.leftovers() == []


def test_a_disk_that_fills_up_under_the_copy_gives_507_and_loses_no_part(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    data = tmp_path / "data0"
    data.mkdir()
    mount = f"mount -t tmpfs -o size={DISK_BYTES} tmpfs {shlex.quote(str(data))}"
    rights = () if os.geteuid() == 0 else ("--map-root-user",)
    wrapper = ("unshare", "--mount", *rights, "sh", "-c", f'{mount} && exec "$0" "$@"')
    server = make_server({"DISK_RESERVE_BYTES": 0}, wrapper=wrapper).start()
    inside = Path(f"/proc/{server.pid}/root{server.data}") / "uploads"
    with server.client() as api:
        session = open_session(api, expected_files=1)
        parts = [new_part(api, ONE), new_part(api, TWO)]
        found = os.statvfs(inside)
        ballast = inside / "ballast"
        ballast.write_bytes(bytes(found.f_bavail * found.f_frsize - 4 * MIB))
        refused = api.post("/files/", headers=wish(session, parts))
        problem(refused, 507, "no_space")
        names = {path.name for path in inside.iterdir()}
        assert names == {"ballast", *(part.rpartition("/")[2] for part in parts)}
        assert_parts_are_whole(api, parts)
        assert api.get(f"/api/v1/upload/{session}").json()["uploads"] == []
        ballast.unlink()
        done = api.post("/files/", headers=wish(session, parts))
        assert done.status_code == 201, done.text
        assert api.get(done.headers["location"]).content == ONE + TWO
