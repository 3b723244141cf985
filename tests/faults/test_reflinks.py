"""Finals on file systems that share blocks and on those that cannot copy: the kernel's way first."""

import errno
import fcntl
import lzma
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import shared_server
from tests.e2e.harness import Server, strace, wait_for
from tests.e2e.wire import PATCH_TYPE, TUS
from tests.fakes.tus_client import TusClient, id_of
from tests.fakes.tus_server import TusServer, tus_server

__all__ = ["shared_server"]

MIB = 1024 * 1024
BLOCK = 4096
IMAGES = Path(__file__).parent / "images"
"""Fresh file systems of 32 MiB, since few machines have the commands that make them: of
``mkfs.xfs -m reflink=1,rmapbt=0 -d agcount=1`` (with the variables that allow so small a one) and of
``mkfs.btrfs -M -m single -d single``.
"""
OPTIONS = {"xfs": "loop,nouuid", "btrfs": "loop"}


@pytest.fixture
def sharing_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system that shares blocks: the first of which the kernel knows."""
    place, image, said = tmp_path / "disk", tmp_path / "disk.img", []
    place.mkdir()
    for kind, options in OPTIONS.items():
        image.write_bytes(lzma.decompress((IMAGES / f"{kind}.img.xz").read_bytes()))
        command = ["mount", "-t", kind, "-o", options, str(image), str(place)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode == 0:
            break
        said.append(done.stderr)
    else:
        pytest.fail(f"no file system that shares blocks (as root?): {said}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def blocks_of(file: Path) -> list[int]:
    """Where each block of a file lies on its disk, by FIEMAP (see the kernel's fiemap.txt)."""
    head, extent, most = struct.Struct("=QQLLLL"), struct.Struct("=QQQQQLLLL"), 500
    call, sync_first, whole = 0xC020660B, 1, 2**64 - 1
    request = bytearray(head.pack(0, whole, sync_first, 0, most, 0) + bytes(extent.size * most))
    with file.open("rb") as opened:
        fcntl.ioctl(opened, call, request)
    blocks: dict[int, int] = {}
    for number in range(head.unpack_from(request)[3]):
        logical, physical, length, *_ = extent.unpack_from(
            request, head.size + number * extent.size
        )
        for at in range(0, length, BLOCK):
            blocks[(logical + at) // BLOCK] = (physical + at) // BLOCK
    assert sorted(blocks) == list(range(len(blocks))), "the file has holes"
    return [blocks[number] for number in sorted(blocks)]


def part(tus: TusClient, body: bytes) -> str:
    created = tus.create(len(body), Upload_Concat="partial", content=body)
    assert created.status_code == 201, created.text
    return id_of(created)


def final_of(server: TusServer, tus: TusClient, parts: list[str]) -> Path:
    paths = " ".join(f"/files/{each}" for each in parts)
    sent = TUS | {"Upload-Concat": f"final;{paths}"}
    answer = tus.http.post("/files/", headers=sent)
    assert answer.status_code == 201, answer.text
    return server.file(id_of(answer))


def test_a_final_of_whole_blocks_is_its_parts_blocks_and_not_a_copy(sharing_disk: Path) -> None:
    bodies = [os.urandom(2 * MIB), os.urandom(BLOCK), os.urandom(3 * MIB + 12_345)]
    with tus_server(sharing_disk / "data") as server, TusClient(server.url) as tus:
        parts = [part(tus, body) for body in bodies]
        lie = [blocks_of(server.file(each)) for each in parts]
        final = final_of(server, tus, parts)
        assert final.read_bytes() == b"".join(bodies)
        # But for the end of the last, which fills no block.
        whole = [block for blocks in lie for block in blocks][: sum(map(len, bodies)) // BLOCK]
        assert blocks_of(final)[: len(whole)] == whole
        assert not any(server.file(each).exists() for each in parts)
        # What is written in one place by others later is not seen here: the blocks are the final's.
        assert tus.create(2 * MIB, content=os.urandom(2 * MIB)).status_code == 201
        assert final.read_bytes() == b"".join(bodies)


def test_a_final_of_parts_that_fill_no_block_is_right_too(sharing_disk: Path) -> None:
    bodies = [os.urandom(MIB + 1), os.urandom(4097), os.urandom(MIB)]
    with tus_server(sharing_disk / "data") as server, TusClient(server.url) as tus:
        final = final_of(server, tus, [part(tus, body) for body in bodies])
        assert final.read_bytes() == b"".join(bodies)


# --- by strace, on any file system ---------------------------------------------------------------


def _part(api: httpx.Client, body: bytes) -> str:
    headers = TUS | PATCH_TYPE | {"Upload-Concat": "partial", "Upload-Length": str(len(body))}
    answer = api.post("/files/", headers=headers, content=body)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


@pytest.mark.parametrize(
    "fault",
    ["", "EXDEV", "EOPNOTSUPP", "ENOSYS", "EINVAL", "EPERM", "EXDEV:when=2+", "ENOSYS:when=3"],
)
def test_the_kernel_is_asked_to_copy_and_what_it_refuses_is_done_by_hand(
    shared_server: Server, tmp_path: Path, fault: str
) -> None:
    bodies = [os.urandom(300_001), os.urandom(200_000), os.urandom(100_000)]
    calls = tmp_path / "calls"
    options = ["-o", str(calls), "-y", "-e", "trace=copy_file_range"]
    if fault:
        options += ["-e", f"inject=copy_file_range:error={fault}"]
    code, _, when = fault.partition(":when=")
    # Once refused, it is not asked again for this final.
    expected = int(when.strip("+") or 1) if fault else len(bodies)
    told = len(shared_server.events("upload.copied_by_hand"))
    with shared_server.client() as api:
        parts = [_part(api, body) for body in bodies]
        with strace(shared_server.pid, *options, log=tmp_path / "messages"):
            sent = TUS | {"Upload-Concat": f"final;{' '.join(parts)}"}
            answer = api.post("/files/", headers=sent)
            wait_for(lambda: _asked(calls) >= expected, "the calls in the trace")
        assert answer.status_code == 201, answer.text
        assert answer.headers["tidemill-batch"]
        assert api.get(answer.headers["location"]).content == b"".join(bodies)
    events = shared_server.events("upload.copied_by_hand")[told:]
    assert _asked(calls) == expected
    told_of = [getattr(errno, event["errno"]) for event in events]
    assert told_of == ([getattr(errno, code)] if fault else [])


def _asked(calls: Path) -> int:
    return calls.read_text().count("copy_file_range(")
