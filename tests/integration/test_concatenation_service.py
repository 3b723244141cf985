"""Finals made by several processes at once, the room they need, and what a boot or a stop leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from app.domain.errors import InvalidParts, NoSpace, UploadLocked
from app.domain.ids import new_id
from app.domain.uploads import PARTIAL, FsyncMode, Upload, UploadKind, UploadMetadata
from app.services.completion import Completion
from app.services.concatenation import FINALS_AT_ONCE, Concatenation, NamedPart, NewFinal
from app.services.ports import PartCopier
from app.services.upload_states import NewUpload
from app.services.upload_writing import ReadBody, writing
from app.services.uploads import UploadService
from tests.fakes.tus_server import Parts, TusConfig, open_parts

ME = "me"


@asynccontextmanager
async def processes(root: Path, *configs: TusConfig) -> AsyncIterator[list[Parts]]:
    """What several processes on one data folder have each: locks, connections, threads."""
    async with AsyncExitStack() as stack:
        opened = []
        for n, config in enumerate(configs):
            parts = open_parts(root, replace(config, migrate=n == 0))
            opened.append(await stack.enter_async_context(parts))
        yield opened


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with processes(tmp_path / "data", TusConfig()) as (parts,):
        yield parts


def body(data: bytes) -> ReadBody:
    left = iter((data,))

    async def read() -> bytes | None:
        return next(left, None)

    return read


async def create(parts: Parts, length: int | None, kind: UploadKind = UploadKind.PARTIAL) -> Upload:
    concat = PARTIAL if kind is UploadKind.PARTIAL else None
    new = NewUpload(ME, length, UploadMetadata(), kind, concat)
    return await parts.uploads.create(new_id(), new)


async def new_part(parts: Parts, data: bytes) -> str:
    upload = await create(parts, len(data))
    async with writing(parts.uploads, upload) as held:
        await held.store(body(data))
    return upload.id


def wish(*part_ids: str) -> NewFinal:
    named = tuple(NamedPart(f"/files/{part_id}", part_id) for part_id in part_ids)
    header = "final;" + " ".join(part.url for part in named)
    return NewFinal(ME, UploadMetadata(), header, named)


def over(uploads: UploadService, turns: asyncio.Semaphore | None = None) -> Concatenation:
    return Concatenation(uploads, turns or asyncio.Semaphore(FINALS_AT_ONCE))


async def make(parts: Parts, asked: NewFinal) -> Completion:
    """Ask as a client does: again while it is locked."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await over(parts.uploads).make(asked)
            except UploadLocked:
                await asyncio.sleep(0.01)


def stored(parts: Parts, upload_id: str) -> bytes:
    return (parts.folder.root / "uploads" / upload_id).read_bytes()


# --- several processes ----------------------------------------------------------------------------


async def test_two_processes_asked_for_the_same_make_it_once(tmp_path: Path) -> None:
    config = TusConfig(lock_wait_seconds=0.2)
    async with processes(tmp_path / "data", config, config) as (one, two):
        ids = [await new_part(one, bytes([n]) * 100_000) for n in range(3)]
        made = await asyncio.gather(*(make(each, wish(*ids)) for each in (one, two) * 4))
        assert len(set(made)) == 1
        assert made[0].batch_id is not None
        body = b"".join(bytes([n]) * 100_000 for n in range(3))
        assert stored(two, made[0].upload_id) == body
        names = {path.name for path in (one.folder.root / "uploads").iterdir()}
        assert names == {made[0].upload_id}


async def test_of_two_processes_with_other_orders_one_makes_it(tmp_path: Path) -> None:
    async with processes(tmp_path / "data", TusConfig(), TusConfig()) as (one, two):
        for _ in range(5):
            ids = [await new_part(one, b"one"), await new_part(two, b"two")]
            orders = [(one, ids), (two, ids[::-1])]
            made = await asyncio.gather(
                *(make(each, wish(*order)) for each, order in orders), return_exceptions=True
            )
            refused = [each for each in made if isinstance(each, InvalidParts)]
            assert [each.extra["reason"] for each in refused] == ["used"]
            (done,) = [each for each in made if isinstance(each, Completion)]
            assert stored(one, done.upload_id) in {b"onetwo", b"twoone"}


# --- room -----------------------------------------------------------------------------------------


def with_room(parts: Parts, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the disk hold ``free`` bytes of uploads in all."""
    folder = parts.folder.root / "uploads"

    def left() -> int:
        return free - sum(path.stat().st_size for path in folder.iterdir())

    monkeypatch.setattr(parts.files, "free_bytes", left)


async def refuses(parts: Parts, length: int) -> bool:
    """Whether a file of that length is refused; none is left behind."""
    try:
        upload = await create(parts, length, UploadKind.FILE)
    except NoSpace:
        return True
    await parts.uploads.remove_held(ME, upload.id)
    return False


async def assert_room(parts: Parts, length: int) -> None:
    assert not await refuses(parts, length)
    assert await refuses(parts, length + 1)


async def test_a_part_is_promised_its_place_and_its_place_in_the_final(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room(parts, 1000, monkeypatch)
    with pytest.raises(NoSpace):
        await create(parts, 501)
    part_id = await new_part(parts, b"x" * 300)
    await assert_room(parts, 400)
    later = await create(parts, None)
    async with writing(parts.uploads, later) as held:
        with pytest.raises(NoSpace):
            await held.prepare(201, 0)
        await held.prepare(200, 0)
    await assert_room(parts, 0)
    await parts.uploads.remove_held(ME, later.id)
    await over(parts.uploads).make(wish(part_id))
    await assert_room(parts, 700)


async def test_a_part_that_comes_twice_needs_room_of_its_own(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room(parts, 1000, monkeypatch)
    part_id = await new_part(parts, b"x" * 300)
    with pytest.raises(NoSpace):
        await over(parts.uploads).make(wish(part_id, part_id, part_id, part_id))
    done = await over(parts.uploads).make(wish(part_id, part_id))
    assert stored(parts, done.upload_id) == b"x" * 600


class Watching(PartCopier):
    """Looks at the world once the final has all its bytes, before its row says so."""

    def __init__(self, real: PartCopier, look: Callable[[], object]) -> None:
        self._real = real
        self._look = look

    async def copy(self, final_id: str, parts: Sequence[tuple[str, int]]) -> None:
        await self._real.copy(final_id, parts)
        await self._look()  # type: ignore[misc]


async def test_the_copy_takes_no_room_that_was_not_promised(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room(parts, 1000, monkeypatch)
    ids = [await new_part(parts, b"x" * 100), await new_part(parts, b"y" * 200)]
    looked = 0

    async def look() -> None:
        nonlocal looked
        looked += 1
        await assert_room(parts, 400)

    uploads = replace(parts.uploads, copier=Watching(parts.uploads.copier, look))
    await over(uploads).make(wish(*ids))
    assert looked == 1
    await assert_room(parts, 700)


# --- a boot of the machine, a stop of the process -------------------------------------------------


@pytest.mark.parametrize("mode", [FsyncMode.COMPLETE, FsyncMode.PATCH])
async def test_a_whole_part_outlives_the_machine_and_a_half_final_does_not_count(
    mode: FsyncMode, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    async with processes(root, TusConfig(fsync=mode, boot_id="first")) as (parts,):
        ids = [await new_part(parts, b"one"), await new_part(parts, b"two")]
        new = NewUpload(ME, 6, UploadMetadata(), UploadKind.FINAL, wish(*ids).concat, tuple(ids))
        final = await parts.uploads.create(new_id(), new)
        # Whole by its length, but of what was never synced a crash may leave anything.
        (root / "uploads" / final.id).write_bytes(b"\0" * 6)
    async with open_parts(root, TusConfig(fsync=mode, boot_id="second", migrate=False)) as parts:
        await parts.uploads.recover_after_boot()
        assert (await parts.uploads.head(ME, final.id)).offset is None
        done = await over(parts.uploads).make(wish(*ids))
        assert done.upload_id == final.id
        assert stored(parts, final.id) == b"onetwo"


async def test_a_final_that_is_cancelled_with_its_process_is_made_when_asked_for_again(
    parts: Parts,
) -> None:
    ids = [await new_part(parts, b"one"), await new_part(parts, b"two")]
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    uploads = replace(parts.uploads, copier=Watching(parts.uploads.copier, hang))
    making = asyncio.create_task(over(uploads).make(wish(*ids)))
    await begun.wait()
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    for part_id in ids:
        assert not parts.locks.is_held(part_id)
        assert (await parts.uploads.head(ME, part_id)).offset == 3
    done = await over(parts.uploads).make(wish(*ids))
    assert stored(parts, done.upload_id) == b"onetwo"


async def test_a_final_that_was_left_before_the_machine_went_down_is_made_with_the_first_try(
    tmp_path: Path,
) -> None:
    root, copies = tmp_path / "data", 0

    async def break_down() -> None:
        raise RuntimeError

    async def count() -> None:
        nonlocal copies
        copies += 1

    async with processes(root, TusConfig(boot_id="first")) as (parts,):
        ids = [await new_part(parts, b"one"), await new_part(parts, b"two")]
        uploads = replace(parts.uploads, copier=Watching(parts.uploads.copier, break_down))
        with pytest.raises(RuntimeError):
            await over(uploads).make(wish(*ids))
        left = await parts.db.read(lambda tx: tx.uploads.find_final(ME, tuple(ids)))
        assert left is not None
    async with open_parts(root, TusConfig(boot_id="second", migrate=False)) as parts:
        uploads = replace(parts.uploads, copier=Watching(parts.uploads.copier, count))
        done = await over(uploads).make(wish(*ids))
        assert (done.upload_id, copies) == (left.id, 1)
        assert stored(parts, left.id) == b"onetwo"


# --- many at once ---------------------------------------------------------------------------------


class WatchedTurns(asyncio.Semaphore):
    """One turn; looks at the world whenever somebody asks for it."""

    def __init__(self, look: Callable[[], list[bool]]) -> None:
        super().__init__(1)
        self._look = look
        self.seen: list[list[bool]] = []

    async def acquire(self) -> Literal[True]:
        self.seen.append(self._look())
        return await super().acquire()


async def test_a_final_that_waits_for_its_turn_holds_no_part_and_is_told_so_in_time(
    tmp_path: Path,
) -> None:
    async with processes(tmp_path / "data", TusConfig(lock_wait_seconds=0.3)) as (parts,):
        one, two = await new_part(parts, b"one"), await new_part(parts, b"two")
        begun, may_end = asyncio.Event(), asyncio.Event()
        turns = WatchedTurns(lambda: [parts.locks.is_held(each) for each in (one, two)])

        async def wait() -> None:
            begun.set()
            await may_end.wait()

        uploads = replace(parts.uploads, copier=Watching(parts.uploads.copier, wait))
        making = asyncio.create_task(over(uploads, turns).make(wish(one)))
        await begun.wait()
        with pytest.raises(UploadLocked):
            await over(uploads, turns).make(wish(two))
        assert turns.seen == [[False, False], [True, False]]
        assert await parts.db.read(lambda tx: tx.uploads.find_final(ME, (two,))) is None
        may_end.set()
        done = await making
        # Who asks for one that is made needs no turn.
        await turns.acquire()
        assert await over(uploads, turns).make(wish(one)) == done
        names = {path.name for path in (parts.folder.root / "uploads").iterdir()}
        assert names == {two, done.upload_id}
