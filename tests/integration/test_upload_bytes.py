"""The writer of data files: large pieces, the true offset, and what a failing disk leaves."""

import asyncio
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.errors import StorageFailed
from app.domain.ids import new_id
from app.domain.uploads import FsyncMode
from app.infrastructure.storage import upload_bytes, write_pace
from app.infrastructure.storage.paths import DataFolder
from app.infrastructure.storage.upload_bytes import FileUploadBytes, FileUploadWriter


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileUploadBytes]:
    store = FileUploadBytes(DataFolder.open(tmp_path / "data"), fsync=FsyncMode.COMPLETE)
    yield store
    store.close()


async def make_inline(writer: FileUploadWriter) -> None:
    while not writer.is_inline:
        await writer.write(b"w")


async def test_small_chunks_are_collected_and_soon_in_the_file(store: FileUploadBytes) -> None:
    upload_id = new_id()
    writer = await store.open(upload_id, 0)
    await make_inline(writer)
    before = writer.written
    await writer.write(b"a" * 1000)
    await writer.write(b"b" * 1000)
    assert writer.position == before + 2000
    async with asyncio.timeout(10):
        while writer.written < before + 2000:  # noqa: ASYNC110  a thread's count tells nobody
            await asyncio.sleep(0.005)
    assert store.size(upload_id) == before + 2000
    await writer.close()


async def test_a_large_piece_is_in_the_file_at_once(store: FileUploadBytes) -> None:
    upload_id = new_id()
    writer = await store.open(upload_id, 0)
    await make_inline(writer)
    before = writer.written
    await writer.write(b"x" * upload_bytes.PIECE_BYTES)
    assert store.size(upload_id) == before + upload_bytes.PIECE_BYTES == writer.written
    await writer.close()


@pytest.mark.parametrize("inline", [True, False])
async def test_what_is_only_lent_is_in_the_file_before_it_changes(
    store: FileUploadBytes, *, inline: bool
) -> None:
    upload_id = new_id()
    writer = await store.open(upload_id, 0)
    if inline:
        await make_inline(writer)
    before = writer.written
    await writer.write(b"own")
    buffer = bytearray(b"lent")
    await writer.write(memoryview(buffer))
    buffer[:] = b"gone"
    await writer.close()
    path = store._entries._folder.root / "uploads" / upload_id
    assert path.read_bytes()[before:] == b"ownlent"


async def test_bytes_behind_the_offset_are_cut_off_and_never_appended_to(
    store: FileUploadBytes,
) -> None:
    upload_id = new_id()
    writer = await store.open(upload_id, 0)
    await writer.write(b"0123456789")
    await writer.close()
    writer = await store.open(upload_id, 4)
    assert store.size(upload_id) == 4
    await writer.write(b"abc")
    await writer.close()
    assert (store._entries._folder.root / "uploads" / upload_id).read_bytes() == b"0123abc"


async def test_an_offset_past_the_end_is_an_error_and_leaves_no_hole(
    store: FileUploadBytes,
) -> None:
    upload_id = new_id()
    with pytest.raises(StorageFailed):
        await store.open(upload_id, 5)
    assert store.size(upload_id) == 0


async def test_cutting_back_forgets_what_is_pending_too(store: FileUploadBytes) -> None:
    upload_id = new_id()
    writer = await store.open(upload_id, 0)
    await make_inline(writer)
    begin = writer.written
    await writer.write(b"x" * 1_000_000)
    await writer.write(b"pending")
    await writer.cut_back(begin)
    await writer.close()
    assert store.size(upload_id) == begin


async def test_closing_puts_the_rest_into_the_file_and_may_be_repeated(
    store: FileUploadBytes,
) -> None:
    upload_id = new_id()
    writer = await store.open(upload_id, 0)
    await make_inline(writer)
    await writer.write(b"rest")
    await writer.close()
    await writer.close()
    assert store.size(upload_id) == writer.written == writer.position


async def test_a_failed_write_leaves_the_true_offset(store: FileUploadBytes) -> None:
    """The kernel refuses to let the file grow over a limit; half a piece may be in it then."""
    upload_id = new_id()
    writer = await store.open(upload_id, 0)
    await writer.write(b"x" * 100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
    try:
        with pytest.raises(StorageFailed):
            await writer.write(b"y" * 1_000_000)
        with pytest.raises(StorageFailed):
            await writer.write(b"z")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    await writer.close()
    assert writer.written == store.size(upload_id) == 150_000
    assert (
        store._entries._folder.root / "uploads" / upload_id
    ).read_bytes() == b"x" * 100_000 + b"y" * 50_000


async def test_slow_writes_go_to_a_thread_until_they_are_quick_again(
    store: FileUploadBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await store.open(new_id(), 0)
    await make_inline(writer)
    monkeypatch.setattr(write_pace, "SLOW_SECONDS", -1.0)  # every write is slow now
    await writer.write(b"x" * upload_bytes.PIECE_BYTES)
    assert not writer.is_inline
    await writer.write(b"y")
    assert not writer.is_inline
    assert writer.written == writer.position
    monkeypatch.undo()
    await make_inline(writer)
    await writer.close()


async def test_write_back_starts_while_bytes_still_come(
    store: FileUploadBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_bytes, "WRITE_BACK_BYTES", 1_000_000)
    upload_id, data = new_id(), os.urandom(5_000_000)
    writer = await store.open(upload_id, 0)
    for start in range(0, len(data), 500_000):
        await writer.write(data[start : start + 500_000])
    assert writer._written_back > 0
    assert await writer.sync() == len(data)
    await writer.close()
    assert (store._entries._folder.root / "uploads" / upload_id).read_bytes() == data


async def test_a_cancelled_writer_lets_go_only_when_its_thread_has(store: FileUploadBytes) -> None:
    upload_id = new_id()
    writer = await store.open(upload_id, 0)

    async def write() -> None:
        try:
            await writer.write(b"x" * 5_000_000)
        finally:
            await writer.close()

    task = asyncio.create_task(write())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.size(upload_id) == writer.written
    assert writer.written in {0, 5_000_000}


def test_the_boot_of_the_machine_has_a_name(store: FileUploadBytes) -> None:
    assert store.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
