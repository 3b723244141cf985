"""`tidemill demo` as `make demo` runs it."""

import re
from pathlib import Path

from tests.e2e.harness import run_command


def test_the_demo_shows_the_main_job_and_leaves_nothing(tmp_path: Path) -> None:
    shown = run_command("demo", home=tmp_path, seconds=110, TIDEMILL_NONSENSE="1")
    assert shown.returncode == 0, shown.stderr
    assert "Running trim: 100 %, completed" in shown.stderr
    rows = {
        line.split()[0]: [int(size.replace(",", "")) for size in line.split()[1:]]
        for line in shown.stdout.splitlines()
        if re.match(r" *(uploads|work|outputs|database) +[\d,]+ ", line)
    }
    assert set(rows) == {"uploads", "work", "outputs", "database"}
    for kind in ("uploads", "work", "outputs"):
        before, most, _, after = rows[kind]
        assert before == after == 0
        assert most > 0
    assert rows["outputs"][2] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_demo_takes_no_folder_that_is_not_its_own(tmp_path: Path) -> None:
    mine = tmp_path / "demo-data" / "holiday.mp4"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    refused = run_command("demo", home=tmp_path)
    assert refused.returncode == 1
    assert "not made by the demo" in refused.stderr
    assert mine.read_bytes() == b"mine"
