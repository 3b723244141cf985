"""What the row says of an upload's bytes is never more than what is there, and never what was before."""

import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from app.domain.errors import BodyTooLong, DatabaseBusy, StorageFailed, UploadGone
from app.domain.tombstones import Reason
from app.domain.uploads import FsyncMode, Upload
from app.services.burial import bury_upload
from app.services.upload_writing import BodyInterrupted, Interruption, ReadBody, writing
from tests.fakes.clock import FakeClock
from tests.fakes.late_locks import LateLocks
from tests.fakes.stored import body, file_of, row_of, upload_of
from tests.fakes.tus_server import DAY, Parts, TusConfig, open_parts


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def parts(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Parts]:
    async with open_parts(tmp_path / "data", TusConfig(fsync=FsyncMode.PATCH), clock) as parts:
        yield parts


async def store(parts: Parts, upload: Upload, read: ReadBody) -> None:
    async with writing(parts.uploads, upload) as held:
        await held.store(read)


# --- another process was quicker -----------------------------------------------------------------


async def test_a_late_recovery_cuts_nothing_that_arrived_since_the_boot(
    tmp_path: Path, clock: FakeClock
) -> None:
    before = TusConfig(fsync=FsyncMode.PATCH, boot_id="first")
    async with open_parts(tmp_path / "data", before, clock) as parts:
        upload = await upload_of(parts, 10)
        await store(parts, upload, body(b"hel"))
    after = TusConfig(fsync=FsyncMode.COMPLETE, boot_id="second")
    async with open_parts(tmp_path / "data", after, clock) as parts:

        async def meanwhile() -> None:
            await store(parts, upload, body(b"lo"))

        late = replace(parts.uploads, locks=LateLocks(parts.locks, meanwhile))
        assert await late.recover_after_boot() == 0
        assert file_of(parts, upload).read_bytes() == b"hello"
        row = await row_of(parts, upload)
        assert (row.synced_offset, row.boot_id) == (3, "second")


async def test_one_upload_that_cannot_be_recovered_keeps_no_service_from_starting(
    tmp_path: Path, clock: FakeClock
) -> None:
    before = TusConfig(fsync=FsyncMode.PATCH, boot_id="first")
    async with open_parts(tmp_path / "data", before, clock) as parts:
        bad, good = sorted([await upload_of(parts, 10), await upload_of(parts, 10)], key=_id)
        for upload in (bad, good):
            await store(parts, upload, body(b"hel"))
        file_of(parts, bad).unlink()
        file_of(parts, bad).symlink_to("/etc/hostname")
    after = TusConfig(fsync=FsyncMode.PATCH, boot_id="second")
    async with open_parts(tmp_path / "data", after, clock) as parts:
        assert await parts.uploads.recover_after_boot() == 1
        assert (await row_of(parts, good)).boot_id == "second"
        # Nor does it keep a stop from making the others safe.
        file_of(parts, good).write_bytes(b"hello")
        assert await parts.uploads.sync_unfinished() == 1
        assert (await row_of(parts, good)).synced_offset == 5


def _id(upload: Upload) -> str:
    return upload.id


async def test_a_late_sync_at_a_stop_takes_nothing_back(parts: Parts, clock: FakeClock) -> None:
    upload = await upload_of(parts, 10)
    file_of(parts, upload).write_bytes(b"he")

    async def meanwhile() -> None:
        clock.advance(timedelta(hours=5))
        await store(parts, upload, body(b"l"))

    late = replace(parts.uploads, locks=LateLocks(parts.locks, meanwhile))
    await late.sync_unfinished()
    row = await row_of(parts, upload)
    assert (row.recorded_offset, row.synced_offset) == (3, 3)
    assert (row.active_at, row.expires_at) == (clock.now(), clock.now() + DAY)


# --- bytes that were taken back ------------------------------------------------------------------


async def test_a_body_that_is_cut_back_is_not_called_synced(parts: Parts, clock: FakeClock) -> None:
    upload = await upload_of(parts, 3000)
    await store(parts, upload, body(b"x" * 500))
    pieces: Iterable[bytes] = [b"y" * 800] * 4
    with pytest.raises(BodyTooLong):
        await store(parts, upload, body(*pieces, before_each=lambda: clock.advance(40)))
    assert file_of(parts, upload).read_bytes() == b"x" * 500
    row = await row_of(parts, upload)
    # Bytes that come again to this place are not on the disk because others were.
    assert (row.recorded_offset, row.synced_offset) == (500, 500)


@pytest.mark.parametrize("seconds", [0, 40])
async def test_what_a_failed_sync_leaves_was_not_received(
    parts: Parts, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    upload = await upload_of(parts, 10_000)
    await store(parts, upload, body(b"x" * 500))
    real, calls = os.fdatasync, []

    def fail_once(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")  # the kernel tells it once, and forgets
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fail_once)
    pieces = [b"y" * 800] * 3
    with pytest.raises(StorageFailed) as caught:
        await store(parts, upload, body(*pieces, before_each=lambda: clock.advance(seconds)))
    assert caught.value.extra["offset"] == 500
    assert file_of(parts, upload).read_bytes() == b"x" * 500
    row = await row_of(parts, upload)
    assert (row.recorded_offset, row.synced_offset) == (500, 500)


# --- what cannot be told -------------------------------------------------------------------------


async def test_with_fsync_patch_a_row_that_cannot_be_told_is_no_success(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await upload_of(parts, 10)

    async def busy(work: object) -> object:
        raise DatabaseBusy

    with monkeypatch.context() as patched:
        patched.setattr(parts.db, "write", busy)
        # A boot of the machine would cut what the row does not call synced.
        with pytest.raises(DatabaseBusy):
            await store(parts, upload, body(b"hello"))
    assert (await parts.uploads.head("me", upload.id)).offset == 5
    async with writing(parts.uploads, upload) as held:
        assert held.offset == 5
        await held.store(body(b"wor"))
    assert (await row_of(parts, upload)).synced_offset == 8


@pytest.mark.parametrize("how", ["whole", "in part", "broken off"])
async def test_an_upload_that_was_superseded_under_its_writer_is_gone(
    parts: Parts, clock: FakeClock, how: str
) -> None:
    upload = await upload_of(parts, 5)
    ended = False

    async def read() -> bytes | None:
        nonlocal ended
        if not ended:
            ended = True
            await parts.db.write(
                lambda tx: bury_upload(
                    tx, upload, reason=Reason.SUPERSEDED, sweep=None, now=clock.now()
                )
            )
            return b"hello" if how == "whole" else b"hel"
        if how == "broken off":
            raise BodyInterrupted(Interruption.CLIENT_GONE)
        return None

    async with writing(parts.uploads, upload) as held:
        if how == "whole":
            await held.store(read)
            with pytest.raises(UploadGone):
                await held.complete()
        else:
            with pytest.raises(UploadGone if how == "in part" else BodyInterrupted):
                await held.store(read)
