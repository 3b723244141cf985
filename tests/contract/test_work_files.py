"""Work files of requests: made below their own folder, synced, moved to be uploads; nowhere else."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.domain.errors import StorageFailed
from app.domain.ids import new_id
from app.domain.layout import request_path, upload_path
from app.domain.uploads import FsyncMode
from app.infrastructure.storage.local import LocalFiles
from app.infrastructure.storage.paths import DataFolder
from app.infrastructure.storage.work_files import LocalWorkFiles


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder.open(tmp_path / "data")


@pytest.fixture(params=list(FsyncMode))
def work(folder: DataFolder, request: pytest.FixtureRequest) -> Iterator[LocalWorkFiles]:
    made = LocalWorkFiles(folder, fsync=request.param)
    yield made
    made.close()


async def _write(work: LocalWorkFiles, path: str, name: str, body: bytes) -> str:
    writer = await work.open(path, name)
    await writer.write(body)
    await writer.close()
    return f"{path}/{name}"


async def test_files_are_written_and_become_uploads_and_the_folder_goes(
    folder: DataFolder, work: LocalWorkFiles
) -> None:
    path, files = request_path(new_id(), new_id()), LocalFiles(folder)
    bodies = {new_id(): b"one" * 100_000, new_id(): b""}
    moves = {
        await _write(work, path, str(place), body): upload_id
        for place, (upload_id, body) in enumerate(bodies.items())
    }
    assert (folder.root / path).stat().st_mode & 0o777 == 0o700
    assert [(folder.root / each).stat().st_mode & 0o777 for each in moves] == [0o600, 0o600]
    await work.sync(list(moves))
    await work.move(moves)
    assert {each: (folder.root / upload_path(each)).read_bytes() for each in bodies} == bodies
    await files.delete(path)
    assert list((folder.root / "work").iterdir()) == []


async def test_requests_of_one_process_come_and_go_beside_each_other(
    folder: DataFolder, work: LocalWorkFiles
) -> None:
    worker, files = new_id(), LocalFiles(folder)

    async def one() -> None:
        for _ in range(20):
            path = request_path(worker, new_id())
            await _write(work, path, "0", b"x")
            await files.delete(path)

    await asyncio.gather(*(one() for _ in range(8)))
    assert list((folder.root / "work").iterdir()) == []


async def test_a_cancelled_opening_keeps_no_descriptor(
    folder: DataFolder, work: LocalWorkFiles
) -> None:
    await _write(work, request_path(new_id(), new_id()), "0", b"x")
    before = _held(folder)
    for _ in range(20):
        opening = asyncio.create_task(work.open(request_path(new_id(), new_id()), "0"))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    assert _held(folder) == before


def _held(folder: DataFolder) -> list[str]:
    """What this process has open below the folder; elsewhere others open and close things too."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.append(str(descriptor.readlink()))
    return sorted(link for link in links if link.startswith(str(folder.root)))


@pytest.mark.parametrize(
    "path",
    ["uploads", "work", "work/x/y", f"work/{'a' * 32}", f"outputs/{'a' * 32}/{'b' * 32}", "../x/y"],
)
async def test_files_are_made_in_folders_of_requests_only(
    folder: DataFolder, work: LocalWorkFiles, path: str
) -> None:
    with pytest.raises(StorageFailed):
        await work.open(path, "0")
    with pytest.raises(StorageFailed):
        await work.move({f"{path}/0": new_id()})


async def test_a_planted_link_leads_nowhere(
    folder: DataFolder, work: LocalWorkFiles, tmp_path: Path
) -> None:
    outside, worker = tmp_path / "outside", new_id()
    outside.mkdir()
    (folder.root / "work" / worker).symlink_to(outside)
    with pytest.raises(StorageFailed):
        await work.open(request_path(worker, new_id()), "0")
    path = request_path(new_id(), new_id())
    await _write(work, path, "0", b"x")
    (folder.root / path / "1").symlink_to(outside / "victim")
    with pytest.raises(StorageFailed):
        await work.open(path, "1")
    with pytest.raises(StorageFailed):
        await work.move({f"{path}/0": "../outside/victim"})
    assert list(outside.iterdir()) == []
