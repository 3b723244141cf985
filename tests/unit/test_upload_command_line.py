"""The command line of ``tidemill upload``, read before anything is sent."""

from pathlib import Path

import pytest
import typer

from app.cli.sweep import read_name
from app.cli.wish import find_place, output_path
from app.domain.sweeps import SweepName


def test_an_output_with_a_slash_at_its_end_is_a_folder_that_is_made(tmp_path: Path) -> None:
    wanted = f"{tmp_path}/some/results/"
    assert output_path(wanted) == tmp_path / "some" / "results"
    assert (tmp_path / "some" / "results").is_dir()


def test_an_output_without_a_slash_makes_nothing(tmp_path: Path) -> None:
    assert output_path(f"{tmp_path}/out.mp4") == tmp_path / "out.mp4"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(typer.BadParameter, match="cannot be made"):
        output_path(f"{tmp_path}/file/below/")


def test_a_sweep_that_does_not_exist_is_answered_with_those_that_do() -> None:
    assert read_name("gc_files") is SweepName.GC_FILES
    with pytest.raises(typer.BadParameter, match="no sweep 'zap'; there is: gc_files, "):
        read_name("zap")


def test_without_a_server_named_it_is_the_one_of_this_machine_by_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = tmp_path / "key"
    key.write_text("k" * 40)
    monkeypatch.setenv("TIDEMILL_PORT", "8111")
    monkeypatch.setenv("TIDEMILL_ADMIN_KEY_FILE", str(key))
    place = find_place(None, None, 5)
    assert (place.server, place.key_file) == ("http://127.0.0.1:8111", key)
    # A key is for the server it belongs to, never sent to another.
    place = find_place("https://video.example", None, 5)
    assert (place.server, place.key_file) == ("https://video.example", None)
