"""The result as text, as the page docs/performance.md and as its plot."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.uploads.rows import Result, Row, Sample, Sizes
from benchmarks.uploads.servers import NODE, OURS, SINK, STOCK

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "performance.md"
PLOT = DOCS / "performance-uploads.svg"
HEADING = "## Uploads"
BEGIN = "<!-- written by: make bench ARGS=--write -->"
END = "<!-- end of what is written by the command -->"
_PEERS = (NODE, STOCK, SINK)
_COLOURS = {NODE: "#1f6f8b", STOCK: "#c9a227", SINK: "#8a8a8a"}
_LOCK = Path(__file__).resolve().parents[1] / "js" / "package-lock.json"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours to a peer's in the same round: the median, and what the middle half lies between."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(result: Result, peer: str, of: Callable[[Sample], float]) -> Ratio | None:
    """Return ours against ``peer``'s, None where it was not measured."""
    pairs = zip(result.samples.get(OURS, ()), result.samples.get(peer, ()), strict=False)
    ratios = [of(ours) / of(theirs) for ours, theirs in pairs if of(theirs)]
    if not ratios:
        return None
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)


def middle(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    return statistics.median(of(sample) for sample in samples)


def rate(sample: Sample) -> float:
    return sample.rate


def cpu(sample: Sample) -> float:
    return sample.cpu


def memory(sample: Sample) -> float:
    return sample.memory


def title_of(row: Row, sizes: Sizes) -> str:
    """Return the row's title with what was sent."""
    sent = {
        "whole": f"{sizes.whole:,} MiB in one PATCH",
        "fsync": f"{sizes.whole:,} MiB in one PATCH, synced at its end",
        "eight": f"8 uploads of {sizes.each_of_eight} MiB at once",
        "four": f"8 MiB PATCHes, 4 uploads of {sizes.each_of_four} MiB at once",
        "small-memory": f"{sizes.small:,} uploads of 10 KB on tmpfs",
        "small-disk": f"{sizes.small:,} uploads of 10 KB on disk",
        "slow": f"64 uploads of {sizes.slow} MiB at 4 MiB/s each",
        "many-slow": f"{sizes.many_slow:,} uploads of 300 KiB in 6 s each",
    }
    return sent[row.key]


def lines_of(result: Result, sizes: Sizes) -> list[str]:
    """Return what the terminal shows of a row."""
    lines = [f"{title_of(result.row, sizes)} ({result.seconds:.0f} s)"]
    for name in (OURS, *_PEERS):
        samples = result.samples.get(name)
        if not samples:
            continue
        line = f"  {name:12} {_speed(result, name):>16}   cpu {_cost(result, name)}"
        if result.row.tells_memory:
            line += f"   {middle(samples, memory):.0f} MiB over idle"
        against = ratio(result, name, rate)
        if name != OURS and against:
            line += f"   Tidemill to it: {against}, cpu {ratio(result, name, cpu)}"
        lines.append(line)
    return lines


def _speed(result: Result, name: str) -> str:
    samples = result.samples.get(name)
    return f"{middle(samples, rate):,.0f} {result.row.unit}" if samples else "-"


def _cost(result: Result, name: str) -> str:
    samples = result.samples.get(name)
    unit = "ms each" if result.row.is_small else "s/GiB"
    return f"{middle(samples, cpu):.2f} {unit}" if samples else "-"


def _memory(result: Result, name: str) -> str:
    samples = result.samples.get(name)
    return f"{middle(samples, memory):.0f} MiB" if samples else "-"


def write(results: Sequence[Result], sizes: Sizes) -> None:
    """Put the tables into the page, in place of the ones before, and the plot beside it."""
    _plot(results, sizes)
    page = PAGE.read_text() if PAGE.exists() else "# Performance\n"
    if BEGIN not in page:
        page = page.rstrip("\n") + f"\n\n{HEADING}\n\n{BEGIN}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{_section(results, sizes)}\n{END}{after}")


def _section(results: Sequence[Result], sizes: Sizes) -> str:
    fast = [result for result in results if not result.row.tells_memory]
    slow = [result for result in results if result.row.tells_memory]
    told = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {_machine()}. {sizes.rounds} rounds, all servers"
        " in turn in each. In brackets: what the middle half of the rounds lies between."
    )
    lines = [
        told,
        "",
        f"| upload | Tidemill | {' | '.join(_PEERS)} | to {NODE} | to {STOCK} | to {SINK} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in fast:
        speeds = [_speed(result, name) for name in (OURS, *_PEERS)]
        ratios = [str(ratio(result, peer, rate) or "-") for peer in _PEERS]
        lines.append(_line([title_of(result.row, sizes), *speeds, *ratios]))
    lines += [
        "",
        f"| processor time | Tidemill | {' | '.join(_PEERS)} | to {NODE} | to {STOCK} | to {SINK} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in fast:
        costs = [_cost(result, name) for name in (OURS, *_PEERS)]
        ratios = [str(ratio(result, peer, cpu) or "-") for peer in _PEERS]
        lines.append(_line([title_of(result.row, sizes), *costs, *ratios]))
    lines += [
        "",
        f"| most memory over idle | Tidemill | {NODE} | {STOCK} |",
        "|---|---|---|---|",
    ]
    for result in slow:
        held = [_memory(result, name) for name in (OURS, NODE, STOCK)]
        lines.append(_line([title_of(result.row, sizes), *held]))
    return "\n".join([*lines, "", f"![Uploads, to the other servers]({PLOT.name})"])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _machine() -> str:
    names = ("uvicorn", "uvloop", "fastapi", "tuspyserver")
    programs = [f"{name} {version(name)}" for name in names]
    packages = json.loads(_LOCK.read_text())["packages"]
    programs += [
        f"{name} {packages[f'node_modules/{name}']['version']}"
        for name in ("@tus/server", "@tus/file-store")
    ]
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    cores = len(os.sched_getaffinity(0))
    kernel = platform.release().partition("-")[0]
    python = platform.python_version()
    return (
        f"{cores} cores, Linux {kernel}, Python {python}, Node {node.stdout.strip().lstrip('v')},"
        f" {', '.join(programs)}"
    )


def _plot(results: Sequence[Result], sizes: Sizes) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - only who writes the page needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = "uploads"
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    shown = [result for result in reversed(results) if not result.row.tells_memory]
    for offset, peer in ((0.27, NODE), (0, STOCK), (-0.27, SINK)):
        found = [(n, ratio(result, peer, rate)) for n, result in enumerate(shown)]
        bars = [(n + offset, each) for n, each in found if each is not None]
        spread = [
            [each.median - each.low for _, each in bars],
            [each.high - each.median for _, each in bars],
        ]
        axes.barh(
            [place for place, _ in bars],
            [each.median for _, each in bars],
            0.25,
            xerr=spread,
            color=_COLOURS[peer],
            label=f"to {peer}",
            capsize=3,
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [title_of(result.row, sizes) for result in shown])
    axes.set_xlabel("Tidemill's throughput to the other's in the same round (median, middle half)")
    axes.legend()
    figure.savefig(PLOT, metadata={"Date": None})
