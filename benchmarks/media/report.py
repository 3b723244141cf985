"""The result as text and as a section of docs/performance.md."""

import statistics
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks import page
from benchmarks.media.rows import Row
from benchmarks.page import Ratio

HEADING = "## Media"
BEGIN = "<!-- written by: make bench-media ARGS=--write -->"


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds of ours and of the plain line, a pair for each round."""

    row: Row
    pairs: list[tuple[float, float]]

    @property
    def ratio(self) -> Ratio:
        found = page.ratio_of(self.pairs)
        if found is None:
            msg = f"nothing was measured of {self.row.key}"
            raise ValueError(msg)
        return found

    @property
    def seconds(self) -> tuple[float, float]:
        """The medians: ours, the plain line's."""
        ours, theirs = zip(*self.pairs, strict=True)
        return statistics.median(ours), statistics.median(theirs)


def line_of(result: Result) -> str:
    """Return what the terminal shows of a row."""
    ours, theirs = result.seconds
    return (
        f"{result.row.title}\n  Tidemill {ours:.2f} s, {result.row.plain} {theirs:.2f} s:"
        f" {_shown(result.ratio)}, must be {_bound(result.row.must)}"
    )


def write(results: list[Result], rounds: int, tool: str) -> None:
    """Put the table into the page, in place of the one before."""
    page.put(page.PAGE, HEADING, BEGIN, _section(results, rounds, tool))


def _section(results: list[Result], rounds: int, tool: str) -> str:
    told = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {', '.join(page.machine('av'))}, {tool}."
        f" {rounds} rounds, ours and the plain line in turn. In"
        " brackets: what the middle half of the rounds lies between."
    )
    lines = [
        told,
        "",
        *page.head(["work", "Tidemill", "beside", "it took", "ratio", "must", "stretch"]),
    ]
    for result in results:
        ours, theirs = result.seconds
        row = result.row
        cells = [row.title, f"{ours:.2f} s", row.plain, f"{theirs:.2f} s", _shown(result.ratio)]
        lines.append(page.line([*cells, _bound(row.must), _bound(row.stretch)]))
    return "\n".join(lines)


def _shown(ratio: Ratio) -> str:
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def _bound(value: float) -> str:
    return f"{value:.3g}"
