"""Bytes that a disk has told it may have lost count for nobody, and are asked for again."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.domain.checksums import Checksum
from app.domain.errors import (
    BodyTooLong,
    DatabaseBusy,
    StorageFailed,
    TemporarilyUnavailable,
    UploadIncomplete,
)
from app.domain.ids import new_id
from app.domain.uploads import FsyncMode, Upload, UploadKind, UploadMetadata, UploadStatus
from app.services.concatenation import Concatenation, NamedPart, NewFinal
from app.services.ports import Database, Transaction
from app.services.upload_states import NewUpload
from app.services.upload_writing import ReadBody, writing
from tests.fakes.clock import FakeClock
from tests.fakes.stored import body, file_of, row_of, upload_of
from tests.fakes.tus_server import Parts, TusConfig, open_parts


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def parts(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Parts]:
    async with open_parts(tmp_path / "data", TusConfig(fsync=FsyncMode.COMPLETE), clock) as parts:
        yield parts


class Disk:
    """What syncs and cuts answer; the kernel tells a failed write-back once, and forgets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing_syncs = self.failing_cuts = 0
        self.before_cut: Callable[[], object] = lambda: None
        self._sync, self._cut = os.fdatasync, os.ftruncate
        monkeypatch.setattr(os, "fdatasync", self.fdatasync)
        monkeypatch.setattr(os, "ftruncate", self.ftruncate)

    def fdatasync(self, fd: int) -> None:
        if self.failing_syncs > 0:
            self.failing_syncs -= 1
            raise OSError(5, "Input/output error")
        self._sync(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        self.before_cut()
        if self.failing_cuts > 0:
            self.failing_cuts -= 1
            raise OSError(30, "Read-only file system")
        self._cut(fd, size)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


class Writes(Database):
    """A database that counts what is written; ``fails`` says of each write whether it is refused."""

    def __init__(self, real: Any, fails: Callable[[int], bool] = lambda _: False) -> None:
        self._real, self._fails, self.count = real, fails, 0

    async def write(self, work: Callable[[Transaction], Any]) -> Any:
        self.count += 1
        if self._fails(self.count):
            raise DatabaseBusy
        return await self._real.write(work)

    async def read(self, work: Callable[[Transaction], Any]) -> Any:
        return await self._real.read(work)

    async def check(self) -> None: ...

    async def checkpoint(self) -> None: ...


async def store(parts: Parts, upload: Upload, read: ReadBody) -> int:
    """Store a body, and return the offset that is told afterwards."""
    async with writing(parts.uploads, upload) as held:
        try:
            await held.store(read)
        finally:
            offset = held.offset
    return offset


async def assert_arrives_whole(parts: Parts, upload: Upload, whole: bytes) -> None:
    """Go on as a client does, from the offset that HEAD tells."""
    offset = (await parts.uploads.head("me", upload.id)).offset
    assert offset is not None
    async with writing(parts.uploads, upload) as held:
        held.require_offset(offset)
        await held.store(body(whole[offset:]))
        await held.complete()
    assert file_of(parts, upload).read_bytes() == whole
    row = await row_of(parts, upload)
    assert (row.status, row.verified_offset) == (UploadStatus.COMPLETED, None)
    assert row.synced_offset == len(whole)


# --- at the end of a body ------------------------------------------------------------------------


async def test_a_failed_sync_takes_earlier_bodies_back_that_were_never_synced(
    parts: Parts, disk: Disk
) -> None:
    upload = await upload_of(parts, 2000)
    assert await store(parts, upload, body(b"x" * 1000)) == 1000
    disk.failing_syncs = 1
    with pytest.raises(StorageFailed) as caught:
        await store(parts, upload, body(b"y" * 1000))
    assert caught.value.extra["offset"] == 0
    assert (await parts.uploads.head("me", upload.id)).offset == 0
    row = await row_of(parts, upload)
    assert (row.recorded_offset, row.synced_offset, row.verified_offset) == (0, 0, None)
    await assert_arrives_whole(parts, upload, b"x" * 1000 + b"y" * 1000)


async def test_a_failed_sync_takes_nothing_back_that_was_synced(
    parts: Parts, disk: Disk, clock: FakeClock
) -> None:
    upload = await upload_of(parts, 3000)
    # A body that takes over a minute is synced on its way: after the second piece.
    await store(parts, upload, body(b"x" * 500, b"x" * 500, before_each=lambda: clock.advance(40)))
    assert (await row_of(parts, upload)).synced_offset == 1000
    await store(parts, upload, body(b"y" * 500))
    disk.failing_syncs = 1
    with pytest.raises(StorageFailed) as caught:
        await store(parts, upload, body(b"y" * 500, b"z" * 1000))
    assert caught.value.extra["offset"] == 1000
    assert file_of(parts, upload).read_bytes() == b"x" * 1000
    row = await row_of(parts, upload)
    assert (row.recorded_offset, row.synced_offset) == (1000, 1000)
    await assert_arrives_whole(parts, upload, b"x" * 1000 + b"y" * 1000 + b"z" * 1000)


async def test_bytes_that_can_neither_be_synced_nor_cut_off_count_for_nobody(
    parts: Parts, disk: Disk
) -> None:
    upload = await upload_of(parts, 2000)
    await store(parts, upload, body(b"x" * 1000))
    disk.failing_syncs, disk.failing_cuts = 1, 99
    with pytest.raises(StorageFailed) as caught:
        await store(parts, upload, body(b"y" * 1000))
    assert caught.value.extra["offset"] == 0
    assert parts.store.size(upload.id) == 2000
    assert (await parts.uploads.head("me", upload.id)).offset == 0
    with pytest.raises(UploadIncomplete):
        await parts.completion.complete(upload.id)
    disk.failing_cuts = 0
    await assert_arrives_whole(parts, upload, b"x" * 1000 + b"y" * 1000)


@pytest.mark.parametrize("refused", [{1}, {2}, {1, 2, 3, 4}])
async def test_a_row_that_cannot_be_told_hides_no_failed_sync_and_keeps_no_byte(
    parts: Parts, disk: Disk, refused: set[int]
) -> None:
    upload = await upload_of(parts, 2000)
    await store(parts, upload, body(b"x" * 1000))
    disk.failing_syncs = 1
    deaf = replace(parts.uploads, db=Writes(parts.db, lambda number: number in refused))
    async with writing(deaf, upload) as held:
        with pytest.raises(StorageFailed) as caught:
            await held.store(body(b"y" * 1000))
        assert held.offset == 0
    assert caught.value.extra["offset"] == 0
    assert parts.store.size(upload.id) == 0
    await assert_arrives_whole(parts, upload, b"x" * 1000 + b"y" * 1000)


async def test_the_row_promises_less_before_the_file_is_cut(
    tmp_path: Path, disk: Disk, clock: FakeClock
) -> None:
    async with open_parts(tmp_path / "data", TusConfig(fsync=FsyncMode.PATCH), clock) as parts:
        upload = await upload_of(parts, 3000)
        await store(parts, upload, body(b"x" * 500))
        loop, seen = asyncio.get_running_loop(), []

        def look() -> None:
            row = asyncio.run_coroutine_threadsafe(row_of(parts, upload), loop).result(15)
            seen.append((row.recorded_offset, row.synced_offset, row.verified_offset))

        disk.before_cut = look
        pieces = [b"y" * 800] * 4
        with pytest.raises(BodyTooLong):
            await store(parts, upload, body(*pieces, before_each=lambda: clock.advance(40)))
        # Killed here, nothing would call bytes synced that come to this place later.
        assert seen == [(500, 500, 500)]
        row = await row_of(parts, upload)
        assert (row.recorded_offset, row.synced_offset, row.verified_offset) == (500, 500, None)


async def test_a_row_that_promises_more_than_the_file_has_is_put_right_before_bytes_come(
    parts: Parts,
) -> None:
    upload = await upload_of(parts, 3000)
    file_of(parts, upload).write_bytes(b"x" * 500)
    left = replace(upload, recorded_offset=1300, synced_offset=1300)
    await parts.db.write(lambda tx: tx.uploads.update(left, expected=UploadStatus.RECEIVING))
    promised = []

    async def read() -> bytes | None:
        promised.append((await row_of(parts, upload)).synced_offset)
        return b"y" * 1000 if len(promised) == 1 else None

    assert await store(parts, upload, read) == 1500
    assert promised == [500, 500]


@pytest.mark.parametrize(
    ("fsync", "pieces", "writes"),
    [
        (FsyncMode.COMPLETE, 1, 0),
        (FsyncMode.COMPLETE, 4, 0),
        (FsyncMode.PATCH, 1, 1),
        (FsyncMode.OFF, 1, 0),
    ],
)
async def test_a_body_that_goes_well_costs_no_write_for_one_that_does_not(
    tmp_path: Path, clock: FakeClock, fsync: FsyncMode, pieces: int, writes: int
) -> None:
    async with open_parts(tmp_path / "data", TusConfig(fsync=fsync), clock) as parts:
        upload = await upload_of(parts, 10 << 20)
        database = Writes(parts.db)
        async with writing(replace(parts.uploads, db=database), upload) as held:
            await held.store(body(*[b"x" * (1 << 20)] * pieces))
        assert database.count == writes


@pytest.mark.parametrize("end", [asyncio.CancelledError, RuntimeError])
async def test_the_file_is_let_go_however_forgetting_a_body_ends(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, end: type[BaseException]
) -> None:
    upload = await upload_of(parts, 2000)
    closed = []
    real_open = parts.store.open

    async def open_(upload_id: str, offset: int) -> Any:
        writer = await real_open(upload_id, offset)
        real_close = writer.close

        async def close() -> None:
            await real_close()
            closed.append(writer)

        async def broken(_: int) -> None:
            raise end

        monkeypatch.setattr(writer, "close", close)
        monkeypatch.setattr(writer, "cut_back", broken)
        return writer

    monkeypatch.setattr(parts.store, "open", open_)
    async with writing(parts.uploads, upload) as held:
        with pytest.raises(end):
            await held.store(body(b"y" * 1000), Checksum("sha1", bytes(20)))
    assert len(closed) == 1
    assert closed[0]._fd == -1


# --- when nobody sends ---------------------------------------------------------------------------


async def whole_but_unsynced(parts: Parts) -> Upload:
    """An upload whose last body nobody synced: its writer was killed before."""
    upload = await upload_of(parts, 2000)
    file_of(parts, upload).write_bytes(b"x" * 2000)
    left = replace(upload, recorded_offset=500, synced_offset=500)
    await parts.db.write(lambda tx: tx.uploads.update(left, expected=UploadStatus.RECEIVING))
    return left


async def by_head(parts: Parts, upload: Upload) -> None:
    with pytest.raises(TemporarilyUnavailable):
        await parts.uploads.head("me", upload.id)


async def by_completion(parts: Parts, upload: Upload) -> None:
    with pytest.raises(StorageFailed):
        await parts.completion.complete(upload.id)


async def by_stop(parts: Parts, upload: Upload) -> None:
    assert await parts.uploads.sync_unfinished() == 0
    assert not parts.locks.is_held(upload.id)


LATE: tuple[Callable[[Parts, Upload], Awaitable[None]], ...] = (by_head, by_completion, by_stop)


@pytest.mark.parametrize("failing_cuts", [0, 99])
@pytest.mark.parametrize("late", LATE)
async def test_a_late_sync_that_fails_completes_nothing_and_asks_for_the_bytes_again(
    parts: Parts, disk: Disk, late: Callable[[Parts, Upload], Awaitable[None]], failing_cuts: int
) -> None:
    upload = await whole_but_unsynced(parts)
    disk.failing_syncs, disk.failing_cuts = 1, failing_cuts
    await late(parts, upload)
    assert parts.store.size(upload.id) == (2000 if failing_cuts else 500)
    assert (await parts.uploads.head("me", upload.id)).offset == 500
    row = await row_of(parts, upload)
    assert (row.status, row.synced_offset) == (UploadStatus.RECEIVING, 500)
    assert row.verified_offset == (500 if failing_cuts else None)
    disk.failing_cuts = 0
    await assert_arrives_whole(parts, upload, b"x" * 500 + b"y" * 1500)


@pytest.mark.parametrize("failing_cuts", [0, 1])
async def test_a_final_that_a_late_sync_gave_up_is_copied_anew(
    parts: Parts, disk: Disk, failing_cuts: int
) -> None:
    part = await upload_of(parts, 4, UploadKind.PARTIAL)
    await store(parts, part, body(b"part"))
    url = f"/files/{part.id}"
    wish = NewFinal("me", UploadMetadata(), f"final;{url}", (NamedPart(url, part.id),))
    new = NewUpload("me", 4, wish.metadata, UploadKind.FINAL, wish.concat, wish.part_ids)
    final = await parts.uploads.create(new_id(), new)
    # As a stop leaves it that could sync it once.
    file_of(parts, final).write_bytes(b"part")
    left = replace(final, recorded_offset=4, synced_offset=4)
    await parts.db.write(lambda tx: tx.uploads.update(left, expected=UploadStatus.RECEIVING))
    disk.failing_syncs, disk.failing_cuts = 1, failing_cuts
    with pytest.raises(StorageFailed):
        await parts.completion.complete(final.id)
    row = await row_of(parts, final)
    assert (row.synced_offset, row.verified_offset) == (0, 0 if failing_cuts else None)
    assert parts.store.size(final.id) == (4 if failing_cuts else 0)
    if failing_cuts:
        file_of(parts, final).write_bytes(b"lost")  # what the disk made of it
    made = await Concatenation(parts.uploads, asyncio.Semaphore(1)).make(wish)
    assert made.upload_id == final.id
    assert file_of(parts, final).read_bytes() == b"part"
    row = await row_of(parts, final)
    assert (row.status, row.verified_offset) == (UploadStatus.COMPLETED, None)
