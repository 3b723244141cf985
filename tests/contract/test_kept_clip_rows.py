"""Rows of kept clips, on both databases."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from app.domain.errors import ConflictingUpdate
from app.domain.jobs import Job
from app.domain.kept_clips import KeptClip
from app.infrastructure.database.engine import SqlDatabase
from app.services.ports import Transaction
from tests.factories import insert_all, make_ended_job, make_input, make_kept_clip
from tests.fakes.clock import NOON

HOUR = timedelta(hours=1)


async def store(db: SqlDatabase, jobs: Sequence[Job], *clips: KeptClip) -> None:
    def insert(tx: Transaction) -> None:
        insert_all(tx, *jobs)
        for clip in clips:
            tx.kept_clips.insert(clip)

    await db.write(insert)


async def test_a_kept_clip_is_found_by_its_key_and_by_no_other_owner(db: SqlDatabase) -> None:
    job = make_ended_job()
    clip = make_kept_clip(job_id=job.id, owner="ann", size_bytes=2**40)
    namesake = make_kept_clip(job_id=job.id, owner="ben", key=clip.key)
    await store(db, [job], clip, namesake)
    assert await db.read(lambda tx: tx.kept_clips.find(clip.id)) == clip
    assert await db.read(lambda tx: tx.kept_clips.find_by_key("ann", clip.key)) == clip
    assert await db.read(lambda tx: tx.kept_clips.find_by_key("eve", clip.key)) is None
    assert await db.read(lambda tx: tx.kept_clips.totals()) == (2, 2**40 + namesake.size_bytes)
    again = make_kept_clip(job_id=job.id, owner="ann", key=clip.key)
    with pytest.raises(ConflictingUpdate):
        await db.write(lambda tx: tx.kept_clips.insert(again))


async def test_what_was_used_longest_ago_comes_first_and_a_use_moves_it(db: SqlDatabase) -> None:
    job, other = make_ended_job(), make_ended_job()
    clips = [make_kept_clip(job_id=job.id, used_at=NOON + n * HOUR) for n in range(3)]
    await store(db, [job, other], *clips)

    def use(tx: Transaction) -> list[bool]:
        used = [clips[0].id, "0" * 32]
        return [tx.kept_clips.touch(each, other.id, NOON + 5 * HOUR) for each in used]

    assert await db.write(use) == [True, False]
    used = replace(clips[0], job_id=other.id, used_at=NOON + 5 * HOUR)
    assert await db.read(lambda tx: tx.kept_clips.list_oldest(9)) == [clips[1], clips[2], used]
    assert await db.read(lambda tx: tx.kept_clips.list_oldest(1)) == [clips[1]]
    assert await db.read(lambda tx: tx.kept_clips.list_by_job(job.id)) == [clips[1], clips[2]]
    assert [await db.write(lambda tx: tx.kept_clips.delete(used.id)) for _ in "ab"] == [True, False]
    assert await db.read(lambda tx: tx.kept_clips.list_by_job(other.id)) == []


async def test_kept_clips_are_found_by_the_uploads_of_their_last_job(db: SqlDatabase) -> None:
    upload_id = "a" * 32
    job = make_ended_job(inputs=(make_input("b" * 32), make_input(upload_id)))
    stranger = make_ended_job(inputs=(make_input("c" * 32),))
    clip, foreign = make_kept_clip(job_id=job.id), make_kept_clip(job_id=stranger.id)
    await store(db, [job, stranger], clip, foreign)
    assert await db.read(lambda tx: tx.kept_clips.list_by_upload(upload_id)) == [clip]
    assert await db.read(lambda tx: tx.kept_clips.list_by_upload("d" * 32)) == []
