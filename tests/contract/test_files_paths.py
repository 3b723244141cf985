"""The data folder: what it refuses to be, where its paths lead, and the one deletion."""

import os
import subprocess
from pathlib import Path

import pytest

from app.domain.errors import StorageFailed
from app.infrastructure.storage.paths import DataFolder, StartRefused
from tests.fakes.disk import undeletable


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder.open(tmp_path / "data")


def test_opening_makes_the_layout_for_the_owner_only(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "deep" / "data")
    assert sorted(entry.name for entry in folder.root.iterdir()) == [
        "cache",
        "outputs",
        "run",
        "uploads",
        "work",
    ]
    for path in (folder.root, *folder.root.iterdir()):
        assert path.stat().st_mode & 0o777 == 0o700


def test_opening_twice_changes_nothing(folder: DataFolder) -> None:
    (folder.root / "uploads" / "a").write_bytes(b"x")
    (folder.root / "instance.json").write_text("{}")
    DataFolder.open(folder.root)
    assert (folder.root / "uploads" / "a").read_bytes() == b"x"


def test_a_folder_of_somebody_else_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years")
    with pytest.raises(StartRefused, match=r"thesis\.tex"):
        DataFolder.open(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_files_in_a_folder_called_work_without_our_marker_are_somebody_elses(
    tmp_path: Path,
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "drawing").write_text("mine")
    with pytest.raises(StartRefused, match="work/"):
        DataFolder.open(tmp_path)


def test_a_fresh_volume_with_lost_and_found_is_taken(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    DataFolder.open(tmp_path)


def test_a_start_that_died_before_the_marker_can_be_repeated(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    (folder.root / "tidemill.db").write_bytes(b"")
    (folder.root / "run" / "start.lock").write_bytes(b"")
    DataFolder.open(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(StartRefused, match="TIDEMILL_DATA_DIR"):
        DataFolder.open(tmp_path / "data")


def test_a_layout_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "work").symlink_to(elsewhere)
    with pytest.raises(StartRefused, match="ordinary folder"):
        DataFolder.open(tmp_path / "data")


@pytest.mark.parametrize(
    "path",
    ["", "/", "/etc/passwd", "..", "uploads/..", "uploads/../../x", "uploads//a", "./uploads/a"],
)
def test_a_path_that_could_lead_elsewhere_is_refused(folder: DataFolder, path: str) -> None:
    with pytest.raises(StorageFailed):
        folder.resolve(path)
    with pytest.raises(StorageFailed):
        folder.delete(path)


def test_a_path_with_nul_is_refused(folder: DataFolder) -> None:
    with pytest.raises(StorageFailed):
        folder.delete("uploads/a\0b")


@pytest.mark.parametrize(
    "path", ["uploads", "run", "tidemill.db", "instance.json", "other/file", "lost+found/x"]
)
def test_only_things_inside_the_layout_can_be_deleted(folder: DataFolder, path: str) -> None:
    (folder.root / "tidemill.db").write_bytes(b"rows")
    with pytest.raises(StorageFailed):
        folder.delete(path)
    assert (folder.root / "tidemill.db").exists()
    assert (folder.root / "uploads").is_dir()


def test_resolving_through_a_link_is_refused(folder: DataFolder, tmp_path: Path) -> None:
    (folder.root / "work" / "job").symlink_to(tmp_path)
    with pytest.raises(StorageFailed):
        folder.resolve("work/job/file")


def test_a_deleted_file_is_gone_and_its_bytes_are_counted_once(folder: DataFolder) -> None:
    (folder.root / "uploads" / "a").write_bytes(b"x" * 1234)
    assert folder.delete("uploads/a") == 1234
    assert not (folder.root / "uploads" / "a").exists()
    assert folder.delete("uploads/a") == 0


def test_a_folder_goes_with_all_it_holds_and_its_empty_parent(folder: DataFolder) -> None:
    attempt = folder.root / "work" / "job" / "1"
    (attempt / "deep" / "deeper").mkdir(parents=True)
    (attempt / "deep" / "deeper" / "a").write_bytes(b"x" * 10)
    (attempt / "b").write_bytes(b"x" * 5)
    assert folder.delete("work/job/1") == 15
    assert list((folder.root / "work").iterdir()) == []


def test_another_attempt_of_the_job_keeps_its_folder(folder: DataFolder) -> None:
    for attempt in ("1", "2"):
        (folder.root / "work" / "job" / attempt).mkdir(parents=True)
    folder.delete("work/job/1")
    assert [path.name for path in (folder.root / "work" / "job").iterdir()] == ["2"]


def test_a_planted_link_goes_and_its_target_stays(folder: DataFolder, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"keep me")
    attempt = folder.root / "work" / "job" / "1"
    attempt.mkdir(parents=True)
    (attempt / "folder").symlink_to(precious)
    (attempt / "file").symlink_to(precious / "file")
    assert folder.delete("work/job/1") == 0
    assert (precious / "file").read_bytes() == b"keep me"
    assert not attempt.exists()


def test_a_link_in_place_of_the_job_folder_goes_and_nothing_behind_it(
    folder: DataFolder, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    (precious / "1").mkdir(parents=True)
    (folder.root / "work" / "job").symlink_to(precious)
    with pytest.raises((StorageFailed, OSError)):
        folder.delete("work/job/1")
    assert (precious / "1").is_dir()
    folder.delete("work/job")
    assert (precious / "1").is_dir()
    assert not (folder.root / "work" / "job").is_symlink()


def test_a_hard_link_to_a_kept_upload_frees_nothing(folder: DataFolder) -> None:
    upload = folder.root / "uploads" / "a"
    upload.write_bytes(b"x" * 100)
    attempt = folder.root / "work" / "job" / "1"
    attempt.mkdir(parents=True)
    os.link(upload, attempt / "a")
    assert folder.delete("work/job/1") == 0
    assert upload.read_bytes() == b"x" * 100
    assert folder.delete("uploads/a") == 100


def test_pipes_and_sockets_go_too(folder: DataFolder) -> None:
    attempt = folder.root / "work" / "job" / "1"
    attempt.mkdir(parents=True)
    os.mkfifo(attempt / "pipe")
    assert folder.delete("work/job") == 0
    assert not attempt.exists()


def test_a_folder_nested_a_thousand_deep_goes(folder: DataFolder) -> None:
    start = os.open(folder.root / "work", os.O_RDONLY)
    os.mkdir("job", dir_fd=start)
    current = os.open("job", os.O_RDONLY, dir_fd=start)
    for _ in range(1000):
        os.mkdir("d", dir_fd=current)
        below = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=current))
    os.close(current)
    os.close(start)
    folder.delete("work/job")
    assert list((folder.root / "work").iterdir()) == []


def test_what_cannot_go_is_told_and_does_not_keep_the_rest(folder: DataFolder) -> None:
    attempt = folder.root / "work" / "job" / "1"
    stubborn = attempt / "stubborn"
    stubborn.mkdir(parents=True)
    (attempt / "easy").write_bytes(b"x" * 7)
    with undeletable(stubborn), pytest.raises((StorageFailed, OSError)):
        folder.delete("work/job/1")
    assert not (attempt / "easy").exists()
    folder.delete("work/job/1")
    assert not attempt.exists()


def test_another_file_system_is_not_entered(folder: DataFolder) -> None:
    mount = folder.root / "work" / "job" / "mount"
    mount.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "none", mount], check=False, capture_output=True
    )
    if mounted.returncode != 0:  # without the right to mount there is nothing to enter either
        assert os.getuid() != 0 or b"permission" in mounted.stderr
        return
    try:
        (mount / "foreign").write_bytes(b"keep me")
        with pytest.raises((StorageFailed, OSError)):
            folder.delete("work/job")
        assert (mount / "foreign").read_bytes() == b"keep me"
    finally:
        subprocess.run(["umount", mount], check=True)
    folder.delete("work/job")
