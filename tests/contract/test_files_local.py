"""The Files port on a local disk."""

import asyncio
import errno
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.domain.errors import InputsDeleted, NoSpace, StorageFailed
from app.domain.ids import new_id
from app.domain.layout import kept_clip_path, output_path, scratch_path, upload_path
from app.infrastructure.storage.local import LocalFiles, in_thread, translated_errors
from app.infrastructure.storage.paths import DataFolder

JOB = "a" * 32


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(DataFolder.open(tmp_path))


def keep_upload(root: Path, data: bytes) -> str:
    upload_id = new_id()
    (root / upload_path(upload_id)).write_bytes(data)
    return upload_id


def test_sizes_are_of_regular_files_only(files: LocalFiles, tmp_path: Path) -> None:
    upload_id = keep_upload(tmp_path, b"12345")
    (tmp_path / "uploads" / "link").symlink_to(tmp_path / upload_path(upload_id))
    assert files.size(upload_path(upload_id)) == 5
    assert files.size("uploads/absent") is None
    assert files.size("uploads/link") is None
    assert files.size("uploads") is None


def test_the_time_of_a_file_is_aware_utc(files: LocalFiles, tmp_path: Path) -> None:
    path = upload_path(keep_upload(tmp_path, b"1"))
    found = files.modified_at(path)
    assert found is not None
    assert datetime.now(UTC) - found < timedelta(minutes=1)
    assert files.modified_at("uploads/absent") is None


def test_an_absolute_path_stays_below_the_folder(files: LocalFiles, tmp_path: Path) -> None:
    assert files.absolute("uploads/a") == tmp_path / "uploads" / "a"
    with pytest.raises(StorageFailed):
        files.absolute("uploads/../../etc/passwd")


async def test_scratch_holds_hard_links_by_the_inputs_ids(
    files: LocalFiles, tmp_path: Path
) -> None:
    upload_id = keep_upload(tmp_path, b"clip")
    folder = await files.make_scratch(JOB, 1, {upload_id: upload_path(upload_id)})
    assert folder == tmp_path / scratch_path(JOB, 1)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    await files.delete(upload_path(upload_id))
    assert (folder / upload_id).read_bytes() == b"clip"


async def test_scratch_of_an_earlier_run_of_the_same_attempt_is_emptied(
    files: LocalFiles, tmp_path: Path
) -> None:
    folder = await files.make_scratch(JOB, 1, {})
    (folder / "half").write_bytes(b"old")
    assert list((await files.make_scratch(JOB, 1, {})).iterdir()) == []


async def test_a_missing_input_is_named_and_leaves_no_folder(
    files: LocalFiles, tmp_path: Path
) -> None:
    kept, missing = keep_upload(tmp_path, b"clip"), new_id()
    with pytest.raises(InputsDeleted) as caught:
        await files.make_scratch(JOB, 1, {kept: upload_path(kept), missing: upload_path(missing)})
    assert caught.value.extra == {"inputs": [missing]}
    assert list((tmp_path / "work").iterdir()) == []


async def test_an_input_that_is_a_link_is_refused(files: LocalFiles, tmp_path: Path) -> None:
    secret = tmp_path.parent / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / "uploads" / "evil").symlink_to(secret)
    with pytest.raises(StorageFailed):
        await files.make_scratch(JOB, 1, {"evil": "uploads/evil"})


async def test_a_published_file_moves_to_its_output(files: LocalFiles, tmp_path: Path) -> None:
    output_id = new_id()
    folder = await files.make_scratch(JOB, 1, {})
    (folder / "out.mp4").write_bytes(b"video")
    await files.publish(folder / "out.mp4", output_id)
    assert (tmp_path / output_path(output_id)).read_bytes() == b"video"
    assert not (folder / "out.mp4").exists()


async def test_a_kept_clip_shares_its_bytes_and_outlives_either_folder(
    files: LocalFiles, tmp_path: Path
) -> None:
    clip_id, folder = new_id(), await files.make_scratch(JOB, 1, {})
    (folder / "clip.mp4").write_bytes(b"video")
    assert await files.keep_clip(folder / "clip.mp4", clip_id) == 5
    await files.delete(scratch_path(JOB, 1))
    other = await files.make_scratch(JOB, 2, {})
    assert await files.take_clip(clip_id, 5, other / "again.mp4")
    assert (other / "again.mp4").samefile(tmp_path / kept_clip_path(clip_id))
    assert await files.delete(kept_clip_path(clip_id)) == 0  # not freed: the work has a link
    assert (other / "again.mp4").read_bytes() == b"video"


async def test_a_kept_clip_that_is_not_what_it_was_is_not_taken(
    files: LocalFiles, tmp_path: Path
) -> None:
    folder = await files.make_scratch(JOB, 1, {})
    short, link, absent = new_id(), new_id(), new_id()
    (tmp_path / kept_clip_path(short)).write_bytes(b"vid")
    secret = tmp_path.parent / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / kept_clip_path(link)).symlink_to(secret)
    size = len(b"secret")
    for clip_id, size_bytes in [(short, 5), (link, size), (absent, 0)]:
        assert not await files.take_clip(clip_id, size_bytes, folder / "taken")
    assert list(folder.iterdir()) == []
    (folder / "link").symlink_to("/etc/hostname")
    for source in (folder / "link", folder / "absent", tmp_path / kept_clip_path(short)):
        with pytest.raises(StorageFailed):
            await files.keep_clip(source, new_id())
    assert len(list((tmp_path / "cache").iterdir())) == 2


async def test_a_link_in_the_place_of_the_cache_is_not_followed(
    files: LocalFiles, tmp_path: Path
) -> None:
    outside, clip_id = tmp_path.parent / "outside-cache", new_id()
    outside.mkdir()
    (outside / clip_id).write_bytes(b"secret")
    folder = await files.make_scratch(JOB, 1, {})
    (folder / "clip.mp4").write_bytes(b"video")
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").symlink_to(outside)
    with pytest.raises(StorageFailed):
        await files.keep_clip(folder / "clip.mp4", new_id())
    with pytest.raises(StorageFailed):
        await files.take_clip(clip_id, len(b"secret"), folder / "taken.mp4")
    with pytest.raises(StorageFailed):
        await files.delete(kept_clip_path(clip_id))
    assert [path.name for path in outside.iterdir()] == [clip_id]
    assert [path.name for path in folder.iterdir()] == ["clip.mp4"]


async def test_only_a_regular_work_file_is_published(files: LocalFiles, tmp_path: Path) -> None:
    folder = await files.make_scratch(JOB, 1, {})
    (folder / "link").symlink_to("/etc/hostname")
    (folder / "file").write_bytes(b"x")
    outside = tmp_path.parent / "outside"
    outside.write_bytes(b"x")
    for source, output_id in [
        (folder / "link", new_id()),
        (folder / "absent", new_id()),
        (folder, new_id()),
        (outside, new_id()),
        (tmp_path / upload_path(keep_upload(tmp_path, b"x")), new_id()),
        (folder / "file", "../escape"),
    ]:
        with pytest.raises(StorageFailed):
            await files.publish(source, output_id)
    assert list((tmp_path / "outputs").iterdir()) == []
    assert outside.exists()


async def test_work_is_listed_with_all_that_is_foreign_in_it(
    files: LocalFiles, tmp_path: Path
) -> None:
    for job_id, attempt in [(JOB, 2), (JOB, 1), ("b" * 32, 1)]:
        await files.make_scratch(job_id, attempt, {})
    work = tmp_path / "work"
    (work / "stray" / "deep").mkdir(parents=True)
    (work / ("c" * 32)).mkdir()
    (work / JOB / "notes").write_text("")
    (work / "link").symlink_to(tmp_path)
    (work / ("d" * 32)).symlink_to(work / JOB)
    found = await files.list_work()
    assert [(each.path, each.owner, each.is_folder) for each in found] == [
        (f"work/{JOB}/1", JOB, True),
        (f"work/{JOB}/2", JOB, True),
        (f"work/{JOB}/notes", JOB, False),
        (f"work/{'b' * 32}/1", "b" * 32, True),
        (f"work/{'c' * 32}", "c" * 32, True),
        (f"work/{'d' * 32}", "d" * 32, False),
        ("work/link", "link", False),
        ("work/stray", "stray", True),
    ]
    assert all(abs((each.changed_at - datetime.now(UTC)).total_seconds()) < 60 for each in found)


async def test_usage_counts_every_byte_once(files: LocalFiles, tmp_path: Path) -> None:
    upload_id = keep_upload(tmp_path, b"x" * 100)
    folder = await files.make_scratch(JOB, 1, {upload_id: upload_path(upload_id)})
    (folder / "half").write_bytes(b"x" * 20)
    (tmp_path / output_path(new_id())).write_bytes(b"x" * 30)
    (folder / "kept").write_bytes(b"x" * 40)
    await files.keep_clip(folder / "kept", new_id())
    (tmp_path / "tidemill.db").write_bytes(b"x" * 4)
    (tmp_path / "tidemill.db-wal").write_bytes(b"x" * 5)
    (tmp_path / "instance.json").write_bytes(b"x" * 6)
    (tmp_path / "run" / "start.lock").write_bytes(b"x" * 1)
    (tmp_path / "stranger").write_bytes(b"x" * 9)
    found = {each.kind: (each.count, each.size_bytes) for each in await files.usage()}
    assert found == {
        "uploads": (1, 100),
        "work": (3, 20),
        "outputs": (1, 30),
        "cache": (1, 40),
        "database": (2, 9),
        "system": (2, 7),
        "other": (1, 9),
    }


async def test_the_test_byte_is_not_left_behind(files: LocalFiles, tmp_path: Path) -> None:
    await files.check_writable()
    assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "run").rmdir()
    with pytest.raises(StorageFailed):
        await files.check_writable()


def test_free_bytes_are_those_of_the_folders_file_system(files: LocalFiles, tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    assert abs(files.free_bytes() - found.f_bavail * found.f_frsize) < 1 << 30


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_no_space(number: int) -> None:
    with pytest.raises(NoSpace), translated_errors("writing"):
        raise OSError(number, "full", "/secret/path")


def test_other_trouble_names_the_error_and_never_a_path() -> None:
    with pytest.raises(StorageFailed) as caught, translated_errors("writing"):
        raise OSError(errno.EIO, "broken", "/secret/path")
    assert "EIO" in caught.value.detail
    assert "secret" not in caught.value.detail


async def test_a_cancelled_call_ends_only_when_the_work_has_ended() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(10)
        ended.set()

    task = asyncio.ensure_future(in_thread("working", work))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
