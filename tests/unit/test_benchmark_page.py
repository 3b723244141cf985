"""What both benchmarks write into one page: each its own part of it, and a plot."""

from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.downloads import report as downloads
from benchmarks.downloads.report import Result, Row, Sample
from benchmarks.downloads.servers import NGINX, OURS, STARLETTE
from benchmarks.uploads import report as uploads


def test_a_ratio_is_the_median_of_rounds_with_both() -> None:
    assert page.ratio_of([]) is None
    assert page.ratio_of([(1.0, 0.0)]) is None
    assert page.ratio_of([(3.0, 2.0)]) == page.Ratio(1.5, 1.5, 1.5)
    assert str(page.ratio_of([(1, 1), (2, 1), (3, 1), (9, 0)])) == "2.00 (1.50 to 2.50)"


def test_downloads_write_their_part_of_the_page_and_leave_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, plot = tmp_path / "performance.md", tmp_path / "downloads.svg"
    monkeypatch.setattr(page, "PAGE", written)
    monkeypatch.setattr(downloads, "PLOT", plot)
    written.write_text(f"# Performance\n\n{uploads.BEGIN}\nuploads\n{page.END}\n")
    samples: dict[str, list[Sample | None]] = {
        name: [Sample(2**20, seconds, seconds, 0.0, 1) for _ in range(3)]
        for name, seconds in ((OURS, 0.5), (NGINX, 0.25), (STARLETTE, 2.0))
    }
    samples[STARLETTE][1] = None  # it is measured in some rounds only
    results = [Result(Row("whole", "1 MiB whole", 2**20, {}), samples)]
    for _ in range(2):
        downloads.write(results, 3)
    text = written.read_text()
    assert text.startswith(f"# Performance\n\n{uploads.BEGIN}\nuploads\n{page.END}\n")
    assert text.count(downloads.BEGIN) == text.count("| 1 MiB whole | 2 MiB/s | 4 MiB/s |") == 1
    assert "| 0.50 (0.50 to 0.50) | 4.00 (4.00 to 4.00) |" in text
    assert plot.read_text().startswith("<?xml")
    assert all(downloads.lines_of(results[0]))
