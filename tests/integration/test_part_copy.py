"""Putting data files together: by the kernel, by hand where it refuses, and whole or not at all."""

import asyncio
import errno
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import NoSpace, StorageFailed
from app.domain.ids import new_id
from app.domain.uploads import FsyncMode
from app.infrastructure.storage import part_copy
from app.infrastructure.storage.part_copy import FilePartCopier
from app.infrastructure.storage.paths import DataFolder

MIB = 2**20
KERNEL_COPY = os.copy_file_range


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder.open(tmp_path / "data")


@pytest.fixture
def copier(folder: DataFolder) -> Iterator[FilePartCopier]:
    made = FilePartCopier(folder, fsync=FsyncMode.OFF)
    yield made
    made.close()


def store(folder: DataFolder, body: bytes) -> tuple[str, int]:
    upload_id = new_id()
    (folder.root / "uploads" / upload_id).write_bytes(body)
    return upload_id, len(body)


def stored(folder: DataFolder, upload_id: str) -> bytes:
    return (folder.root / "uploads" / upload_id).read_bytes()


def sample(size: int, seed: int) -> bytes:
    return bytes((n * seed) % 251 for n in range(4096)) * (size // 4096) + b"." * (size % 4096)


async def test_parts_come_one_after_the_other_and_replace_what_was_there(
    folder: DataFolder, copier: FilePartCopier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_copy, "PIECE_BYTES", 100_000)
    bodies = [sample(350_001, 3), b"", sample(1, 5), sample(200_000, 7)]
    parts = [store(folder, body) for body in bodies]
    final_id, _ = store(folder, b"left by a dead process" * 100_000)
    await copier.copy(final_id, [*parts, parts[0]])
    assert stored(folder, final_id) == b"".join([*bodies, bodies[0]])
    assert [stored(folder, part_id) for part_id, _ in parts] == bodies


def refusing(code: int, after: int = 0) -> Any:
    """A kernel that copies ``after`` times and then does not know how any more."""
    left = after

    def copy_file_range(*arguments: Any) -> int:
        nonlocal left
        if left == 0:
            raise OSError(code, os.strerror(code))
        left -= 1
        return KERNEL_COPY(*arguments)

    return copy_file_range


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("name", ["ENOSYS", "EXDEV", "EINVAL", "EOPNOTSUPP", "EPERM"])
async def test_what_the_kernel_refuses_is_copied_by_hand(
    name: str,
    after: int,
    folder: DataFolder,
    copier: FilePartCopier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(part_copy, "PIECE_BYTES", 100_000)
    monkeypatch.setattr(part_copy, "BUFFER_BYTES", 30_000)
    monkeypatch.setattr(os, "copy_file_range", refusing(getattr(errno, name), after))
    bodies = [sample(350_001, 3), sample(200_000, 7)]
    final_id, _ = store(folder, b"")
    await copier.copy(final_id, [store(folder, body) for body in bodies])
    assert stored(folder, final_id) == b"".join(bodies)


async def test_a_kernel_without_the_call_or_that_copies_nothing_is_no_trouble(
    folder: DataFolder, copier: FilePartCopier, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = store(folder, sample(350_001, 3))
    (one, _), (two, _) = store(folder, b""), store(folder, b"")
    with monkeypatch.context() as patch:
        patch.delattr(os, "copy_file_range")
        await copier.copy(one, [part])
    with monkeypatch.context() as patch:
        patch.setattr(os, "copy_file_range", lambda *_: 0)
        await copier.copy(two, [part])
    assert stored(folder, one) == stored(folder, two) == stored(folder, part[0])


async def test_memory_does_not_grow_with_the_parts(
    folder: DataFolder, copier: FilePartCopier, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = store(folder, b"")
    os.truncate(folder.root / "uploads" / part[0], 64 * MIB)
    final_id, _ = store(folder, b"")
    for by_hand in (False, True):
        if by_hand:
            monkeypatch.setattr(os, "copy_file_range", refusing(errno.ENOSYS))
        tracemalloc.start()
        try:
            await copier.copy(final_id, [(part[0], 64 * MIB)])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * MIB


@pytest.mark.parametrize(
    ("code", "error"),
    [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, StorageFailed)],
)
@pytest.mark.parametrize("by_hand", [False, True])
async def test_trouble_in_the_middle_leaves_no_bytes(
    code: int,
    error: type[Exception],
    by_hand: bool,
    folder: DataFolder,
    copier: FilePartCopier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(part_copy, "PIECE_BYTES", 100_000)
    if by_hand:
        monkeypatch.setattr(os, "copy_file_range", refusing(errno.ENOSYS))
        write = os.pwrite

        def pwrite(fd: int, data: bytes, offset: int) -> int:
            if offset >= 200_000:
                raise OSError(code, os.strerror(code))
            return write(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)
    else:
        monkeypatch.setattr(os, "copy_file_range", refusing(code, after=2))
    part, (final_id, _) = store(folder, sample(350_001, 3)), store(folder, b"")
    with pytest.raises(error):
        await copier.copy(final_id, [part])
    assert stored(folder, final_id) == b""
    assert len(stored(folder, part[0])) == part[1]


async def test_a_part_that_is_not_what_the_row_says_is_an_error(
    folder: DataFolder, copier: FilePartCopier
) -> None:
    part, (final_id, _) = store(folder, b"12345"), store(folder, b"")
    link = new_id()
    (folder.root / "uploads" / link).symlink_to(folder.root / "uploads" / part[0])
    for parts in ([(part[0], 6)], [(part[0], 4)], [(new_id(), 5)], [(link, 5)], [("../x", 5)]):
        with pytest.raises(StorageFailed):
            await copier.copy(final_id, [part, *parts])
        assert stored(folder, final_id) == b""


async def test_a_final_whose_locked_file_was_deleted_is_not_made_anew(
    folder: DataFolder, copier: FilePartCopier
) -> None:
    part, final_id = store(folder, b"12345"), new_id()
    with pytest.raises(StorageFailed):
        await copier.copy(final_id, [part])
    assert not (folder.root / "uploads" / final_id).exists()


async def test_a_copy_that_is_cancelled_ends_within_a_piece_and_leaves_no_bytes(
    folder: DataFolder, copier: FilePartCopier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_copy, "PIECE_BYTES", 100_000)
    loop, in_it, copied = asyncio.get_running_loop(), asyncio.Event(), 0

    def copy_file_range(*arguments: Any) -> int:
        nonlocal copied
        copied += 1
        if copied == 2:
            loop.call_soon_threadsafe(in_it.set)
        return KERNEL_COPY(*arguments)

    monkeypatch.setattr(os, "copy_file_range", copy_file_range)
    part, (final_id, _) = store(folder, sample(100 * 100_000, 3)), store(folder, b"")
    copying = asyncio.create_task(copier.copy(final_id, [part]))
    await in_it.wait()
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert copied < 100
    assert stored(folder, final_id) == b""


@pytest.mark.parametrize("mode", list(FsyncMode))
async def test_file_and_folder_are_durable_before_it_returns_unless_nothing_is(
    mode: FsyncMode, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def note(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)

    monkeypatch.setattr(os, "fdatasync", note)
    monkeypatch.setattr(os, "fsync", note)
    copier = FilePartCopier(folder, fsync=mode)
    try:
        final_id, _ = store(folder, b"")
        await copier.copy(final_id, [store(folder, b"12345")])
    finally:
        copier.close()
    assert synced == ([] if mode is FsyncMode.OFF else [final_id, "uploads"])


async def test_the_loop_goes_on_while_the_kernel_copies(
    folder: DataFolder, copier: FilePartCopier, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, in_it, may_end = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def copy_file_range(*arguments: Any) -> int:
        loop.call_soon_threadsafe(in_it.set)
        asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(20)
        return KERNEL_COPY(*arguments)

    monkeypatch.setattr(os, "copy_file_range", copy_file_range)
    part, (final_id, _) = store(folder, b"12345"), store(folder, b"")
    copying = asyncio.create_task(copier.copy(final_id, [part]))
    await in_it.wait()
    assert not copying.done()
    may_end.set()
    await copying
    assert stored(folder, final_id) == b"12345"
