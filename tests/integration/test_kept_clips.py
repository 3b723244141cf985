"""Steps whose results are kept: found again by their owner only, and nothing left whatever happens."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.domain import layout
from app.domain.access import OWNER
from app.domain.errors import NoSpace, StorageFailed
from app.domain.jobs import Job, JobStatus
from app.domain.kept_clips import KeptClip
from app.domain.sweeps import SweepName
from app.infrastructure.worker.digests import FileDigests
from app.services import job_rates
from app.services.job_requests import JobRequest
from app.services.job_steps import kept_key
from app.services.kept_clips import PROMISE
from app.services.ports import Files, Transaction
from app.services.sweeps.base import SweepRun
from app.services.sweeps.inputs import SpentInputs
from tests.factories import make_request
from tests.fakes.doomed_worker import KEEPING_POINTS
from tests.fakes.job_house import KEPT_CLIPS, MADE_BY, House, eventually, prepare
from tests.fakes.media import CLIP
from tests.fakes.steps import RESULT

REPOSITORY = Path(__file__).parents[2]
OTHER_CLIP = CLIP + b" and another"


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    prepare(tmp_path)
    house = House.build(tmp_path)
    yield house
    await house.close()


async def ask(house: House, *contents: bytes, owner: str = OWNER, until: float = 5.0) -> Job:
    """Ask for an album of new uploads with these contents."""
    batch, _ = await house.add_batch(*contents, owner=owner)
    request = JobRequest("album", {"until": until}, batch_id=batch.id)
    return (await house.jobs.create(owner, request)).view.job


async def make(house: House, *contents: bytes, **how: Any) -> tuple[Job, list[str]]:
    """Make an album; returns its job's row and the steps that ran for it."""
    job = await ask(house, *contents, **how)
    before = len(house.steps.ran)
    await house.runner.run(job.id, job.attempt)
    return await house.row(job.id), house.steps.ran[before:]


async def clips(house: House) -> list[KeptClip]:
    return await house.real_db.read(lambda tx: tx.kept_clips.list_oldest(99))


def key_of(content: bytes, until: float = 5.0) -> str:
    digest = hashlib.sha256(content).hexdigest()
    return kept_key(hashlib.sha256(f"{digest} {until}".encode()).hexdigest(), MADE_BY)


def kept_files(house: House) -> list[str]:
    return sorted(path.name for path in (house.root / layout.CACHE).iterdir())


def lookups(house: House, outcome: str) -> float:
    text = house.metrics.render().decode()
    line = f'tidemill_kept_clip_lookups_total{{outcome="{outcome}"}} '
    return float(text.partition(line)[2].partition("\n")[0])


async def unexplained(house: House) -> set[str]:
    """Files of the cache that neither a row nor a promise to delete them accounts for."""
    rows = {layout.kept_clip_path(each.id) for each in await clips(house)}
    found = {f"{layout.CACHE}/{name}" for name in kept_files(house)}
    return found - rows - set(await house.cleanups())


async def test_what_was_made_once_is_taken_by_the_next_job(house: House) -> None:
    first, ran = await make(house, CLIP, OTHER_CLIP)
    assert (first.status, ran) == (JobStatus.COMPLETED, ["press-0", "press-1", "bind"])
    assert first.result == {"pages": 2}
    assert len(await clips(house)) == 2

    second, ran = await make(house, OTHER_CLIP, CLIP, OTHER_CLIP)
    assert (second.status, ran) == (JobStatus.COMPLETED, ["bind"])
    assert second.result == {"pages": 3, "steps_reused": 3}
    assert {each.job_id for each in await clips(house)} == {second.id}
    assert all(each.used_at > each.created_at for each in await clips(house))

    third, ran = await make(house, CLIP, until=4.0)
    assert (third.status, ran) == (JobStatus.COMPLETED, ["press-0", "bind"])
    assert (lookups(house, "found"), lookups(house, "missing")) == (3, 3)
    assert kept_files(house) == sorted(each.id for each in await clips(house))
    assert await house.cleanups() == []


async def test_the_same_clip_twice_in_one_job_is_made_once(house: House) -> None:
    job, ran = await make(house, CLIP, CLIP)
    assert (job.status, ran) == (JobStatus.COMPLETED, ["press-0", "bind"])
    assert len(await clips(house)) == 1


async def test_a_run_counts_the_digests_it_wants_and_stores_them(house: House) -> None:
    job = await ask(house, CLIP, OTHER_CLIP)
    read = [each.upload_id for each in job.inputs]
    assert [(await house.upload(str(each))).sha256 for each in read] == [None, None]
    await house.runner.run(job.id, 1)
    digests = [(await house.upload(str(each))).sha256 for each in read]
    assert len({*digests, None}) == 3

    plain = await house.add_job()
    await house.runner.run(plain.id, 1)
    assert (await house.upload(str(plain.inputs[0].upload_id))).sha256 is None


async def test_a_cancelled_digest_stops_reading() -> None:
    endless = asyncio.create_task(FileDigests().of(Path("/dev/zero")))
    await asyncio.sleep(0.05)
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless
    # Waits for its thread.
    await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), 15)


async def test_an_input_of_another_length_than_its_row_says_fails_the_job(house: House) -> None:
    job = await ask(house, CLIP)
    (house.root / layout.upload_path(str(job.inputs[0].upload_id))).write_bytes(CLIP + b"!")
    for attempt in (1, 2, 3):
        await house.runner.run(job.id, attempt)
    ended = await house.row(job.id)
    assert ended.error is not None
    assert ended.error.code == StorageFailed.code
    assert house.steps.ran == []


async def test_a_run_that_reused_a_step_tells_nothing_of_the_machines_speed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_rates, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(job_rates, "LEAST_EFFORT", 1.0)

    async def takes_its_time(_: Path, __: object) -> None:
        await asyncio.sleep(0.5)

    async def best() -> float | None:
        return await house.real_db.read(lambda tx: tx.rates.best("album"))

    house.steps.script = takes_its_time
    await make(house, CLIP)
    measured = await best()
    assert measured is not None
    house.steps.script = None
    await make(house, CLIP)
    assert await best() == measured


async def test_two_owners_never_share_a_clip(house: House) -> None:
    await make(house, CLIP, owner="ann")
    job, ran = await make(house, CLIP, owner="ben")
    assert (job.status, ran) == (JobStatus.COMPLETED, ["press-0", "bind"])
    assert job.result == {"pages": 1}
    ann, ben = await clips(house)
    assert {ann.owner, ben.owner} == {"ann", "ben"}
    assert ann.key == ben.key
    paths = [house.root / layout.kept_clip_path(each.id) for each in (ann, ben)]
    assert not paths[0].samefile(paths[1])


async def test_of_two_jobs_that_make_the_same_at_once_one_is_kept(house: House) -> None:
    jobs = [await ask(house, CLIP) for _ in range(2)]
    house.steps.gate = asyncio.Event()
    runs = [asyncio.create_task(house.runner.run(job.id, 1)) for job in jobs]

    async def both_run() -> bool:
        return house.steps.living == 2

    await eventually(both_run)
    house.steps.gate.set()
    await asyncio.gather(*runs)
    assert [(await house.row(job.id)).status for job in jobs] == [JobStatus.COMPLETED] * 2
    assert kept_files(house) == [each.id for each in await clips(house)]
    assert len(kept_files(house)) == 1
    assert await house.cleanups() == []


@pytest.mark.parametrize("damage", ["cut", "gone", "replaced"])
async def test_a_damaged_clip_is_forgotten_and_made_again(
    house: House, damage: str, tmp_path: Path
) -> None:
    await make(house, CLIP)
    (before,) = await clips(house)
    path = house.root / layout.kept_clip_path(before.id)
    path.unlink()
    if damage == "cut":
        path.write_bytes(RESULT[:-1])
    if damage == "replaced":
        path.symlink_to(tmp_path / layout.DATABASE)
    job, ran = await make(house, CLIP)
    assert (job.status, ran) == (JobStatus.COMPLETED, ["press-0", "bind"])
    (after,) = await clips(house)
    assert (kept_files(house), before.id != after.id) == ([after.id], True)
    assert (house.root / layout.kept_clip_path(after.id)).read_bytes() == RESULT
    assert lookups(house, "damaged") == 1
    assert await house.cleanups() == []
    assert (await make(house, CLIP))[1] == ["bind"]


async def test_a_clip_past_its_time_is_not_taken_though_no_sweep_came(house: House) -> None:
    await make(house, CLIP)
    (old,) = await clips(house)
    past = house.clock.now() - KEPT_CLIPS.kept_for
    await house.real_db.write(lambda tx: tx.kept_clips.touch(old.id, old.job_id, past))
    assert (await make(house, CLIP))[1] == ["press-0", "bind"]
    (new,) = await clips(house)
    assert kept_files(house) == [new.id] != [old.id]


async def test_a_clip_in_use_survives_its_removal(house: House) -> None:
    await make(house, CLIP)
    (clip,) = await clips(house)

    async def remove_while_binding(folder: Path, _: object) -> None:
        assert clip.id in kept_files(house)
        (house.root / layout.kept_clip_path(clip.id)).unlink()
        assert (folder / "press-0.mp4").read_bytes() == RESULT

    house.steps.script = remove_while_binding
    job, ran = await make(house, CLIP)
    assert (job.status, ran) == (JobStatus.COMPLETED, ["bind"])


class FullFiles:
    """A disk that is full for kept clips alone, or fails there in another way."""

    def __init__(self, inner: Files, error: Exception) -> None:
        self._inner = inner
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def keep_clip(self, source: Path, clip_id: str) -> int:
        await self._inner.keep_clip(source, clip_id)
        raise self._error

    async def take_clip(self, clip_id: str, size_bytes: int, target: Path) -> bool:
        raise self._error


@pytest.mark.parametrize("error", [NoSpace("full"), StorageFailed("broken")])
async def test_trouble_with_keeping_fails_no_job_and_leaves_nothing(
    tmp_path: Path, error: Exception
) -> None:
    prepare(tmp_path)
    house = House.build(tmp_path, files_through=lambda files: FullFiles(files, error))
    try:
        job, ran = await make(house, CLIP)
        assert (job.status, ran) == (JobStatus.COMPLETED, ["press-0", "bind"])
        assert (kept_files(house), await clips(house), await house.cleanups()) == ([], [], [])
        now, key = house.clock.now(), key_of(CLIP)
        row = KeptClip("a" * 32, OWNER, key, job.id, len(RESULT), now, now)
        await house.real_db.write(lambda tx: tx.kept_clips.insert(row))
        job, ran = await make(house, CLIP)
        assert (job.status, ran) == (JobStatus.COMPLETED, ["press-0", "bind"])
    finally:
        await house.close()


@pytest.mark.parametrize(
    "policy",
    [
        replace(KEPT_CLIPS, kept_for=timedelta()),
        replace(KEPT_CLIPS, max_bytes=0),
        replace(KEPT_CLIPS, max_bytes=len(RESULT) - 1),
        replace(KEPT_CLIPS, reserve_bytes=2**62),
    ],
    ids=["no time", "no room", "too large", "disk short"],
)
async def test_nothing_is_kept_where_it_must_not_be(tmp_path: Path, policy: Any) -> None:
    prepare(tmp_path)
    house = House.build(tmp_path, kept_clips=policy)
    try:
        for _ in range(2):
            assert (await make(house, CLIP))[1] == ["press-0", "bind"]
        assert (kept_files(house), await clips(house), await house.cleanups()) == ([], [], [])
    finally:
        await house.close()


async def test_a_new_clip_takes_the_place_of_what_was_used_longest_ago(tmp_path: Path) -> None:
    prepare(tmp_path)
    house = House.build(tmp_path, kept_clips=replace(KEPT_CLIPS, max_bytes=2 * len(RESULT)))
    one, two, three = (CLIP + name for name in (b"one", b"two", b"three"))
    try:
        await make(house, one)
        await make(house, two)
        await make(house, one)
        await make(house, three)
        assert len(kept_files(house)) == 2
        assert sorted(each.id for each in await clips(house)) == kept_files(house)
        assert (await make(house, one, three))[1] == ["bind"]
        assert (await make(house, two))[1] == ["press-0", "bind"]
        assert await house.cleanups() == []
    finally:
        await house.close()


async def test_an_attempt_that_lost_its_job_keeps_nothing(house: House) -> None:
    job = await ask(house, CLIP)

    async def lose_it(_: Path, __: object) -> None:
        def take_away(tx: Transaction) -> None:
            row = tx.jobs.find(job.id)
            assert row is not None
            later = replace(row, attempt=row.attempt + 1)
            tx.jobs.update(later, expected=JobStatus.PROCESSING, attempt=row.attempt)

        if house.steps.ran == ["press-0"]:
            await house.real_db.write(take_away)

    house.steps.script = lose_it
    await house.runner.run(job.id, 1)
    assert (kept_files(house), await clips(house), await house.cleanups()) == ([], [], [])


@pytest.mark.parametrize("point", KEEPING_POINTS)
async def test_a_worker_killed_while_it_keeps_a_clip_leaves_nothing_unexplained(
    house: House, point: str
) -> None:
    job = await ask(house, CLIP)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.fakes.doomed_worker", str(house.root), point],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9, done.stderr.decode()
    assert len(kept_files(house)) == (0 if point == "after_promise" else 1)
    assert await unexplained(house) == set()

    await house.recovery.run()
    await house.runner.run(job.id, 2)
    row = await house.row(job.id)
    assert row.status is JobStatus.COMPLETED
    assert ("press-0" in house.steps.ran) == (point != "after_kept")
    assert await unexplained(house) == set()
    later = house.clock.now() + PROMISE
    disposal = house.closing._disposal
    await SpentInputs(house.real_db, house.files, disposal).run(
        SweepRun(SweepName.SPENT_INPUTS, later, 99)
    )
    (clip,) = await clips(house)
    assert (kept_files(house), await house.cleanups()) == ([clip.id], [])
    assert (await make(house, CLIP))[1] == ["bind"]


async def test_deleting_the_job_takes_what_it_used_last_along(house: House) -> None:
    job, _ = await make(house, CLIP)
    assert len(kept_files(house)) == 1
    await house.jobs.delete(OWNER, job.id, cancel=False)
    assert (kept_files(house), await clips(house), await house.cleanups()) == ([], [], [])


async def test_a_request_that_is_waited_for_takes_no_clip_along_that_another_job_made(
    house: House,
) -> None:
    first, _ = await make(house, CLIP)
    (kept,) = await clips(house)
    job = await ask(house, CLIP, OTHER_CLIP)
    await house.real_db.write(lambda tx: tx.requests.insert(make_request(house.worker, job)))
    await house.runner.run(job.id, job.attempt)
    assert house.steps.ran[-2:] == ["press-1", "bind"]
    assert {each.job_id for each in await clips(house)} == {first.id, job.id}

    await house.jobs.delete(OWNER, job.id, cancel=False)
    # What it made itself is gone with it; what it only took is used, and not its own.
    (left,) = await clips(house)
    assert (left.id, left.job_id) == (kept.id, first.id)
    assert left.used_at > kept.used_at
    assert kept_files(house) == [kept.id]
    assert await house.cleanups() == []


async def test_a_clip_that_another_ffmpeg_made_is_not_taken(tmp_path: Path) -> None:
    prepare(tmp_path)
    found = []
    for version in ("8.0", "9.0.2", "8.0"):
        house = House.build(tmp_path, made_by=version)
        found.append((await make(house, CLIP))[1])
        await house.close()
    assert found == [["press-0", "bind"], ["press-0", "bind"], ["bind"]]
