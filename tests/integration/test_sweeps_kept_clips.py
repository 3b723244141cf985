"""kept_clips: clips past their time and beyond their room, and the deletions that take them along."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.domain.jobs import JobStatus
from app.domain.kept_clips import KeptClip
from app.domain.layout import kept_clip_path
from app.domain.sweeps import SweepName
from app.domain.tombstones import Reason
from app.domain.uploads import UploadStatus
from app.services.burial import bury_batch, bury_upload
from app.services.ports import Transaction
from app.services.storage_ledger import StorageLedger
from tests.fakes.retention import DAY, HOUR, World, open_world
from tests.fakes.sweeping import dry_run, sweep

KEPT = SweepName.KEPT_CLIPS
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


def paths_of(*clips: KeptClip) -> set[str]:
    return {kept_clip_path(clip.id) for clip in clips}


async def rows(world: World) -> set[str]:
    found = await world.db.read(lambda tx: tx.kept_clips.list_oldest(99))
    return {clip.id for clip in found}


async def test_a_clip_that_nobody_used_for_long_goes_and_a_dry_run_says_so_first(
    world: World,
) -> None:
    job = await world.ended_job(JobStatus.COMPLETED, expires_at=world.clock.now() + DAY)
    idle = await world.kept_clip(job)
    world.clock.advance(HOUR - MINUTE)
    used = await world.kept_clip(job)
    assert (await sweep(world, KEPT)).removed == 0
    world.clock.advance(MINUTE)

    _, victims = await dry_run(world, KEPT)
    assert [(each.kind, each.id, each.size_bytes) for each in victims] == [
        ("kept_clip", idle.id, 70)
    ]
    assert victims[0].why == "not used for 1 h"
    assert world.stored() == paths_of(idle, used)

    report = await sweep(world, KEPT)
    assert (report.removed, report.bytes_freed, report.errors) == (1, 70, ())
    assert world.stored() == paths_of(used)
    assert (await rows(world), await world.pending()) == ({used.id}, [])


async def test_what_was_used_longest_ago_makes_room(world: World) -> None:
    job = await world.ended_job(JobStatus.COMPLETED)
    clips = []
    for _ in range(5):
        clips.append(await world.kept_clip(job, b"z" * 300))
        world.clock.advance(MINUTE)
    await world.db.write(lambda tx: tx.kept_clips.touch(clips[0].id, job.id, world.clock.now()))

    _, victims = await dry_run(world, KEPT)
    assert [each.why for each in victims] == ["no room: it was used longest ago"] * 2
    assert (await sweep(world, KEPT, limit=1)).removed == 1
    assert (await sweep(world, KEPT)).removed == 1
    assert (await sweep(world, KEPT)).examined == 0
    assert world.stored() == paths_of(clips[0], clips[3], clips[4])


async def test_a_disk_without_its_reserve_gets_it_from_kept_clips(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.ended_job(JobStatus.COMPLETED)
    clips = []
    for _ in range(3):
        clips.append(await world.kept_clip(job, b"z" * 100))
        world.clock.advance(MINUTE)
    world.kept_clips = replace(world.kept_clips, reserve_bytes=10_000)
    monkeypatch.setattr(world.files, "free_bytes", lambda: 9_850)
    assert (await sweep(world, KEPT)).removed == 2
    assert world.stored() == paths_of(clips[2])


async def test_nothing_is_left_once_nothing_is_kept(world: World) -> None:
    job = await world.ended_job(JobStatus.COMPLETED)
    await world.kept_clip(job)
    world.kept_clips = replace(world.kept_clips, kept_for=timedelta())
    assert (await sweep(world, KEPT)).removed == 1
    assert world.stored() == set()


async def test_a_clip_that_is_used_between_look_and_removal_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.ended_job(JobStatus.COMPLETED)
    clip = await world.kept_clip(job)
    world.clock.advance(HOUR)
    read = world.db.read

    async def read_then_use(work: Callable[[Transaction], Any]) -> Any:
        found = await read(work)
        await world.db.write(lambda tx: tx.kept_clips.touch(clip.id, job.id, world.clock.now()))
        return found

    monkeypatch.setattr(world.db, "read", read_then_use)
    assert (await sweep(world, KEPT)).skipped == {"in_use": 1}
    assert world.stored() == paths_of(clip)


async def test_a_row_without_its_file_goes_like_any_other(world: World) -> None:
    job = await world.ended_job(JobStatus.COMPLETED)
    clip = await world.kept_clip(job)
    world.path(kept_clip_path(clip.id)).unlink()
    world.clock.advance(HOUR)
    report = await sweep(world, KEPT)
    assert (report.removed, report.bytes_freed, report.errors) == (1, 0, ())


async def test_a_file_that_an_owner_deletes_takes_what_was_made_of_it_along(world: World) -> None:
    batch, (upload, other) = await world.batch(2)
    _, (stranger,) = await world.batch(1)
    both = await world.ended_job(JobStatus.COMPLETED, upload, other)
    of_both = await world.kept_clip(both)
    of_other = await world.kept_clip(await world.ended_job(JobStatus.COMPLETED, other))
    foreign = await world.kept_clip(await world.ended_job(JobStatus.COMPLETED, stranger))
    now = world.clock.now()

    gone = await world.db.write(
        lambda tx: bury_upload(tx, upload, reason=Reason.TERMINATED, sweep=None, now=now)
    )
    assert paths_of(of_both) < set(gone)
    await world.disposal.settle(gone)
    assert await rows(world) == {of_other.id, foreign.id}

    gone = await world.db.write(
        lambda tx: bury_batch(tx, batch, reason=Reason.TERMINATED, sweep=None, now=now)
    )
    await world.disposal.settle(gone)
    assert await rows(world) == {foreign.id}
    assert world.stored() == paths_of(foreign) | {f"uploads/{stranger.id}"}
    assert await world.pending() == []


async def test_a_clip_goes_with_its_spent_input_and_with_its_job(world: World) -> None:
    now = world.clock.now()
    _, (spent, other) = await world.batch(2)
    of_spent = await world.kept_clip(await world.ended_job(JobStatus.COMPLETED, spent))
    failed = await world.ended_job(JobStatus.FAILED, other)
    of_failed = await world.kept_clip(failed)
    await world.db.write(
        lambda tx: tx.uploads.update(
            replace(spent, spent_at=now - MINUTE), expected=UploadStatus.COMPLETED
        )
    )
    assert (await sweep(world, SweepName.SPENT_INPUTS)).bytes_freed == 170
    assert await rows(world) == {of_failed.id}
    assert kept_clip_path(of_spent.id) not in world.stored()
    world.clock.advance(2 * HOUR)
    assert (await sweep(world, SweepName.EXPIRED_JOBS)).removed == 2
    assert world.stored() == {f"uploads/{other.id}"}
    assert (await rows(world), await world.pending()) == (set(), [])


async def test_the_storage_report_shows_kept_clips(world: World) -> None:
    job = await world.ended_job(JobStatus.COMPLETED)
    clip = await world.kept_clip(job)
    folder = await world.files.make_scratch(job.id, 1, {})
    assert await world.files.take_clip(clip.id, 70, folder / "taken.mp4")
    ledger = StorageLedger(world.db, world.files, world.clock, world.metrics)
    kinds = {kind.kind: kind for kind in (await ledger.report()).kinds}
    cache, work = kinds["cache"], kinds["work"]
    assert (cache.count, cache.size_bytes) == (1, 70)
    assert [(row.state, row.count, row.size_bytes) for row in cache.rows] == [("kept", 1, 70)]
    assert (work.count, work.size_bytes) == (1, 0)
