"""What is written of the settings is what the tree says."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import Settings, variables

ROOT = Path(__file__).resolve().parents[2]


def test_the_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_every_setting_says_what_it_does_and_what_it_allows_in_one_line() -> None:
    for each in variables():
        assert each.description.endswith("."), each.name
        assert "\n" not in each.description
        assert each.allowed
        assert each.default


def test_the_example_file_with_every_line_taken_in_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    chosen = [line[1:] for line in lines if line.startswith("#TIDEMILL_")]
    assert len(chosen) == len(variables())
    (tmp_path / ".env").write_text("\n".join(chosen))
    monkeypatch.chdir(tmp_path)

    settings = Settings.load()

    assert settings.jobs.workers == 2
    assert settings.service == Settings().service
    assert settings.intervals == Settings().intervals
