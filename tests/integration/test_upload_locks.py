"""Locks of uploads between holders of one process and of several, on real files and sockets."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.domain.errors import StorageFailed, UploadLocked, UploadNotFound
from app.domain.ids import new_id
from app.infrastructure.storage.paths import DataFolder
from app.infrastructure.storage.upload_locks import FlockHold, FlockUploadLocks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder.open(tmp_path / "data")


@pytest.fixture
async def locks(folder: DataFolder) -> AsyncIterator[FlockUploadLocks]:
    locks = FlockUploadLocks(folder)
    await locks.start()
    yield locks
    await locks.close()


@pytest.fixture
async def others(folder: DataFolder) -> AsyncIterator[FlockUploadLocks]:
    """The locks of another process, as far as this one can tell."""
    locks = FlockUploadLocks(folder)
    await locks.start()
    yield locks
    await locks.close()


def uploads(folder: DataFolder) -> list[str]:
    return sorted(path.name for path in (folder.root / "uploads").iterdir())


async def stall(hold: FlockHold, held: asyncio.Event) -> str:
    """Hold until asked to stop, as a writer does whose client is silent."""
    async with hold:
        held.set()
        try:
            async with hold.interruptible(20):
                await asyncio.sleep(20)
        except TimeoutError:
            return "asked"
    return "silent"


async def test_a_hold_keeps_others_out_and_leaves_no_empty_file(
    folder: DataFolder, locks: FlockUploadLocks, others: FlockUploadLocks
) -> None:
    upload_id = new_id()
    async with locks.hold(upload_id, wait_seconds=0):
        assert locks.is_held(upload_id)
        assert others.is_held(upload_id)
        for party in (locks, others):
            with pytest.raises(UploadLocked):
                async with party.hold(upload_id, wait_seconds=0):
                    pass
    assert not others.is_held(upload_id)
    assert uploads(folder) == []


async def test_a_kept_file_stays_and_so_does_one_with_bytes(
    folder: DataFolder, locks: FlockUploadLocks
) -> None:
    empty, full = sorted([new_id(), new_id()])
    async with locks.hold_for_writing(empty, wait_seconds=0) as hold:
        hold.keep_file()
    async with locks.hold_for_writing(full, wait_seconds=0):
        (folder.root / "uploads" / full).write_bytes(b"x")
    assert uploads(folder) == [empty, full]


@pytest.mark.parametrize("across", [False, True])
async def test_a_newcomer_stops_a_silent_writer_at_once(
    locks: FlockUploadLocks, others: FlockUploadLocks, *, across: bool
) -> None:
    upload_id, held = new_id(), asyncio.Event()
    writer = asyncio.create_task(stall(locks.hold_for_writing(upload_id, wait_seconds=1), held))
    await held.wait()
    newcomer = (others if across else locks).hold_for_writing(upload_id, wait_seconds=20)
    began = asyncio.get_running_loop().time()
    async with newcomer:
        assert asyncio.get_running_loop().time() - began < 10
        assert not newcomer.is_asked_to_stop
    assert await writer == "asked"


async def test_a_hold_that_does_not_wait_leaves_the_writer_in_peace(
    locks: FlockUploadLocks, others: FlockUploadLocks
) -> None:
    upload_id, held = new_id(), asyncio.Event()
    hold = locks.hold_for_writing(upload_id, wait_seconds=1)
    writer = asyncio.create_task(stall(hold, held))
    await held.wait()
    for party in (locks, others):
        with pytest.raises(UploadLocked):
            async with party.hold(upload_id, wait_seconds=0):
                pass
    await asyncio.sleep(0.1)
    assert not hold.is_asked_to_stop
    writer.cancel()
    with suppress(asyncio.CancelledError):
        await writer


async def test_who_may_not_write_stops_nobody_and_makes_no_file(
    folder: DataFolder, locks: FlockUploadLocks, others: FlockUploadLocks
) -> None:
    upload_id, held = new_id(), asyncio.Event()

    async def refuse() -> None:
        raise UploadNotFound

    async def come(party: FlockUploadLocks) -> None:
        with pytest.raises(UploadNotFound):
            async with party.hold_for_writing(upload_id, wait_seconds=5, before_asking=refuse):
                raise AssertionError

    await come(locks)
    assert uploads(folder) == []
    hold = locks.hold_for_writing(upload_id, wait_seconds=1)
    writer = asyncio.create_task(stall(hold, held))
    await held.wait()
    for party in (locks, others):
        await come(party)
    await asyncio.sleep(0.1)
    assert not hold.is_asked_to_stop
    writer.cancel()
    with suppress(asyncio.CancelledError):
        await writer


async def test_who_finds_a_file_free_is_not_asked_before(
    folder: DataFolder, locks: FlockUploadLocks
) -> None:
    there, missing, seen = new_id(), new_id(), list[str]()
    (folder.root / "uploads" / there).write_bytes(b"x")

    for upload_id in (there, missing):

        async def look(upload_id: str = upload_id) -> None:
            assert not locks.is_held(upload_id)
            seen.append(upload_id)

        async with locks.hold_for_writing(upload_id, wait_seconds=0, before_asking=look):
            assert locks.is_held(upload_id)
    assert seen == [missing]


async def test_nobody_slips_past_those_that_wait(locks: FlockUploadLocks) -> None:
    upload_id, order = new_id(), list[str]()

    async def wait() -> None:
        async with locks.hold_for_writing(upload_id, wait_seconds=5):
            order.append("waited")

    async def refuse() -> None:
        order.append("asked")
        raise UploadNotFound

    async with locks.hold(upload_id, wait_seconds=0) as held:
        waiting = asyncio.create_task(wait())
        while not locks.is_awaited(upload_id):  # noqa: ASYNC110  a lock tells nobody
            await asyncio.sleep(0)
        held.keep_file()
    # The lock is free, and who waits for it has not been woken yet.
    with pytest.raises(UploadNotFound):
        async with locks.hold_for_writing(upload_id, wait_seconds=5, before_asking=refuse):
            raise AssertionError
    await waiting
    assert order == ["asked", "waited"]


async def test_of_those_that_wait_the_newest_goes_first(locks: FlockUploadLocks) -> None:
    upload_id, order = new_id(), list[int]()
    release = asyncio.Event()

    async def deletion() -> None:
        async with locks.hold(upload_id, wait_seconds=0):
            await release.wait()

    async def wait(turn: int) -> None:
        async with locks.hold_for_writing(upload_id, wait_seconds=5):
            order.append(turn)

    async with asyncio.TaskGroup() as group:
        group.create_task(deletion())
        await asyncio.sleep(0)
        for turn in range(4):
            group.create_task(wait(turn))
            await asyncio.sleep(0)
        release.set()
    assert order == [3, 2, 1, 0]


async def test_who_waits_in_vain_is_told_after_its_limit(locks: FlockUploadLocks) -> None:
    upload_id = new_id()
    async with locks.hold(upload_id, wait_seconds=0):
        with pytest.raises(UploadLocked):
            async with asyncio.timeout(10), locks.hold_for_writing(upload_id, wait_seconds=0.2):
                pass


async def test_an_older_request_of_another_process_writes_nothing(
    locks: FlockUploadLocks, others: FlockUploadLocks
) -> None:
    """It waited while a newer one came, and could get the lock first: chance must not decide."""
    upload_id = new_id()
    older = others.hold_for_writing(upload_id, wait_seconds=2)
    async with locks.hold(upload_id, wait_seconds=0):
        waiting = asyncio.create_task(older.__aenter__())
        await asyncio.sleep(0.1)
        newer = locks.hold_for_writing(upload_id, wait_seconds=0.15)
        with pytest.raises(UploadLocked):
            await newer.__aenter__()
        with pytest.raises(UploadLocked):
            await waiting
    assert older.is_asked_to_stop


async def test_a_lock_is_taken_on_the_file_that_is_there_not_on_a_deleted_one(
    folder: DataFolder, locks: FlockUploadLocks, others: FlockUploadLocks
) -> None:
    upload_id = new_id()
    path = folder.root / "uploads" / upload_id
    path.write_bytes(b"old")
    waiting = others.hold_for_writing(upload_id, wait_seconds=2)
    async with locks.hold(upload_id, wait_seconds=0):
        task = asyncio.create_task(waiting.__aenter__())
        await asyncio.sleep(0.1)
        path.unlink()
    await task
    assert locks.is_held(upload_id)
    await waiting.__aexit__(None, None, None)
    assert uploads(folder) == []


async def test_a_lock_dies_with_its_process_and_its_socket_is_removed(
    folder: DataFolder, locks: FlockUploadLocks
) -> None:
    upload_id = new_id()
    (folder.root / "instance.json").touch()
    script = (
        "import asyncio, sys, pathlib\n"
        "from app.infrastructure.storage.paths import DataFolder\n"
        "from app.infrastructure.storage.upload_locks import FlockUploadLocks\n"
        "async def main():\n"
        "    locks = FlockUploadLocks(DataFolder.open(pathlib.Path(sys.argv[1])))\n"
        "    await locks.start()\n"
        "    async with locks.hold(sys.argv[2], wait_seconds=0):\n"
        "        print('held', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script, str(folder.root), upload_id]
    child = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"held\n"
    assert locks.is_held(upload_id)
    assert len(list((folder.root / "run").glob("locks-*"))) == 2
    child.kill()
    await child.communicate()
    async with locks.hold(upload_id, wait_seconds=0):
        pass
    newcomer = FlockUploadLocks(folder)
    await newcomer.start()
    await newcomer.close()
    assert len(list((folder.root / "run").glob("locks-*"))) == 1


async def test_garbage_on_the_socket_is_ignored(
    folder: DataFolder, locks: FlockUploadLocks
) -> None:
    (path,) = (folder.root / "run").glob("locks-*")
    upload_id, held = new_id(), asyncio.Event()
    hold = locks.hold_for_writing(upload_id, wait_seconds=1)
    writer = asyncio.create_task(stall(hold, held))
    await held.wait()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        descriptor = os.open(path.parent, os.O_RDONLY)
        known = upload_id.encode()
        garbage = (b"", b"\xff" * 100, b"a" * 32, known + b"x", known, known + b" x", known + b" 1")
        for message in garbage:
            sender.sendto(message, f"/proc/self/fd/{descriptor}/{path.name}")
        await asyncio.sleep(0.1)
        assert not hold.is_asked_to_stop
        sender.sendto(
            known + f" {time.monotonic_ns()}".encode(), f"/proc/self/fd/{descriptor}/{path.name}"
        )
        os.close(descriptor)
    assert await writer == "asked"


async def test_a_message_that_found_the_queue_full_is_said_again(
    folder: DataFolder, locks: FlockUploadLocks, others: FlockUploadLocks
) -> None:
    upload_id, held = new_id(), asyncio.Event()
    writer = asyncio.create_task(stall(locks.hold_for_writing(upload_id, wait_seconds=1), held))
    await held.wait()
    newcomer = others.hold_for_writing(upload_id, wait_seconds=15)
    fill_queues(folder.root / "run")  # which nobody empties up to our first wait
    async with newcomer:
        assert not newcomer.is_asked_to_stop
    assert await writer == "asked"


def fill_queues(run: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(0)
        descriptor = os.open(run, os.O_RDONLY)
        for path in run.glob("locks-*"):
            with suppress(BlockingIOError):
                while True:
                    sender.sendto(b"", f"/proc/self/fd/{descriptor}/{path.name}")
        os.close(descriptor)


async def test_who_waits_and_asks_again_does_not_stop_a_newer_one(
    locks: FlockUploadLocks, others: FlockUploadLocks
) -> None:
    upload_id = new_id()
    older = others.hold_for_writing(upload_id, wait_seconds=0.8)
    async with locks.hold_for_writing(upload_id, wait_seconds=0) as newer:
        with pytest.raises(UploadLocked):
            await older.__aenter__()
        assert not newer.is_asked_to_stop


async def test_who_is_asked_while_it_waits_gives_up_at_once(
    locks: FlockUploadLocks, others: FlockUploadLocks
) -> None:
    """It would only keep the newer one waiting, to write nothing then."""
    upload_id = new_id()
    older = others.hold_for_writing(upload_id, wait_seconds=60)
    async with locks.hold(upload_id, wait_seconds=0):
        waiting = asyncio.create_task(older.__aenter__())
        await asyncio.sleep(0.1)
        newer = asyncio.create_task(locks.hold_for_writing(upload_id, wait_seconds=60).__aenter__())
        async with asyncio.timeout(15):
            with pytest.raises(UploadLocked):
                await waiting
        assert not newer.done()
    await (await newer).__aexit__(None, None, None)


async def test_a_socket_whose_folder_was_replaced_is_made_anew(
    folder: DataFolder, locks: FlockUploadLocks, others: FlockUploadLocks
) -> None:
    run, upload_id, held = folder.root / "run", new_id(), asyncio.Event()
    writer = asyncio.create_task(stall(locks.hold_for_writing(upload_id, wait_seconds=1), held))
    await held.wait()
    run.rename(folder.root / "run-of-before")
    async with others.hold_for_writing(upload_id, wait_seconds=15):
        pass
    assert await writer == "asked"
    assert len(list(run.glob("locks-*"))) == 2


@pytest.mark.parametrize("name", ["..", "x", "a/b", ""])
async def test_a_lock_is_named_by_an_id(locks: FlockUploadLocks, name: str) -> None:
    with pytest.raises(StorageFailed):
        async with locks.hold(name, wait_seconds=0):
            pass


async def test_a_link_in_the_place_of_an_upload_is_not_followed(
    folder: DataFolder, locks: FlockUploadLocks, tmp_path: Path
) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"mine")
    upload_id = new_id()
    (folder.root / "uploads" / upload_id).symlink_to(target)
    assert not locks.is_held(upload_id)
    with pytest.raises(StorageFailed):
        async with locks.hold_for_writing(upload_id, wait_seconds=0):
            pass
    async with locks.hold(upload_id, wait_seconds=0):  # a deletion, which takes the link away
        pass
    assert target.read_bytes() == b"mine"


async def test_a_pipe_in_the_place_of_an_upload_stops_nothing_but_its_own_request(
    folder: DataFolder, locks: FlockUploadLocks
) -> None:
    upload_id = new_id()
    os.mkfifo(folder.root / "uploads" / upload_id)
    async with asyncio.timeout(5):
        assert not locks.is_held(upload_id)
        with pytest.raises(StorageFailed):
            async with locks.hold_for_writing(upload_id, wait_seconds=0):
                pass
        async with locks.hold(upload_id, wait_seconds=0):
            pass


async def test_an_attempt_that_fails_leaves_no_lock_behind(
    folder: DataFolder,
    locks: FlockUploadLocks,
    others: FlockUploadLocks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload_id = new_id()
    (folder.root / "uploads" / upload_id).write_bytes(b"x")

    def broken(path: object, **options: object) -> object:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", broken)
        with pytest.raises(StorageFailed):
            async with locks.hold(upload_id, wait_seconds=0):
                pass
    async with others.hold(upload_id, wait_seconds=0):
        pass
