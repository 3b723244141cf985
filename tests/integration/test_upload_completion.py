"""Completion once, batches of full sessions, and the row's news of a long PATCH."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from app.domain.errors import (
    ConflictingUpdate,
    SessionClosed,
    UploadGone,
    UploadIncomplete,
    UploadLocked,
    UploadNotFound,
)
from app.domain.ids import new_id
from app.domain.sessions import Session, SessionStatus, Then
from app.domain.uploads import FsyncMode, Upload, UploadMetadata, UploadStatus
from app.services.batching import make_batch
from app.services.early_digest import SMALL_BYTES
from app.services.upload_states import NewUpload
from app.services.upload_writing import BodyInterrupted, Interruption, writing
from tests.fakes.clock import FakeClock
from tests.fakes.stored import body
from tests.fakes.tus_server import DAY, JOB_POLICY, Parts, TusConfig, open_parts


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def parts(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Parts]:
    config = TusConfig(fsync=FsyncMode.COMPLETE, lock_wait_seconds=0.5)
    async with open_parts(tmp_path / "data", config, clock) as parts:
        yield parts


async def session_of(parts: Parts, clock: FakeClock, **changes: Any) -> Session:
    session = replace(
        Session(
            id=new_id(),
            owner="me",
            status=SessionStatus.OPEN,
            expected_files=None,
            then=None,
            batch_id=None,
            implicit=False,
            keep_inputs_hours=None,
            created_at=clock.now(),
            active_at=clock.now(),
        ),
        **changes,
    )
    await parts.db.write(lambda tx: tx.sessions.insert(session))
    return session


async def upload_of(
    parts: Parts, session: Session | None, data: bytes, length: int | None = None
) -> Upload:
    """An upload with ``data`` in its file and its row still receiving."""
    session_id = session.id if session else None
    metadata = UploadMetadata(session_id=session_id)
    new = NewUpload("me", len(data) if length is None else length, metadata)
    upload = await parts.uploads.create(new_id(), new)
    if data:
        (parts.folder.root / "uploads" / upload.id).write_bytes(data)
    return upload


async def row_of(parts: Parts, upload_id: str) -> Upload | None:
    return await parts.db.read(lambda tx: tx.uploads.find(upload_id))


async def test_completing_eight_times_at_once_makes_one_batch(
    parts: Parts, clock: FakeClock
) -> None:
    session = await session_of(parts, clock, expected_files=1, then=Then("trim", {"start": 1}))
    upload = await upload_of(parts, session, b"hello")

    async def complete() -> Any:
        for _ in range(100):
            try:
                return await parts.completion.complete(upload.id)
            except UploadLocked:
                await asyncio.sleep(0.01)
        raise AssertionError

    with structlog.testing.capture_logs() as logs:
        found = await asyncio.gather(*(complete() for _ in range(8)))
    assert len(set(found)) == 1
    assert [log["event"] for log in logs].count("upload.completed") == 1
    assert [log["event"] for log in logs].count("batch.created") == 1
    jobs = await parts.db.read(lambda tx: tx.jobs.list_by_batch(found[0].batch_id))
    assert [job.id for job in jobs] == list(found[0].job_ids)
    assert parts.queue.enqueued == [(jobs[0].id, 1)]


async def test_an_upload_that_is_not_whole_is_not_completed(parts: Parts, clock: FakeClock) -> None:
    session = await session_of(parts, clock)
    for data, length in ((b"hell", 5), (b"hello!", 5), (b"", 5)):
        upload = await upload_of(parts, session, data, length)
        with pytest.raises(UploadIncomplete):
            await parts.completion.complete(upload.id)
        assert await row_of(parts, upload.id) == upload
    with pytest.raises(UploadNotFound):
        await parts.completion.complete(new_id())


async def test_a_present_writer_is_left_alone(parts: Parts, clock: FakeClock) -> None:
    upload = await upload_of(parts, await session_of(parts, clock), b"hello")
    async with parts.locks.hold_for_writing(upload.id, wait_seconds=0) as hold:
        with pytest.raises(UploadLocked):
            await parts.completion.complete(upload.id)
        assert not hold.is_asked_to_stop


async def test_a_session_without_a_number_stays_open(parts: Parts, clock: FakeClock) -> None:
    session = await session_of(parts, clock)
    upload = await upload_of(parts, session, b"hello")
    completion = await parts.completion.complete(upload.id)
    assert (completion.batch_id, completion.job_ids) == (None, ())
    row = await parts.db.read(lambda tx: tx.sessions.find(session.id))
    assert row is not None
    assert row.status is SessionStatus.OPEN


async def test_a_full_session_supersedes_a_writer_and_its_bytes_go(
    parts: Parts, clock: FakeClock
) -> None:
    session = await session_of(parts, clock, expected_files=1)
    slow = await upload_of(parts, session, b"", 100_000)
    quick = await upload_of(parts, session, b"hello")
    begun = asyncio.Event()

    async def read() -> bytes | None:
        if not begun.is_set():
            begun.set()
            return b"x" * 1000
        await asyncio.sleep(30)
        return None

    async def write() -> None:
        async with writing(parts.uploads, slow) as held:
            await held.store(read)

    writer = asyncio.create_task(write())
    await begun.wait()
    completion = await parts.completion.complete(quick.id)
    with pytest.raises(UploadLocked):
        await writer
    assert not (parts.folder.root / "uploads" / slow.id).exists()
    assert await parts.db.read(lambda tx: tx.cleanup.count()) == 0
    files = await parts.db.read(lambda tx: tx.uploads.list_by_batch(completion.batch_id or ""))
    assert [file.id for file in files] == [quick.id]
    with pytest.raises(UploadGone):
        await parts.uploads.get("me", slow.id)
    with pytest.raises(SessionClosed):
        await upload_of(parts, session, b"late")


@pytest.mark.parametrize(
    ("pieces", "length", "is_known"),
    [
        ([b"hello"], 5, True),
        ([b"hel", b"", b"lo"], 5, True),
        ([b"x" * SMALL_BYTES], SMALL_BYTES, True),
        ([b"x" * SMALL_BYTES, b"x"], SMALL_BYTES + 1, False),
    ],
)
async def test_a_small_file_that_came_in_one_body_has_its_digest_at_once(
    parts: Parts, pieces: list[bytes], length: int, *, is_known: bool
) -> None:
    upload = await upload_of(parts, None, b"", length)
    async with writing(parts.uploads, upload) as held:
        await held.store(body(*pieces))
        completion = await held.complete()
    row = await row_of(parts, completion.upload_id)
    assert row is not None
    whole = hashlib.sha256(b"".join(pieces)).hexdigest()
    assert row.sha256 == (whole if is_known else None)


async def test_a_file_that_came_in_two_bodies_has_no_digest_yet(parts: Parts) -> None:
    upload = await upload_of(parts, None, b"", 5)
    async with writing(parts.uploads, upload) as held:
        await held.store(body(b"hel"))
    async with writing(parts.uploads, upload) as held:
        await held.store(body(b"lo"))
        await held.complete()
    row = await row_of(parts, upload.id)
    assert row is not None
    assert (row.status, row.sha256) == (UploadStatus.COMPLETED, None)


async def test_a_batch_is_made_once(parts: Parts, clock: FakeClock) -> None:
    session = await session_of(parts, clock, then=Then("trim", {"start": 1}))
    await parts.completion.complete((await upload_of(parts, session, b"hello")).id)

    def work(tx: Any) -> Any:
        found = tx.sessions.find(session.id)
        return make_batch(
            tx,
            found,
            now=clock.now(),
            batch_ttl=DAY,
            job_policy=JOB_POLICY,
            operations=parts.completion.operations,
        )

    first, second = await parts.db.write(work), await parts.db.write(work)
    assert first.batch == second.batch
    assert [job.id for job in first.jobs] == [job.id for job in second.jobs]


async def test_then_of_an_operation_that_is_gone_still_makes_its_jobs(
    parts: Parts, clock: FakeClock
) -> None:
    session = await session_of(parts, clock, expected_files=2, then=Then("no-such", {}))
    ids = [(await upload_of(parts, session, data)).id for data in (b"one", b"two")]
    first, second = [await parts.completion.complete(upload_id) for upload_id in ids]
    assert (first.batch_id, len(second.job_ids)) == (None, 2)


async def test_a_long_patch_tells_its_row_once_a_minute(parts: Parts, clock: FakeClock) -> None:
    upload = await upload_of(parts, None, b"", 10_000)
    seen: list[tuple[int, int]] = []

    async def read() -> bytes | None:
        row = await parts.db.read(lambda tx: tx.uploads.find(upload.id))
        assert row is not None
        seen.append((row.recorded_offset, row.synced_offset))
        clock.advance(timedelta(seconds=25))
        return b"x" * 1000 if len(seen) <= 8 else None

    async with writing(parts.uploads, upload) as held:
        await held.store(read)
    # Told with the third and the sixth piece, each time after a sync.
    offsets = [recorded for recorded, _ in seen]
    assert sorted(set(offsets)) == [0, 3000, 6000]
    assert all(recorded == synced for recorded, synced in seen)
    row = await parts.db.read(lambda tx: tx.uploads.find(upload.id))
    assert row is not None
    assert (row.recorded_offset, row.active_at) == (8000, clock.now())
    assert row.expires_at == clock.now() + DAY


async def test_the_expiry_slides_up_to_its_cap(parts: Parts, clock: FakeClock) -> None:
    upload = await upload_of(parts, None, b"", 10_000)
    pieces = iter([b"x", None] * 20)

    async def read() -> bytes | None:
        return next(pieces)

    last = upload
    for _ in range(10):
        clock.advance(timedelta(hours=20))
        async with writing(parts.uploads, upload) as held:
            await held.store(read)
            last = held.upload
    assert last.expires_at == upload.created_at + 7 * DAY


async def test_a_body_that_ends_early_leaves_what_came(parts: Parts) -> None:
    upload = await upload_of(parts, None, b"", 10)
    pieces = iter([b"hel", b"lo"])

    async def read() -> bytes | None:
        for piece in pieces:
            return piece
        raise BodyInterrupted(Interruption.CLIENT_GONE)

    with pytest.raises(BodyInterrupted):
        async with writing(parts.uploads, upload) as held:
            await held.store(read)
    view = await parts.uploads.get("me", upload.id)
    assert (view.offset, view.status) == (5, UploadStatus.RECEIVING)
    assert (view.length, view.filename, view.batch_id) == (10, upload.id, None)


async def test_an_upload_that_ended_while_it_waited_is_gone(parts: Parts, clock: FakeClock) -> None:
    session = await session_of(parts, clock)
    upload = await upload_of(parts, session, b"hel", 5)
    async with parts.uploads.terminating("me", upload.id):
        await parts.uploads.remove_held("me", upload.id)
    with pytest.raises(UploadNotFound):
        async with writing(parts.uploads, upload):
            raise AssertionError
    assert list((parts.folder.root / "uploads").iterdir()) == []
    with pytest.raises(ConflictingUpdate):
        await parts.uploads.recovery.adopt(upload)


async def test_another_owner_sees_nothing(parts: Parts) -> None:
    upload = await upload_of(parts, None, b"hello")
    for call in (parts.uploads.get, parts.uploads.head, parts.uploads.open_download):
        with pytest.raises(UploadNotFound):
            await call("you", upload.id)


async def test_a_stop_makes_unfinished_uploads_safe_from_a_boot(
    parts: Parts, clock: FakeClock
) -> None:
    upload = await upload_of(parts, None, b"hello", 10)
    busy = await upload_of(parts, None, b"hel", 10)
    async with parts.locks.hold(busy.id, wait_seconds=0):
        assert await parts.uploads.sync_unfinished() == 1
    clock.advance(timedelta(hours=1))
    assert await parts.uploads.sync_unfinished() == 1
    assert await parts.uploads.sync_unfinished() == 0
    row = await row_of(parts, upload.id)
    assert row is not None
    assert (row.synced_offset, row.expires_at) == (5, upload.expires_at)


@pytest.mark.parametrize("way", ["held", "together"])
async def test_a_repeat_by_who_knows_an_older_row_tells_nobody_again(
    parts: Parts, clock: FakeClock, way: str
) -> None:
    session = await session_of(parts, clock, expected_files=1, then=Then("trim", {"start": 1}))
    upload = await upload_of(parts, session, b"hello")
    with structlog.testing.capture_logs() as logs:
        first = await parts.completion.complete(upload.id, held=upload)
        if way == "held":
            again = await parts.completion.complete(upload.id, held=upload)
        else:
            again = await parts.completion.complete_together([upload])
    assert again == first
    told = [log["event"] for log in logs]
    assert (told.count("upload.completed"), told.count("batch.created")) == (1, 1)
    assert len(parts.queue.enqueued) == 1
