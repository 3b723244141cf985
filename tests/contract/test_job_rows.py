"""Rows of jobs, on both databases."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from app.domain.errors import ConflictingUpdate
from app.domain.jobs import InputRole, Job, JobError, JobInput, JobStatus
from app.infrastructure.database.engine import SqlDatabase
from app.services.ports import Beat, Cursor, JobFilter
from tests.factories import (
    insert_all,
    make_ended_job,
    make_fence,
    make_input,
    make_job,
    make_output,
    make_processing_job,
)
from tests.fakes.clock import NOON

HOUR = timedelta(hours=1)
DEADLINE = NOON + HOUR


async def find(db: SqlDatabase, job: Job) -> Job | None:
    return await db.read(lambda tx: tx.jobs.find(job.id))


async def test_a_job_comes_back_as_it_was_stored(db: SqlDatabase) -> None:
    job = make_job(
        batch_id="b" * 32,
        params={"start": 0.04, "text": "\N{CLAPPER BOARD}", "none": None},
        inputs=(
            make_input("2" * 32, order=1),
            JobInput(role=InputRole.LOGO, output_id="1" * 32),
            make_input("0" * 32),
        ),
        status=JobStatus.FAILED,
        priority=-5,
        attempt=3,
        from_then=True,
        worker="w1",
        cancel_requested=True,
        progress=33.25,
        stage="encode",
        warnings=("no sound",),
        result={"mode": "exact"},
        error=JobError("render_failed", "It failed", {"exit": 1}),
        dispatched_at=NOON,
        started_at=NOON + HOUR,
        heartbeat_at=NOON + 2 * HOUR,
        deadline_at=NOON + 3 * HOUR,
        completed_at=NOON + 4 * HOUR,
        expires_at=NOON + 5 * HOUR,
        version=7,
    )
    plain = make_job(inputs=())
    await db.write(lambda tx: insert_all(tx, job, plain))
    assert await find(db, job) == job
    assert await find(db, plain) == plain
    assert await db.read(lambda tx: tx.jobs.find("0" * 32)) is None


async def test_an_input_is_an_upload_or_an_output_and_not_both_or_neither(db: SqlDatabase) -> None:
    for wrong in (
        JobInput(InputRole.CLIP),
        JobInput(InputRole.CLIP, upload_id="0" * 32, output_id="1" * 32),
    ):
        job = make_job(inputs=(wrong,))
        with pytest.raises(ConflictingUpdate):
            await db.write(lambda tx, job=job: insert_all(tx, job))  # type: ignore[misc]
        assert await find(db, job) is None


async def test_deleting_a_job_takes_its_inputs_along(db: SqlDatabase) -> None:
    job = make_job(inputs=(make_input("a" * 32),))
    await db.write(lambda tx: insert_all(tx, job))
    assert await db.write(lambda tx: tx.jobs.delete(job.id)) is True
    assert await db.write(lambda tx: tx.jobs.delete(job.id)) is False
    again = replace(job, inputs=(make_input("b" * 32),))
    await db.write(lambda tx: insert_all(tx, again))
    assert await find(db, job) == again


async def test_claiming_makes_a_queued_job_the_workers(db: SqlDatabase) -> None:
    job = make_job(progress=50.0, stage="left over")
    await db.write(lambda tx: insert_all(tx, job))
    claimed = await db.write(
        lambda tx: tx.jobs.claim(make_fence(job), now=NOON, deadline_at=DEADLINE)
    )
    assert claimed == replace(
        job,
        status=JobStatus.PROCESSING,
        worker="w1",
        progress=0.0,
        stage=None,
        started_at=NOON,
        heartbeat_at=NOON,
        deadline_at=DEADLINE,
        version=2,
    )
    assert await find(db, job) == claimed


async def test_of_many_claims_one_wins(db: SqlDatabase, other: SqlDatabase) -> None:
    job = make_job()
    await db.write(lambda tx: insert_all(tx, job))

    async def claim(database: SqlDatabase, worker: str) -> Job | None:
        fence = make_fence(job, worker)
        return await database.write(lambda tx: tx.jobs.claim(fence, now=NOON, deadline_at=DEADLINE))

    outcomes = await asyncio.gather(
        *(claim(database, f"w{number}") for number in range(8) for database in (db, other))
    )
    (winner,) = [outcome for outcome in outcomes if outcome is not None]
    assert await find(db, job) == winner


@pytest.mark.parametrize("status", [status for status in JobStatus if status != JobStatus.QUEUED])
async def test_only_queued_jobs_can_be_claimed(db: SqlDatabase, status: JobStatus) -> None:
    job = make_job(status=status)
    await db.write(lambda tx: insert_all(tx, job))
    fence = make_fence(job)
    assert await db.write(lambda tx: tx.jobs.claim(fence, now=NOON, deadline_at=DEADLINE)) is None
    assert await find(db, job) == job


async def test_an_old_delivery_claims_nothing(db: SqlDatabase) -> None:
    job = make_job(attempt=2)
    await db.write(lambda tx: insert_all(tx, job))
    old = make_fence(replace(job, attempt=1))
    assert await db.write(lambda tx: tx.jobs.claim(old, now=NOON, deadline_at=DEADLINE)) is None
    assert await find(db, job) == job


async def test_a_beat_renews_and_tells_of_a_wish_to_cancel(db: SqlDatabase) -> None:
    job = make_processing_job()
    await db.write(lambda tx: insert_all(tx, job))
    fence = make_fence(job)
    beat = await db.write(
        lambda tx: tx.jobs.beat(fence, now=NOON + HOUR, progress=12.5, stage="encode")
    )
    assert beat == Beat(cancel_requested=False)
    assert await find(db, job) == replace(
        job, heartbeat_at=NOON + HOUR, progress=12.5, stage="encode", version=2
    )
    await db.write(lambda tx: tx.jobs.request_cancel(job.id))
    beat = await db.write(lambda tx: tx.jobs.beat(fence, now=NOON, progress=13, stage=None))
    assert beat == Beat(cancel_requested=True)


async def test_whoever_lost_the_job_changes_nothing(db: SqlDatabase) -> None:
    mine = make_processing_job(attempt=2, worker="w2")
    ended = make_ended_job(worker=None)
    await db.write(lambda tx: insert_all(tx, mine, ended))
    losers = [
        make_fence(mine, "w1"),
        make_fence(replace(mine, attempt=1), "w2"),
        make_fence(ended, "w1"),
        make_fence(make_job(), "w1"),
    ]
    for fence in losers:
        job = replace(mine if fence.job_id == mine.id else ended, progress=99.0)
        assert not await db.write(lambda tx, f=fence, j=job: tx.jobs.update_fenced(j, f))  # type: ignore[misc]
        beat = await db.write(
            lambda tx, f=fence: tx.jobs.beat(f, now=NOON, progress=99.0, stage="x")  # type: ignore[misc]
        )
        assert beat is None
    assert await find(db, mine) == mine
    assert await find(db, ended) == ended


async def test_the_holder_writes_the_whole_row_once(db: SqlDatabase) -> None:
    job = make_processing_job()
    await db.write(lambda tx: insert_all(tx, job))
    ended = replace(
        job,
        status=JobStatus.COMPLETED,
        worker=None,
        progress=100.0,
        result={"frames": 150},
        warnings=("no sound",),
        completed_at=NOON + HOUR,
        expires_at=NOON + 2 * HOUR,
        deadline_at=None,
    )
    fence = make_fence(job)
    assert await db.write(lambda tx: tx.jobs.update_fenced(ended, fence)) is True
    assert await db.write(lambda tx: tx.jobs.update_fenced(ended, fence)) is False
    assert await find(db, job) == replace(ended, version=2)


async def test_an_update_meets_only_the_status_and_attempt_it_expects(db: SqlDatabase) -> None:
    job = make_processing_job()
    await db.write(lambda tx: insert_all(tx, job))
    again = replace(job, status=JobStatus.QUEUED, attempt=2, worker=None)
    for expected, attempt in ((JobStatus.QUEUED, 1), (JobStatus.PROCESSING, 2)):
        with pytest.raises(ConflictingUpdate):
            await db.write(
                lambda tx, e=expected, a=attempt: tx.jobs.update(again, expected=e, attempt=a)  # type: ignore[misc]
            )
    assert await find(db, job) == job
    await db.write(lambda tx: tx.jobs.update(again, expected=JobStatus.PROCESSING, attempt=1))
    assert await find(db, job) == replace(again, version=2)


async def test_a_wish_to_cancel_counts_once_and_only_for_active_jobs(db: SqlDatabase) -> None:
    job, ended = make_processing_job(), make_ended_job()
    await db.write(lambda tx: insert_all(tx, job, ended))
    for each in (job, job, ended):
        await db.write(lambda tx, each=each: tx.jobs.request_cancel(each.id))  # type: ignore[misc]
    assert await find(db, job) == replace(job, cancel_requested=True, version=2)
    assert await find(db, ended) == ended


async def test_a_dispatch_is_marked_while_that_attempt_is_queued(db: SqlDatabase) -> None:
    job, running = make_job(attempt=2), make_processing_job()
    await db.write(lambda tx: insert_all(tx, job, running))
    await db.write(lambda tx: tx.jobs.mark_dispatched(job.id, 1, NOON))
    await db.write(lambda tx: tx.jobs.mark_dispatched(running.id, 1, NOON))
    assert await find(db, job) == job
    assert await find(db, running) == running
    await db.write(lambda tx: tx.jobs.mark_dispatched(job.id, 2, NOON))
    assert await find(db, job) == replace(job, dispatched_at=NOON, version=2)


async def test_claimable_are_queued_jobs_by_priority_then_age(db: SqlDatabase) -> None:
    young = make_job(created_at=NOON + HOUR)
    old = make_job(created_at=NOON)
    urgent = make_job(created_at=NOON + 2 * HOUR, priority=10)
    running = make_processing_job(priority=20)
    await db.write(lambda tx: insert_all(tx, young, old, urgent, running))
    assert await db.read(lambda tx: tx.jobs.list_claimable(10)) == [urgent, old, young]
    assert await db.read(lambda tx: tx.jobs.list_claimable(1)) == [urgent]
    assert await db.read(lambda tx: tx.jobs.count_queued()) == 3
    assert await db.read(lambda tx: tx.jobs.list_processing(10)) == [running]


async def test_undispatched_are_queued_jobs_that_nobody_was_told_of_lately(db: SqlDatabase) -> None:
    never, long_ago = (
        make_job(created_at=NOON),
        make_job(created_at=NOON + HOUR, dispatched_at=NOON - HOUR),
    )
    lately = make_job(dispatched_at=NOON)
    running = make_processing_job(dispatched_at=None)
    await db.write(lambda tx: insert_all(tx, never, long_ago, lately, running))
    assert await db.read(lambda tx: tx.jobs.list_undispatched(NOON, 10)) == [never, long_ago]
    assert await db.read(lambda tx: tx.jobs.list_undispatched(NOON, 1)) == [never]


async def test_expired_are_ended_jobs_past_their_time_and_jobs_queued_too_long(
    db: SqlDatabase,
) -> None:
    forgotten = make_job(created_at=NOON - 3 * HOUR)
    completed = make_ended_job(created_at=NOON - 2 * HOUR, expires_at=NOON - HOUR)
    failed = make_ended_job(created_at=NOON - HOUR, expires_at=NOON - HOUR, status=JobStatus.FAILED)
    kept = make_ended_job(expires_at=NOON)
    waiting = make_job(created_at=NOON - HOUR)
    running = make_processing_job(created_at=NOON - 9 * HOUR, expires_at=NOON - HOUR)
    jobs = (forgotten, completed, failed, kept, waiting, running)
    await db.write(lambda tx: insert_all(tx, *jobs))
    found = await db.read(lambda tx: tx.jobs.list_expired(NOON, NOON - 2 * HOUR, 10))
    assert found == [forgotten, completed, failed]
    assert await db.read(lambda tx: tx.jobs.list_expired(NOON, NOON - 2 * HOUR, 1)) == [forgotten]


async def test_active_readers_of_uploads_and_outputs_are_found_once(db: SqlDatabase) -> None:
    upload_id, output_id = "a" * 32, "b" * 32
    both = make_job(
        created_at=NOON,
        inputs=(make_input(upload_id), make_input(upload_id), make_input(output_id=output_id)),
    )
    reads_output = make_processing_job(
        created_at=NOON + HOUR, inputs=(make_input(output_id=output_id),)
    )
    ended = make_ended_job(inputs=(make_input(upload_id),))
    unrelated = make_job()
    await db.write(lambda tx: insert_all(tx, both, reads_output, ended, unrelated))

    async def readers(uploads: list[str], outputs: list[str]) -> list[Job]:
        return await db.read(
            lambda tx: tx.jobs.list_active_reading(upload_ids=uploads, output_ids=outputs)
        )

    assert await readers([upload_id, "c" * 32], []) == [both]
    assert await readers([], [output_id]) == [both, reads_output]
    assert await readers([upload_id], [output_id]) == [both, reads_output]
    assert await readers([], []) == []
    assert await readers([f"{number:032x}" for number in range(1200)] + [upload_id], []) == [both]


async def test_jobs_of_a_batch_come_oldest_first(db: SqlDatabase) -> None:
    batch_id = "b" * 32
    late = make_job(batch_id=batch_id, created_at=NOON + HOUR)
    early = make_ended_job(batch_id=batch_id)
    await db.write(lambda tx: insert_all(tx, late, early, make_job()))
    assert await db.read(lambda tx: tx.jobs.list_by_batch(batch_id)) == [early, late]


async def test_pages_of_jobs_filter_and_miss_nothing_of_the_same_instant(db: SqlDatabase) -> None:
    batch_id = "b" * 32
    wanted = [
        make_ended_job(
            batch_id=batch_id,
            operation="concat",
            created_at=NOON + (number // 3) * HOUR,
            inputs=(make_input(), make_input()),
        )
        for number in range(7)
    ]
    others = [
        make_ended_job(batch_id=batch_id),
        make_job(batch_id=batch_id, operation="concat"),
        make_ended_job(operation="concat"),
        make_ended_job(batch_id=batch_id, operation="concat", owner="another"),
    ]
    await db.write(lambda tx: insert_all(tx, *wanted, *others))
    where = JobFilter(batch_id=batch_id, status=JobStatus.COMPLETED, operation="concat")
    seen: list[Job] = []
    cursor = None
    while page := await db.read(
        lambda tx, cursor=cursor: tx.jobs.list_page("owner", where, cursor, 2)  # type: ignore[misc]
    ):
        assert len(page) <= 2
        seen += page
        cursor = Cursor(page[-1].created_at, page[-1].id)
    assert seen == sorted(wanted, key=lambda job: (job.created_at, job.id), reverse=True)
    everything = await db.read(lambda tx: tx.jobs.list_page("owner", JobFilter(), None, 100))
    assert len(everything) == 10


async def test_totals_count_jobs_by_status(db: SqlDatabase) -> None:
    await db.write(lambda tx: insert_all(tx, make_job(), make_job(), make_ended_job()))
    assert await db.read(lambda tx: tx.jobs.totals()) == {
        JobStatus.QUEUED: 2,
        JobStatus.COMPLETED: 1,
    }


async def test_a_job_with_outputs_cannot_vanish_from_under_them(db: SqlDatabase) -> None:
    job = make_ended_job()
    output = make_output(job_id=job.id)
    await db.write(lambda tx: insert_all(tx, job, output))
    with pytest.raises(ConflictingUpdate):
        await db.write(lambda tx: tx.jobs.delete(job.id))
    assert await find(db, job) == job
