"""Bytes count once their checksum was found right, whatever happens before that."""

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.domain.checksums import ALGORITHMS, Checksum, digest_bytes
from app.domain.errors import (
    BodyTooLong,
    ChecksumMismatch,
    DatabaseBusy,
    StorageFailed,
    UploadIncomplete,
    UploadLocked,
)
from app.domain.uploads import FsyncMode, Upload, UploadStatus
from app.services.ports import Database, Transaction
from app.services.sweeps.uploads import UploadWatch
from app.services.upload_writing import BodyInterrupted, Interruption, ReadBody, writing
from tests.fakes.clock import FakeClock
from tests.fakes.stored import file_of, row_of, upload_of
from tests.fakes.tus_server import Parts, TusConfig, open_parts


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def parts(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Parts]:
    async with open_parts(tmp_path / "data", TusConfig(fsync=FsyncMode.PATCH), clock) as parts:
        yield parts


def sha1(data: bytes) -> Checksum:
    return Checksum("sha1", hashlib.sha1(data, usedforsecurity=False).digest())


WRONG = sha1(b"something else")


def body(*pieces: bytes | Exception | Callable[[], Awaitable[object]]) -> ReadBody:
    """A body of pieces; an exception ends it, and a function is awaited between two pieces."""
    left = iter(pieces)

    async def read() -> bytes | None:
        for piece in left:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, bytes):
                return piece
            await piece()
        return None

    return read


async def store(parts: Parts, upload: Upload, read: ReadBody, checksum: Checksum | None) -> int:
    async with writing(parts.uploads, upload) as held:
        try:
            await held.store(read, checksum)
        finally:
            offset = held.offset
    return offset


async def test_a_body_counts_once_its_checksum_was_found_right(parts: Parts) -> None:
    upload = await upload_of(parts, 10)
    told: list[tuple[int | None, int | None]] = []

    async def look() -> None:
        state = await parts.uploads.head("me", upload.id)
        told.append(((await row_of(parts, upload)).verified_offset, state.offset))

    await store(parts, upload, body(b"he", look, b"l", look), sha1(b"hel"))
    assert told == [(0, 0), (0, 0)]
    assert (await parts.uploads.head("me", upload.id)).offset == 3
    row = await row_of(parts, upload)
    assert (row.verified_offset, row.recorded_offset, row.synced_offset) == (None, 3, 3)
    await store(parts, upload, body(b"lo wo", look, b"rl", look), sha1(b"lo worl"))
    assert told[2:] == [(3, 3), (3, 3)]
    assert file_of(parts, upload).read_bytes() == b"hello worl"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_algorithm_tells_right_from_wrong(parts: Parts, algorithm: str) -> None:
    upload = await upload_of(parts, 10)
    hashing = ALGORITHMS[algorithm]()
    hashing.update(b"12345")
    right = Checksum(algorithm, hashing.digest())
    assert len(right.digest) == digest_bytes(algorithm)
    with pytest.raises(ChecksumMismatch):
        await store(parts, upload, body(b"123", b"46"), right)
    assert await store(parts, upload, body(b"123", b"45"), right) == 5


def test_crc32_is_the_one_of_zip_files_highest_byte_first() -> None:
    check = Checksum("crc32", bytes.fromhex("cbf43926")).begin()
    check.add(b"12345")
    check.add(b"6789")
    assert check.is_right


ENDS: dict[str, tuple[tuple[Any, ...], Checksum, type[Exception]]] = {
    "wrong": ((b"wor", b"ld"), WRONG, ChecksumMismatch),
    "cut off": ((b"wor", BodyInterrupted(Interruption.CLIENT_GONE)), sha1(b"wor"), BodyInterrupted),
    "stalled": ((b"wor", BodyInterrupted(Interruption.STALLED)), sha1(b"world"), BodyInterrupted),
    "preempted": ((b"wor", UploadLocked()), sha1(b"world"), UploadLocked),
    "too long": ((b"wor", b"ld, and more"), sha1(b"world, and more"), BodyTooLong),
    "broken disk": ((b"wor", StorageFailed()), sha1(b"world"), StorageFailed),
    "bug": ((b"wor", KeyError()), sha1(b"world"), KeyError),
}


@pytest.mark.parametrize("how", ENDS)
async def test_a_body_that_is_not_right_in_the_end_leaves_nothing(parts: Parts, how: str) -> None:
    pieces, checksum, error = ENDS[how]
    upload = await upload_of(parts, 10)
    await store(parts, upload, body(b"hello"), None)
    before = await row_of(parts, upload)
    with pytest.raises(error) as caught:
        await store(parts, upload, body(*pieces), checksum)
    assert file_of(parts, upload).read_bytes() == b"hello"
    assert await row_of(parts, upload) == before
    if isinstance(caught.value, ChecksumMismatch | StorageFailed):
        assert caught.value.extra["offset"] == 5
    assert await store(parts, upload, body(b"world"), sha1(b"world")) == 10
    assert file_of(parts, upload).read_bytes() == b"helloworld"


async def test_a_cancelled_body_leaves_nothing(parts: Parts) -> None:
    upload = await upload_of(parts, 10)
    before = await row_of(parts, upload)
    arrived = asyncio.Event()

    async def wait() -> None:
        arrived.set()
        await asyncio.sleep(60)

    running = asyncio.create_task(store(parts, upload, body(b"hel", wait), sha1(b"hello")))
    await arrived.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await row_of(parts, upload) == before
    assert parts.store.size(upload.id) == 0


async def test_a_newcomer_finds_the_upload_where_the_checksummed_body_began(parts: Parts) -> None:
    upload = await upload_of(parts, 5)
    arrived = asyncio.Event()

    async def wait() -> None:
        arrived.set()
        await asyncio.sleep(60)

    async def old() -> None:
        with pytest.raises(UploadLocked):
            await store(parts, upload, body(b"hel", wait), sha1(b"hello"))

    async with asyncio.TaskGroup() as group:
        group.create_task(old())
        await arrived.wait()
        async with writing(parts.uploads, upload) as held:
            assert held.offset == 0
            await held.store(body(b"HELLO"))
    assert file_of(parts, upload).read_bytes() == b"HELLO"


async def test_a_length_that_came_with_a_refused_body_is_not_kept(parts: Parts) -> None:
    upload = await upload_of(parts, None)
    await store(parts, upload, body(b"hello"), None)
    before = await row_of(parts, upload)
    for pieces, checksum, error in (
        ((b"wor", b"ld"), WRONG, ChecksumMismatch),
        ((b"wor", b"ld and more"), None, BodyTooLong),
    ):
        async with writing(parts.uploads, upload) as held:
            await held.prepare(10, None)
            with pytest.raises(error):
                await held.store(body(*pieces), checksum)
        row = await row_of(parts, upload)
        assert (row.length, row.verified_offset) == (None, None)
        assert row.synced_offset == before.synced_offset
    assert file_of(parts, upload).read_bytes() == b"hello"


async def test_an_empty_body_is_compared_too(parts: Parts) -> None:
    upload = await upload_of(parts, 10)
    with pytest.raises(ChecksumMismatch):
        await store(parts, upload, body(), WRONG)
    assert await store(parts, upload, body(b"", b""), sha1(b"")) == 0
    done = await upload_of(parts, 3)
    await store(parts, done, body(b"abc"), None)
    await parts.completion.complete(done.id)
    with pytest.raises(ChecksumMismatch):
        await store(parts, done, body(), WRONG)
    assert await store(parts, done, body(), sha1(b"")) == 3


async def test_a_long_checksummed_body_promises_nothing_while_it_comes(
    parts: Parts, clock: FakeClock
) -> None:
    upload = await upload_of(parts, 10)
    await store(parts, upload, body(b"hello"), None)
    rows: list[Upload] = []

    async def minutes_pass() -> None:
        clock.advance(timedelta(minutes=2))

    async def look() -> None:
        rows.append(await row_of(parts, upload))

    pieces = (b"w", minutes_pass, b"or", look, b"ld")
    with pytest.raises(ChecksumMismatch):
        await store(parts, upload, body(*pieces), WRONG)
    assert rows[0].active_at > upload.active_at
    row = await row_of(parts, upload)
    for seen in (*rows, row):
        assert (seen.recorded_offset, seen.synced_offset) == (5, 5)
    assert row.verified_offset is None


async def test_memory_does_not_grow_with_a_checksummed_body(parts: Parts) -> None:
    upload = await upload_of(parts, 64 << 20)
    piece = os.urandom(1 << 20)
    hashing = hashlib.sha256()
    for _ in range(64):
        hashing.update(piece)
    tracemalloc.start()
    try:
        await store(parts, upload, body(*[piece] * 64), Checksum("sha256", hashing.digest()))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert parts.store.size(upload.id) == 64 << 20


# --- the writer died -----------------------------------------------------------------------------


async def dead(parts: Parts, length: int | None, *, verified: int, stored: bytes) -> Upload:
    """An upload as a killed process leaves it in the middle of a checksummed body."""
    upload = await upload_of(parts, length)
    file_of(parts, upload).write_bytes(stored)
    left = replace(upload, verified_offset=verified, recorded_offset=verified)
    await parts.db.write(lambda tx: tx.uploads.update(left, expected=UploadStatus.RECEIVING))
    return left


async def test_what_a_dead_writer_left_counts_for_nobody(parts: Parts) -> None:
    upload = await dead(parts, 5, verified=2, stored=b"heXXX")
    assert (await parts.uploads.head("me", upload.id)).offset == 2
    assert (await parts.uploads.get("me", upload.id)).offset == 2
    seen = UploadWatch(parts.files, parts.store).look(upload)
    assert (seen.size, seen.trusted, seen.is_whole(upload)) == (5, 2, False)
    with pytest.raises(UploadIncomplete):
        await parts.completion.complete(upload.id)
    # A stop makes safe what counts, and says no more of the rest than before.
    await parts.uploads.sync_unfinished()
    row = await row_of(parts, upload)
    assert (row.synced_offset, row.recorded_offset, row.verified_offset) == (2, 2, 2)


async def test_whoever_writes_next_begins_where_the_dead_writer_did(parts: Parts) -> None:
    upload = await dead(parts, 5, verified=2, stored=b"heXXX")
    async with writing(parts.uploads, upload) as held:
        assert held.offset == 2
        assert file_of(parts, upload).read_bytes() == b"he"
        assert (await row_of(parts, upload)).verified_offset is None
        await held.store(body(b"llo"))
        await held.complete()
    assert (await row_of(parts, upload)).status is UploadStatus.COMPLETED
    assert file_of(parts, upload).read_bytes() == b"hello"


async def test_the_mark_goes_also_where_no_byte_had_come(parts: Parts) -> None:
    upload = await dead(parts, 5, verified=2, stored=b"he")
    assert await store(parts, upload, body(b"llo"), None) == 5
    assert (await parts.completion.complete(upload.id)).batch_id
    assert (await parts.uploads.head("me", upload.id)).offset == 5


async def test_the_start_cuts_off_what_dead_writers_left(parts: Parts) -> None:
    upload = await dead(parts, None, verified=0, stored=b"XXX")
    other = await upload_of(parts, 5)
    await store(parts, other, body(b"hel"), None)
    assert await parts.uploads.recover_after_boot() == 1
    assert parts.store.size(upload.id) == 0
    assert (await row_of(parts, upload)).verified_offset is None
    assert parts.store.size(other.id) == 3
    assert await parts.uploads.recover_after_boot() == 0


async def test_the_start_leaves_a_living_writer_of_another_process_alone(
    parts: Parts, tmp_path: Path
) -> None:
    upload = await upload_of(parts, 5)

    async def another_starts() -> None:
        async with open_parts(tmp_path / "data", TusConfig(migrate=False)) as other:
            assert (await other.uploads.head("me", upload.id)).offset == 0
            assert await other.uploads.recover_after_boot() == 0

    assert await store(parts, upload, body(b"hel", another_starts, b"lo"), sha1(b"hello")) == 5
    assert file_of(parts, upload).read_bytes() == b"hello"


async def test_after_a_boot_of_the_machine_the_smaller_of_both_counts(
    tmp_path: Path, clock: FakeClock
) -> None:
    before = TusConfig(fsync=FsyncMode.PATCH, boot_id="first")
    async with open_parts(tmp_path / "data", before, clock) as parts:
        upload = await upload_of(parts, 10)
        await store(parts, upload, body(b"hello"), None)
        file_of(parts, upload).write_bytes(b"helloXXX")
        await parts.db.write(lambda tx: tx.uploads.set_verified(upload.id, 5))
        unsynced = await dead(parts, 10, verified=5, stored=b"helloXXX")
    after = TusConfig(fsync=FsyncMode.PATCH, boot_id="second")
    async with open_parts(tmp_path / "data", after, clock) as parts:
        assert await parts.uploads.recover_after_boot() == 2
        assert parts.store.size(upload.id) == 5
        assert parts.store.size(unsynced.id) == 0
        row = await row_of(parts, upload)
        assert (row.verified_offset, row.synced_offset, row.boot_id) == (None, 5, "second")


# --- the row does not answer ---------------------------------------------------------------------


class BusyAfter(Database):
    """A database that is busy from a certain write on; what it is asked then happens ``anyway``."""

    def __init__(self, real: Any, writes: int, *, anyway: bool = False) -> None:
        self._real, self._left, self._anyway = real, writes, anyway

    async def write(self, work: Callable[[Transaction], Any]) -> Any:
        self._left -= 1
        if self._left < 0:
            if self._anyway:
                await self._real.write(work)
            raise DatabaseBusy
        return await self._real.write(work)

    async def read(self, work: Callable[[Transaction], Any]) -> Any:
        return await self._real.read(work)

    async def check(self) -> None: ...

    async def checkpoint(self) -> None: ...


async def test_without_the_mark_in_the_row_no_byte_is_stored(parts: Parts) -> None:
    upload = await upload_of(parts, 5)
    busy = replace(parts.uploads, db=BusyAfter(parts.db, 0))
    async with writing(busy, upload) as held:
        with pytest.raises(DatabaseBusy):
            await held.store(body(b"hello"), sha1(b"hello"))
    assert parts.store.size(upload.id) == 0


@pytest.mark.parametrize("anyway", [False, True])
async def test_without_the_news_in_the_row_there_is_no_success_and_no_harm(
    parts: Parts, *, anyway: bool
) -> None:
    upload = await upload_of(parts, 5)
    busy = replace(parts.uploads, db=BusyAfter(parts.db, 1, anyway=anyway))
    async with writing(busy, upload) as held:
        with pytest.raises(DatabaseBusy):
            await held.store(body(b"hel"), sha1(b"hel"))
    # What was told last is what counts, and the two agree.
    offset = (await parts.uploads.head("me", upload.id)).offset
    assert offset == (3 if anyway else 0)
    async with writing(parts.uploads, upload) as held:
        assert held.offset == offset
        await held.store(body(b"hello"[offset:]))
    assert file_of(parts, upload).read_bytes() == b"hello"


async def test_a_refused_body_whose_row_is_busy_still_counts_for_nobody(parts: Parts) -> None:
    upload = await upload_of(parts, 5)
    busy = replace(parts.uploads, db=BusyAfter(parts.db, 1))
    async with writing(busy, upload) as held:
        with pytest.raises(ChecksumMismatch):
            await held.store(body(b"XXX"), sha1(b"hel"))
        assert held.offset == 0
    assert (await row_of(parts, upload)).verified_offset == 0
    assert (await parts.uploads.head("me", upload.id)).offset == 0
    assert await store(parts, upload, body(b"hello"), sha1(b"hello")) == 5


async def test_head_never_counts_bytes_that_came_after_it_read_the_row(parts: Parts) -> None:
    upload = await upload_of(parts, 5)

    class Late(BusyAfter):
        async def read(self, work: Callable[[Transaction], Any]) -> Any:
            found = await super().read(work)
            # A checksummed body begins right after this look, and brings everything.
            await parts.db.write(lambda tx: tx.uploads.set_verified(upload.id, 0))
            file_of(parts, upload).write_bytes(b"XXXXX")
            return found

    late = replace(parts.uploads, db=Late(parts.db, 0))
    assert (await late.head("me", upload.id)).offset == 0
    assert (await parts.uploads.head("me", upload.id)).offset == 0


async def test_head_of_a_whole_file_that_is_still_compared_waits_for_nobody(parts: Parts) -> None:
    upload = await upload_of(parts, 5)

    async def look() -> None:
        assert (await parts.uploads.head("me", upload.id)).offset == 0
        with pytest.raises(UploadLocked):
            await parts.completion.complete(upload.id)
        assert (await row_of(parts, upload)).status is UploadStatus.RECEIVING

    assert await store(parts, upload, body(b"hello", look), sha1(b"hello")) == 5
