"""A process dies, or stops, in the middle of a body whose checksum nobody will ever compare."""

import base64
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from tests.conformance.raw import Line
from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import PATCH_TYPE, TUS, create, offset_of, patch

MIB = 1024 * 1024
SIZE = 64 * MIB
MEMORY = 24 * MIB


def _sha256(body: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return {"Upload-Checksum": f"sha256 {digest}"}


def _begin(line: Line, path: str, offset: int, body: bytes) -> None:
    headers = TUS | PATCH_TYPE | _sha256(body)
    headers |= {"Upload-Offset": str(offset), "Content-Length": str(len(body))}
    line.send_head("PATCH", path, list(headers.items()))


def _pieces(body: bytes) -> Iterator[bytes]:
    """The body in chunks, so that it has no length beforehand."""
    for begin in range(0, len(body), MIB):
        yield body[begin : begin + MIB]


def _send_checked(
    api: httpx.Client, path: str, body: bytes, checksum: dict[str, str]
) -> httpx.Response:
    headers = TUS | PATCH_TYPE | checksum | {"Upload-Offset": str(MIB)}
    return api.patch(path, headers=headers, content=_pieces(body))


def _file(server: Server, path: str) -> Path:
    return server.data / "uploads" / path.rpartition("/")[2]


def test_killed_in_the_middle_of_a_checksummed_patch_it_goes_on_where_that_began(
    make_server: Callable[..., Server],
) -> None:
    server = make_server().start()
    body = os.urandom(SIZE)
    with server.client() as api, Line(server.port) as line:
        path = create(api, len(body), filename="clip.mp4")
        assert patch(api, path, 0, body[:MIB]).status_code == 204
        stored = _file(server, path)
        _begin(line, path, MIB, body[MIB:])
        line.socket.sendall(body[MIB : 40 * MIB])
        wait_for(lambda: stored.stat().st_size > 30 * MIB, "bytes that nobody compared")
        assert offset_of(api, path) == MIB
        assert server.rows("SELECT verified_offset FROM uploads") == [(MIB,)]
        server.kill()
    server.start()
    with server.client() as api:
        assert offset_of(api, path) == MIB
        upload_id = path.rpartition("/")[2]
        assert api.get(f"/api/v1/uploads/{upload_id}").json()["offset"] == MIB
        server.reset_peak_memory()
        before = server.peak_memory_bytes()
        right = _sha256(body[MIB:])
        wrong = _send_checked(api, path, body[MIB + 1 :] + b"!", right)
        assert (wrong.status_code, wrong.json()["code"]) == (460, "checksum_mismatch")
        assert (offset_of(api, path), stored.stat().st_size) == (MIB, MIB)
        done = _send_checked(api, path, body[MIB:], right)
        assert done.status_code == 204
        assert done.headers["tidemill-batch"]
        grown = server.peak_memory_bytes() - before
        assert grown < MEMORY, f"126 MiB of checked bodies took {grown / MIB:.0f} MiB of memory"
        assert stored.read_bytes() == body
        assert server.rows("SELECT status, verified_offset FROM uploads") == [("completed", None)]


def test_stopped_in_the_middle_of_a_checksummed_patch_nothing_of_it_stays(
    make_server: Callable[..., Server],
) -> None:
    server = make_server({"DRAIN_SECONDS": 3}).start()
    body = os.urandom(4 * MIB)
    with server.client() as api, Line(server.port) as line:
        path = create(api, len(body))
        assert patch(api, path, 0, body[:MIB]).status_code == 204
        stored = _file(server, path)
        _begin(line, path, MIB, body[MIB:])
        line.socket.sendall(body[MIB : 3 * MIB])
        wait_for(lambda: stored.stat().st_size > 2 * MIB, "bytes that nobody compared")
        assert server.stop() == 0
    assert stored.read_bytes() == body[:MIB]
    assert server.rows("SELECT verified_offset, synced_offset FROM uploads") == [(None, MIB)]
