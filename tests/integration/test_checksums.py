"""The digests of completed uploads: right, in nobody's way, and never in the way of a deletion."""

import asyncio
import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from app.domain.errors import StorageFailed
from app.domain.layout import upload_path
from app.infrastructure.media import process_runner
from app.infrastructure.media.process_runner import ProcessRunner
from app.infrastructure.media.quiet_digests import SCRIPT, QuietDigests
from app.infrastructure.media.sandbox import Sandbox, SandboxLevel, detect_sandbox
from app.services.checksums import LEASE, LEASE_TTL, TRY_AGAIN_AFTER, ChecksumPace, Checksums
from app.services.ports import Digest
from tests.fakes.retention import World, open_world

SPARSE_BYTES = 8 * 2**30


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


@pytest.fixture(params=[detect_sandbox(), Sandbox(SandboxLevel.LIMITS)], ids=lambda s: s.level)
async def runner(request: pytest.FixtureRequest) -> AsyncIterator[ProcessRunner]:
    opened = ProcessRunner(request.param)
    yield opened
    await opened.close()


def checksums(world: World, digests: object, holder: str = "me", together: int = 1) -> Checksums:
    return Checksums(
        world.db,
        world.files,
        world.clock,
        digests,  # type: ignore[arg-type]
        holder=holder,
        pace=ChecksumPace(look_seconds=0.05, renew_seconds=0.05, together=together),
    )


async def sha256_of(world: World, upload_id: str) -> str | None:
    upload = await world.find_upload(upload_id)
    return upload.sha256 if upload else None


async def until_read(path: Path) -> psutil.Process:
    """Wait for the innermost process that has the file open."""
    async with asyncio.timeout(10):
        while True:
            for process in psutil.process_iter():
                try:
                    if any(file.path == str(path) for file in process.open_files()):
                        return process
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            await asyncio.sleep(0.02)


async def test_every_completed_upload_gets_its_digest_and_no_other(
    world: World, runner: ProcessRunner
) -> None:
    session = await world.session()
    data = {n: os.urandom(n) for n in (1, 2**20, 3 * 2**20 + 7)}
    done = {n: await world.completed_upload(session, length=n, recorded_offset=n) for n in data}
    for n, upload in done.items():
        world.path(upload_path(upload.id)).write_bytes(data[n])
    receiving = await world.upload(session, b"half")

    task = asyncio.create_task(checksums(world, QuietDigests(runner)).run())
    try:
        async with asyncio.timeout(20):
            while await world.db.read(lambda tx: tx.uploads.list_without_digest(1)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.wait([task])
    for n, upload in done.items():
        assert await sha256_of(world, upload.id) == hashlib.sha256(data[n]).hexdigest()
    assert await sha256_of(world, receiving.id) is None


async def test_the_reader_is_the_last_that_processor_and_disk_serve_and_dies_with_the_call(
    tmp_path: Path, runner: ProcessRunner
) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(SPARSE_BYTES)
    task = asyncio.create_task(QuietDigests(runner).of(path))
    reader = await until_read(path)
    assert os.sched_getscheduler(reader.pid) == os.SCHED_IDLE
    assert reader.nice() == 19
    assert reader.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert not psutil.pid_exists(reader.pid)


async def test_a_file_that_is_deleted_meanwhile_does_not_stay_on_the_disk(
    tmp_path: Path, runner: ProcessRunner
) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(SPARSE_BYTES)
    task = asyncio.create_task(QuietDigests(runner).of(path))
    reader = await until_read(path)
    path.unlink()
    with pytest.raises(StorageFailed):
        async with asyncio.timeout(5):
            await task
    assert not psutil.pid_exists(reader.pid)


def test_a_file_that_is_gone_before_it_is_opened_is_told_in_one_line(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "gone"], capture_output=True, text=True, check=False
    )
    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr == "No such file or directory\n"


async def test_a_link_in_place_of_the_file_is_not_followed(
    tmp_path: Path, runner: ProcessRunner
) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"secret")
    link.symlink_to(target)
    for path in (link, tmp_path / "missing"):
        with pytest.raises(StorageFailed):
            await QuietDigests(runner).of(path)


async def test_a_child_that_cannot_be_started_is_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip"
    path.write_bytes(bytes(2**20))

    def fork(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(process_runner, "_fork", fork)
    runner = ProcessRunner(Sandbox(SandboxLevel.LIMITS))
    with pytest.raises(StorageFailed, match="cannot be read"):
        await QuietDigests(runner).of(path)  # else the pass ends for good
    await runner.close()


class Told:
    """Digests that say what they are told and remember what they were asked."""

    def __init__(self, *, size_bytes: int = 100, failing: frozenset[str] = frozenset()) -> None:
        self.size_bytes = size_bytes
        self.failing = failing
        self.asked: list[str] = []
        self.begun, self.release = asyncio.Event(), asyncio.Event()
        self.release.set()

    async def of(self, path: Path) -> Digest:
        self.asked.append(path.name)
        self.begun.set()
        await self.release.wait()
        if path.name in self.failing:
            raise StorageFailed("The file cannot be read.")
        return Digest(self.size_bytes, "a" * 64)


async def test_one_bad_file_keeps_no_other_waiting_and_is_tried_again_later(world: World) -> None:
    session = await world.session()
    bad = await world.completed_upload(session)
    world.clock.advance(timedelta(seconds=1))
    good = await world.completed_upload(session)
    digests = Told(failing=frozenset({bad.id}))
    pass_ = checksums(world, digests)
    assert [await pass_.measure_next() for _ in range(3)] == [True, True, False]
    assert digests.asked == [bad.id, good.id]
    assert await sha256_of(world, good.id) == "a" * 64
    world.clock.advance(TRY_AGAIN_AFTER + timedelta(seconds=1))
    digests.failing = frozenset()
    assert await pass_.measure_next() is True
    assert await sha256_of(world, bad.id) == "a" * 64


async def test_small_files_in_a_row_are_one_step_and_a_large_one_is_its_own(world: World) -> None:
    session = await world.session()
    small = [await world.completed_upload(session) for _ in range(3)]
    world.clock.advance(timedelta(seconds=1))
    large = await world.completed_upload(session, length=2**20, recorded_offset=2**20)
    digests = Told(failing=frozenset({small[1].id}))
    pass_ = checksums(world, digests, together=50)
    assert await pass_.measure_next() is True
    assert sorted(digests.asked) == sorted(each.id for each in small)
    assert await sha256_of(world, small[0].id) == await sha256_of(world, small[2].id) == "a" * 64
    assert await sha256_of(world, small[1].id) is None
    digests.size_bytes = 2**20
    assert [await pass_.measure_next() for _ in range(2)] == [True, False]
    assert await sha256_of(world, large.id) == "a" * 64


async def test_a_file_of_another_length_than_its_row_gets_no_digest(world: World) -> None:
    upload = await world.completed_upload(await world.session())
    pass_ = checksums(world, Told(size_bytes=99))
    assert await pass_.measure_next() is True
    assert await sha256_of(world, upload.id) is None
    assert await pass_.measure_next() is False


async def test_two_processes_do_not_read_the_same_file_and_a_dead_one_is_followed(
    world: World,
) -> None:
    session = await world.session()
    uploads = [await world.completed_upload(session) for _ in range(2)]
    uploads.sort(key=lambda upload: (upload.completed_at, upload.id))
    dying, first, second = Told(), Told(), Told()
    dying.release.clear()
    reading = asyncio.create_task(checksums(world, dying, holder="dying").measure_next())
    async with asyncio.timeout(5):
        await dying.begun.wait()
    assert await checksums(world, second).measure_next() is False
    assert second.asked == []
    await world.db.write(lambda tx: tx.leases.release(LEASE, "dying"))
    now, ttl = world.clock.now(), LEASE_TTL
    await world.db.write(lambda tx: tx.leases.acquire(LEASE, "killed", now=now, ttl=ttl))
    reading.cancel()
    await asyncio.wait([reading])
    assert await checksums(world, second).measure_next() is False
    world.clock.advance(2 * LEASE_TTL)  # who was killed lets go of nothing, but its lease runs out
    assert await checksums(world, first).measure_next() is True
    assert await checksums(world, second, holder="other").measure_next() is True
    assert [*first.asked, *second.asked] == [upload.id for upload in uploads]
