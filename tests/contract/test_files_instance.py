"""Folder and database belong together, and only one process starts at a time."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.infrastructure.storage.instance import check_instance, read_marker, startup_lock
from app.infrastructure.storage.paths import DataFolder, StartRefused

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder.open(tmp_path)


def test_a_fresh_pair_gets_an_id_that_stays(folder: DataFolder) -> None:
    first = check_instance(folder, None, now=NOW)
    assert check_instance(folder, first, now=NOW) == first
    marker = json.loads((folder.root / "instance.json").read_text())
    assert marker == {"instance": first, "created_at": NOW.isoformat(), "format": 1}


def test_a_start_that_died_before_the_database_had_the_id_goes_on(folder: DataFolder) -> None:
    first = check_instance(folder, None, now=NOW)
    assert check_instance(folder, None, now=NOW) == first


def test_a_fresh_database_beside_files_is_refused_with_the_recipe(folder: DataFolder) -> None:
    check_instance(folder, None, now=NOW)
    (folder.root / "uploads" / "a").write_bytes(b"x")
    with pytest.raises(StartRefused, match="same backup"):
        check_instance(folder, None, now=NOW)
    assert (folder.root / "uploads" / "a").exists()


def test_another_database_is_refused(folder: DataFolder) -> None:
    check_instance(folder, None, now=NOW)
    with pytest.raises(StartRefused, match="f" * 32):
        check_instance(folder, "f" * 32, now=NOW)


def test_a_database_beside_an_emptied_folder_is_refused(folder: DataFolder) -> None:
    with pytest.raises(StartRefused, match=r"instance\.json"):
        check_instance(folder, "f" * 32, now=NOW)
    assert read_marker(folder) is None


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"instance": "../x", "created_at": "", "format": 1}']
)
def test_a_damaged_marker_is_refused(folder: DataFolder, text: str) -> None:
    (folder.root / "instance.json").write_text(text)
    with pytest.raises(StartRefused, match="marker"):
        check_instance(folder, None, now=NOW)


def test_a_folder_of_a_newer_version_is_refused(folder: DataFolder) -> None:
    marker = {"instance": "f" * 32, "created_at": "", "format": 2}
    (folder.root / "instance.json").write_text(json.dumps(marker))
    with pytest.raises(StartRefused, match="newer"):
        read_marker(folder)


def test_one_start_at_a_time_and_the_lock_is_free_afterwards(folder: DataFolder) -> None:
    with (
        startup_lock(folder, wait_seconds=0),
        pytest.raises(StartRefused, match="starting"),
        startup_lock(folder, wait_seconds=0.1),
    ):
        pass
    with startup_lock(folder, wait_seconds=0):
        pass


def test_a_folder_that_cannot_be_written_is_refused(folder: DataFolder) -> None:
    (folder.root / "run").rmdir()
    with pytest.raises(StartRefused, match="cannot be written"):
        check_instance(folder, None, now=NOW)
    with (
        pytest.raises(StartRefused, match="cannot be written"),
        startup_lock(folder, wait_seconds=0),
    ):
        pass
