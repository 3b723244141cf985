"""A disk that is really full: a small tmpfs, mounted where only the server and its children see it."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from tests.e2e.harness import Server
from tests.e2e.wire import TUS, create, offset_of, patch, problem

MIB = 1024 * 1024
DISK_BYTES = 48 * MIB
"""Holds a database with its WAL and a few uploads."""


def _on_small_disk(make_server: Callable[..., Server], tmp_path: Path) -> Server:
    data = tmp_path / "data0"
    data.mkdir()
    mount = f"mount -t tmpfs -o size={DISK_BYTES} tmpfs {shlex.quote(str(data))}"
    rights = () if os.geteuid() == 0 else ("--map-root-user",)
    wrapper = ("unshare", "--mount", *rights, "sh", "-c", f'{mount} && exec "$0" "$@"')
    return make_server({"DISK_RESERVE_BYTES": 0}, wrapper=wrapper)


def _inside(server: Server) -> Path:
    """The server's data folder as the server sees it."""
    return Path(f"/proc/{server.pid}/root{server.data}")


def test_what_does_not_fit_is_refused_before_it_comes(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = _on_small_disk(make_server, tmp_path).start()
    with server.client() as api:
        refused = api.post("/files/", headers=TUS | {"Upload-Length": str(DISK_BYTES)})
        problem(refused, 507, "no_space")
        assert refused.headers["tus-resumable"] == "1.0.0"
        # Promised bytes count, also before they are there.
        kept = create(api, 30 * MIB)
        second = api.post("/files/", headers=TUS | {"Upload-Length": str(30 * MIB)})
        problem(second, 507, "no_space")
        assert api.delete(kept, headers=TUS).status_code == 204
        create(api, 30 * MIB)


def test_a_disk_that_fills_up_under_a_patch_gives_507_and_loses_nothing(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = _on_small_disk(make_server, tmp_path).start()
    body = bytes(range(256)) * (12 * MIB // 256)
    with server.client() as api:
        path = create(api, len(body))
        assert patch(api, path, 0, body[: 2 * MIB]).status_code == 204
        ballast = _inside(server) / "uploads" / "ballast"
        free = _free_bytes(server)
        with ballast.open("wb") as filler:
            # All but three megabytes: the PATCH itself meets the end of the disk.
            left = free - 3 * MIB
            while left > 0:
                left -= filler.write(bytes(min(left, MIB)))
        refused = patch(api, path, 2 * MIB, body[2 * MIB :])
        problem(refused, 507, "no_space")
        assert api.get("/livez").status_code == 200
        offset = offset_of(api, path)
        assert 2 * MIB <= offset < len(body)
        assert (
            _inside(server) / path.lstrip("/").replace("files/", "uploads/")
        ).stat().st_size == (offset)
        ballast.unlink()
        assert patch(api, path, offset, body[offset:]).status_code == 204
        assert api.get(path).content == body
        batch_id = api.head(path, headers=TUS).headers["tidemill-batch"]
        assert api.delete(f"/api/v1/batches/{batch_id}").status_code == 204


def _free_bytes(server: Server) -> int:
    found = os.statvfs(_inside(server))
    return found.f_bavail * found.f_frsize
