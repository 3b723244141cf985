"""What the reports share: ratios within a round, lines of a table, docs/performance.md and its plots."""

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "performance.md"
END = "<!-- end of what is written by the command -->"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours to a peer's in the same round: the median, and what the middle half lies between."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio_of(pairs: Iterable[tuple[float, float]]) -> Ratio | None:
    """Return ours to a peer's, a pair for each round with both; None without any."""
    ratios = [ours / theirs for ours, theirs in pairs if theirs]
    if not ratios:
        return None
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)


def line(cells: Iterable[str]) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(cells) + " |"


def head(cells: Sequence[str]) -> list[str]:
    """Return the two lines that a table begins with."""
    return [line(cells), "|" + "---|" * len(cells)]


def machine(*packages: str) -> list[str]:
    """Return what the figures were measured on: machine, Python and installed ``packages``."""
    return [
        f"{len(os.sched_getaffinity(0))} cores",
        f"Linux {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in packages),
    ]


def put(page: Path, heading: str, begin: str, section: str) -> None:
    """Write ``section`` into the page between ``begin`` and END, in place of what was there; below a
    new ``heading`` where there was nothing.
    """
    text = page.read_text() if page.exists() else "# Performance\n"
    if begin not in text:
        text = text.rstrip("\n") + f"\n\n{heading}\n\n{begin}\n{END}\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{begin}\n{section}\n{END}{after}")


@dataclass(frozen=True, slots=True)
class Bars:
    """The bars of one peer, one for each title (None: not measured), and their colour."""

    colour: str
    ratios: Sequence[Ratio | None]


def draw(plot: Path, titles: Sequence[str], bars: Mapping[str, Bars], height: float) -> None:
    """Draw ours to each peer, the first title at the top, as an SVG that is the same each time."""
    import matplotlib as mpl  # noqa: PLC0415 - only who writes the page needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = plot.stem
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    thickness = 0.8 / len(bars)
    for number, (peer, drawn) in enumerate(bars.items()):
        offset = thickness * ((len(bars) - 1) / 2 - number)
        found = [(n, each) for n, each in enumerate(reversed(drawn.ratios)) if each is not None]
        spread = [
            [each.median - each.low for _, each in found],
            [each.high - each.median for _, each in found],
        ]
        axes.barh(
            [n + offset for n, _ in found],
            [each.median for _, each in found],
            thickness * 0.92,
            xerr=spread,
            color=drawn.colour,
            label=f"to {peer}",
            capsize=3,
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(titles)), list(reversed(titles)))
    axes.set_xlabel("Tidemill's throughput to the other's in the same round (median, middle half)")
    axes.legend()
    figure.savefig(plot, metadata={"Date": None})
