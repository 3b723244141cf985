"""Rows of uploads, on both databases."""

from dataclasses import replace
from datetime import timedelta

import pytest

from app.domain.errors import ConflictingUpdate
from app.domain.ids import new_id
from app.domain.jobs import JobStatus
from app.domain.uploads import UploadKind, UploadMetadata, UploadStatus, complete
from app.infrastructure.database.engine import SqlDatabase
from tests.factories import (
    insert_all,
    make_batch,
    make_completed_upload,
    make_input,
    make_job,
    make_session,
    make_upload,
)
from tests.fakes.clock import NOON

HOUR = timedelta(hours=1)


async def test_an_upload_comes_back_as_it_was_stored(db: SqlDatabase) -> None:
    session = make_session()
    batch = make_batch(session_id=session.id)
    upload = make_completed_upload(
        session_id=session.id,
        batch_id=batch.id,
        length=2**53 + 1,
        boot_id="b1",
        media={"container": "mov", "video": {"width": 1920}, "audio": None},
        sha256="a" * 64,
        created_at=NOON.replace(microsecond=123456),
        spent_at=NOON + HOUR,
    )
    await db.write(lambda tx: insert_all(tx, session, batch, upload))
    assert await db.read(lambda tx: tx.uploads.find(upload.id)) == upload


async def test_any_metadata_a_client_may_send_survives(db: SqlDatabase) -> None:
    session = make_session()
    metadata = UploadMetadata(
        raw="filename \xff\xe9=,other,session_id YWJj",
        filename="a\x00b\ud800 \N{CLAPPER BOARD}.mp4",
        media_type="video/mp4",
        session_id=session.id,
        order=10**30,
        fields=(("filename", "a\x00b\udcff"), ("empty", ""), ("empty", "")),
    )
    upload = make_upload(session_id=session.id, metadata=metadata)
    await db.write(lambda tx: insert_all(tx, session, upload))
    found = await db.read(lambda tx: tx.uploads.find(upload.id))
    assert found == upload


async def test_what_is_not_there_is_none_and_cannot_be_deleted(db: SqlDatabase) -> None:
    assert await db.read(lambda tx: tx.uploads.find("0" * 32)) is None
    assert await db.write(lambda tx: tx.uploads.delete("0" * 32)) is False


async def test_deleting_an_upload_works_once(db: SqlDatabase) -> None:
    session = make_session()
    upload = make_upload(session_id=session.id)
    await db.write(lambda tx: insert_all(tx, session, upload))
    assert await db.write(lambda tx: tx.uploads.delete(upload.id)) is True
    assert await db.write(lambda tx: tx.uploads.delete(upload.id)) is False
    assert await db.read(lambda tx: tx.uploads.find(upload.id)) is None


async def test_an_update_writes_the_whole_row_where_the_status_is_as_expected(
    db: SqlDatabase,
) -> None:
    session = make_session()
    upload = make_upload(session_id=session.id)
    done = complete(upload, NOON + HOUR)
    await db.write(lambda tx: insert_all(tx, session, upload))
    await db.write(lambda tx: tx.uploads.update(done, expected=UploadStatus.RECEIVING))
    assert await db.read(lambda tx: tx.uploads.find(upload.id)) == done


async def test_an_update_of_a_row_that_moved_on_changes_nothing(db: SqlDatabase) -> None:
    session = make_session()
    done = make_completed_upload(session_id=session.id)
    await db.write(lambda tx: insert_all(tx, session, done))
    late = replace(done, sha256="b" * 64)
    with pytest.raises(ConflictingUpdate):
        await db.write(lambda tx: tx.uploads.update(late, expected=UploadStatus.RECEIVING))
    assert await db.read(lambda tx: tx.uploads.find(done.id)) == done


async def test_an_update_leaves_what_an_upload_keeps_for_life(db: SqlDatabase) -> None:
    session, elsewhere = make_session(), make_session()
    upload = make_upload(session_id=session.id)
    await db.write(lambda tx: insert_all(tx, session, elsewhere, upload))
    other = replace(
        upload,
        session_id=elsewhere.id,
        kind=UploadKind.FINAL,
        concat="final;a",
        parts=("a",),
        metadata=UploadMetadata(raw="filename", filename="other"),
    )
    changed = replace(other, length=7, media={"kind": "video"})
    await db.write(lambda tx: tx.uploads.update(changed, expected=UploadStatus.RECEIVING))
    found = await db.read(lambda tx: tx.uploads.find(upload.id))
    assert found == replace(upload, length=7, media={"kind": "video"})


async def test_the_completed_uploads_of_a_session_are_put_in_its_batch_at_once(
    db: SqlDatabase,
) -> None:
    session, elsewhere = make_session(), make_session()
    batch = make_batch(session_id=session.id)
    done = [make_completed_upload(session_id=session.id) for _ in range(3)]
    left = make_upload(session_id=session.id)
    foreign = make_completed_upload(session_id=elsewhere.id)
    await db.write(lambda tx: insert_all(tx, session, elsewhere, *done, left, foreign, batch))
    assert await db.read(lambda tx: tx.uploads.count_completed(session.id)) == 3
    await db.write(lambda tx: tx.uploads.put_in_batch(session.id, batch.id))
    found = await db.read(lambda tx: tx.uploads.list_by_batch(batch.id))
    assert {each.id for each in found} == {each.id for each in done}
    of_status = [
        await db.read(lambda tx, of=of: tx.uploads.list_by_session(session.id, of))  # type: ignore[misc]
        for of in (UploadStatus.RECEIVING, UploadStatus.COMPLETED, None)
    ]
    assert [len(each) for each in of_status] == [1, 3, 4]
    assert of_status[0] == [left]
    untouched = await db.read(lambda tx: tx.uploads.find(foreign.id))
    assert untouched == foreign


async def test_touching_records_activity_of_a_receiving_upload_only(db: SqlDatabase) -> None:
    session = make_session()
    upload, done = make_upload(session_id=session.id), make_completed_upload(session_id=session.id)
    await db.write(lambda tx: insert_all(tx, session, upload, done))

    async def touch(upload_id: str) -> None:
        await db.write(
            lambda tx: tx.uploads.touch(
                upload_id,
                active_at=NOON + HOUR,
                expires_at=NOON + 2 * HOUR,
                recorded_offset=700,
                synced_offset=600,
            )
        )

    await touch(upload.id)
    assert await db.read(lambda tx: tx.uploads.find(upload.id)) == replace(
        upload,
        active_at=NOON + HOUR,
        expires_at=NOON + 2 * HOUR,
        recorded_offset=700,
        synced_offset=600,
    )
    with pytest.raises(ConflictingUpdate):
        await touch(done.id)
    assert await db.read(lambda tx: tx.uploads.find(done.id)) == done


async def test_media_is_kept_and_forgotten_rows_do_not_matter(db: SqlDatabase) -> None:
    session = make_session()
    upload = make_upload(session_id=session.id)
    await db.write(lambda tx: insert_all(tx, session, upload))
    await db.write(lambda tx: tx.uploads.set_media(upload.id, {"container": "mov"}))
    await db.write(lambda tx: tx.uploads.set_media("0" * 32, {"container": "mov"}))
    found = await db.read(lambda tx: tx.uploads.find(upload.id))
    assert found == replace(upload, media={"container": "mov"})


async def test_the_later_hold_wins(db: SqlDatabase) -> None:
    session = make_session()
    upload = make_completed_upload(session_id=session.id)
    await db.write(lambda tx: insert_all(tx, session, upload))
    for at, expected in (
        (NOON + HOUR, NOON + HOUR),
        (NOON, NOON + HOUR),
        (NOON + 2 * HOUR, NOON + 2 * HOUR),
    ):
        await db.write(lambda tx, at=at: tx.uploads.set_spent(upload.id, at))  # type: ignore[misc]
        found = await db.read(lambda tx: tx.uploads.find(upload.id))
        assert found is not None
        assert found.spent_at == expected


async def test_a_hold_on_an_upload_that_is_gone_is_nobodys_business(db: SqlDatabase) -> None:
    await db.write(lambda tx: tx.uploads.set_spent("0" * 32, NOON))
    assert await db.read(lambda tx: tx.uploads.totals()) == {}


async def test_uploads_of_a_session_come_oldest_first(db: SqlDatabase) -> None:
    session, another = make_session(), make_session()
    late = make_upload(session_id=session.id, created_at=NOON + HOUR)
    early = make_upload(session_id=session.id, created_at=NOON)
    foreign = make_upload(session_id=another.id)
    await db.write(lambda tx: insert_all(tx, session, another, late, early, foreign))
    assert await db.read(lambda tx: tx.uploads.list_by_session(session.id)) == [early, late]


async def test_uploads_of_a_batch_come_in_the_clients_order_then_as_created(
    db: SqlDatabase,
) -> None:
    session = make_session()
    batch = make_batch(session_id=session.id)
    ours = {"session_id": session.id, "batch_id": batch.id}
    uploads = [
        make_upload(**ours, created_at=NOON, metadata=UploadMetadata(order=None)),
        make_upload(**ours, created_at=NOON + HOUR, metadata=UploadMetadata(order=10**30)),
        make_upload(**ours, created_at=NOON + 2 * HOUR, metadata=UploadMetadata(order=-1)),
        make_upload(**ours, created_at=NOON - HOUR, metadata=UploadMetadata(order=None)),
    ]
    outside = make_upload(session_id=session.id)
    await db.write(lambda tx: insert_all(tx, session, batch, *uploads, outside))
    found = await db.read(lambda tx: tx.uploads.list_by_batch(batch.id))
    assert found == [uploads[2], uploads[1], uploads[3], uploads[0]]


async def test_unwritten_bytes_are_what_open_uploads_of_known_length_still_need(
    db: SqlDatabase,
) -> None:
    assert await db.read(lambda tx: tx.uploads.unwritten_bytes()) == 0
    session = make_session()
    large = 3 * 2**40
    uploads = [
        make_upload(session_id=session.id, length=large, recorded_offset=large - 100),
        make_upload(session_id=session.id, length=50, recorded_offset=0),
        make_upload(session_id=session.id, length=None, recorded_offset=70),
        make_completed_upload(session_id=session.id, length=900),
    ]
    await db.write(lambda tx: insert_all(tx, session, *uploads))
    assert await db.read(lambda tx: tx.uploads.unwritten_bytes()) == 150


async def test_receiving_uploads_are_walked_by_id(db: SqlDatabase) -> None:
    session = make_session()
    uploads = [make_upload(session_id=session.id) for _ in range(5)]
    done = make_completed_upload(session_id=session.id)
    await db.write(lambda tx: insert_all(tx, session, *uploads, done))
    expected = sorted(upload.id for upload in uploads)
    seen: list[str] = []
    after = ""
    while page := await db.read(
        lambda tx, after=after: tx.uploads.list_receiving(after_id=after, limit=2)  # type: ignore[misc]
    ):
        assert len(page) <= 2
        seen += [upload.id for upload in page]
        after = seen[-1]
    assert seen == expected


async def test_expired_are_receiving_uploads_past_their_time(db: SqlDatabase) -> None:
    session = make_session()
    gone, goner = (
        make_upload(session_id=session.id, expires_at=NOON - hours * HOUR) for hours in (1, 2)
    )
    on_the_dot = make_upload(session_id=session.id, expires_at=NOON)
    done = make_completed_upload(session_id=session.id, expires_at=NOON - HOUR)
    await db.write(lambda tx: insert_all(tx, session, gone, goner, on_the_dot, done))
    assert await db.read(lambda tx: tx.uploads.list_expired(NOON, 10)) == [goner, gone]
    assert await db.read(lambda tx: tx.uploads.list_expired(NOON, 1)) == [goner]


async def test_spent_are_completed_uploads_that_no_active_job_reads(db: SqlDatabase) -> None:
    session = make_session()

    def spent_at(hours: int) -> dict[str, object]:
        return {"session_id": session.id, "spent_at": NOON + hours * HOUR}

    spent, spent_now = make_completed_upload(**spent_at(-2)), make_completed_upload(**spent_at(0))
    held = make_completed_upload(**spent_at(1))
    never_used = make_completed_upload(session_id=session.id)
    unfinished = make_upload(**spent_at(-2))
    queued_for, read = make_completed_upload(**spent_at(-2)), make_completed_upload(**spent_at(-2))
    jobs = [
        make_job(inputs=(make_input(spent.id),), status=JobStatus.COMPLETED),
        make_job(inputs=(make_input(spent_now.id),), status=JobStatus.FAILED),
        make_job(inputs=(make_input(), make_input(queued_for.id)), status=JobStatus.QUEUED),
        make_job(inputs=(make_input(read.id),), status=JobStatus.PROCESSING),
    ]
    uploads = (spent, spent_now, held, never_used, unfinished, queued_for, read)
    await db.write(lambda tx: insert_all(tx, session, *uploads, *jobs))
    assert await db.read(lambda tx: tx.uploads.list_spent(NOON, 10)) == [spent, spent_now]
    assert await db.read(lambda tx: tx.uploads.list_spent(NOON, 1)) == [spent]


async def test_totals_count_uploads_and_bytes_by_status(db: SqlDatabase) -> None:
    session = make_session()
    uploads = [
        make_upload(session_id=session.id, recorded_offset=10),
        make_upload(session_id=session.id, recorded_offset=20),
        make_completed_upload(session_id=session.id, length=2**40),
    ]
    await db.write(lambda tx: insert_all(tx, session, *uploads))
    assert await db.read(lambda tx: tx.uploads.totals()) == {
        UploadStatus.RECEIVING: (2, 30),
        UploadStatus.COMPLETED: (1, 2**40),
    }


async def test_a_part_needs_its_place_twice_until_it_is_in_its_final(db: SqlDatabase) -> None:
    part = make_upload(
        session_id=None, kind=UploadKind.PARTIAL, concat="partial", length=1000, recorded_offset=400
    )
    await db.write(lambda tx: tx.uploads.insert(part))
    assert await db.read(lambda tx: tx.uploads.find(part.id)) == part
    assert await db.read(lambda tx: tx.uploads.unwritten_bytes()) == 600 + 1000


async def test_a_final_is_found_by_exactly_its_parts_and_owner(db: SqlDatabase) -> None:
    session = make_session()
    parts = (new_id(), new_id(), new_id())
    final = make_upload(
        session_id=session.id,
        kind=UploadKind.FINAL,
        concat="final;" + " ".join(f"/files/{part}" for part in parts),
        parts=parts,
    )
    await db.write(lambda tx: insert_all(tx, session, final))

    async def found(owner: str, *wanted: str) -> bool:
        return await db.read(lambda tx: tx.uploads.find_final(owner, wanted)) == final

    assert await found(final.owner, *parts)
    assert not await found(final.owner, *reversed(parts))
    assert not await found(final.owner, *parts[:2])
    assert not await found("somebody else", *parts)


async def test_up_to_where_bytes_are_right_is_noted_while_they_come(db: SqlDatabase) -> None:
    session = make_session()
    upload = make_upload(session_id=session.id)
    await db.write(lambda tx: insert_all(tx, session, upload))
    for offset in (17, None):
        await db.write(lambda tx, at=offset: tx.uploads.set_verified(upload.id, at))  # type: ignore[misc]
        found = await db.read(lambda tx: tx.uploads.find(upload.id))
        assert found == replace(upload, verified_offset=offset)
    done = complete(upload, NOON + HOUR)
    await db.write(lambda tx: tx.uploads.update(done, expected=UploadStatus.RECEIVING))
    with pytest.raises(ConflictingUpdate):
        await db.write(lambda tx: tx.uploads.set_verified(upload.id, 3))
