"""The result as text, as a section of docs/performance.md and as its plot."""

import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.downloads.servers import NGINX, OURS, STARLETTE

GIB = 1024**3
MIB = 1024**2
DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "performance.md"
PLOT = DOCS / "performance-downloads.svg"
HEADING = "## Downloads"
BEGIN = "<!-- written by: make bench-downloads ARGS=--write -->"
END = "<!-- end of what is written by the command -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that is measured: ``shape`` is what a client's ``Task`` is made of."""

    key: str
    title: str
    size: int
    shape: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """One server in one round: body bytes, seconds, processor seconds of server and client."""

    count: int
    seconds: float
    cpu: float
    client_cpu: float
    requests: int


@dataclass(frozen=True, slots=True)
class Result:
    """A row's samples by server, one for each round; None where a server was left out."""

    row: Row
    samples: dict[str, list[Sample | None]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours to a peer's in the same round: the median, and what the middle half lies between."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def rate(sample: Sample) -> float:
    """MiB a second; requests a second where many small ones are measured."""
    if sample.requests > 1:
        return sample.requests / sample.seconds
    return sample.count / sample.seconds / MIB


def cpu(sample: Sample) -> float:
    """Processor seconds a GiB; milliseconds a request where many small ones are measured."""
    if sample.requests > 1:
        return sample.cpu / sample.requests * 1000
    return sample.cpu / sample.count * GIB


def middle(result: Result, server: str, of: Callable[[Sample], float]) -> float | None:
    found = [of(sample) for sample in result.samples.get(server, ()) if sample is not None]
    return statistics.median(found) if found else None


def ratio(result: Result, peer: str, of: Callable[[Sample], float]) -> Ratio | None:
    """Return ours to ``peer``'s, None where there are not two rounds with both."""
    pairs = zip(result.samples[OURS], result.samples.get(peer, ()), strict=False)
    ratios = [of(ours) / of(theirs) for ours, theirs in pairs if ours and theirs and of(theirs)]
    if len(ratios) < 2:
        return None
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)


def lines_of(result: Result) -> list[str]:
    """Return what the terminal shows of a row."""
    is_small = result.row.key == "small"
    speed, cost = ("requests/s", "ms/request") if is_small else ("MiB/s", "s/GiB")
    lines = [result.row.title]
    for server in result.samples:
        shown, spent = middle(result, server, rate), middle(result, server, cpu)
        if shown is None or spent is None:
            continue
        line = f"  {server:12} {shown:7.0f} {speed}   cpu {spent:.2f} {cost}"
        against = ratio(result, server, rate)
        if server != OURS and against:
            line += f"   Tidemill to it: {against}, cpu {ratio(result, server, cpu)}"
        lines.append(line)
    return lines


def write(results: list[Result], rounds: int) -> None:
    """Put the table into the page, in place of the one before, and the plot beside it."""
    _plot(results)
    page = PAGE.read_text() if PAGE.exists() else "# Performance\n"
    if BEGIN not in page:
        page = page.rstrip("\n") + f"\n\n{HEADING}\n\n{BEGIN}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{_section(results, rounds)}\n{END}{after}")


def _section(results: list[Result], rounds: int) -> str:
    told = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {_machine()}. {rounds} rounds, all servers in"
        f" turn in each ({STARLETTE} in every fourth). In brackets: what the middle half of the"
        " rounds lies between."
    )
    speeds_of = f"Tidemill | nginx | {STARLETTE} | to nginx | to {STARLETTE}"
    lines = [
        told,
        "",
        f"| download | {speeds_of} | CPU: Tidemill | nginx | {STARLETTE} | CPU to nginx |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        is_small = result.row.key == "small"
        speeds = [_shown(middle(result, name, rate), 0) for name in (OURS, NGINX, STARLETTE)]
        costs = [_shown(middle(result, name, cpu), 2) for name in (OURS, NGINX, STARLETTE)]
        unit, cost = (" requests/s", " ms each") if is_small else (" MiB/s", " s/GiB")
        cells = [
            result.row.title,
            *(speed + unit for speed in speeds),
            str(ratio(result, NGINX, rate) or "-"),
            str(ratio(result, STARLETTE, rate) or "-"),
            *(each + cost for each in costs),
            str(ratio(result, NGINX, cpu) or "-"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"![Downloads, to nginx and to FileResponse]({PLOT.name})"])


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _machine() -> str:
    programs = [f"{name} {version(name)}" for name in ("uvicorn", "uvloop", "starlette")]
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx:
        told = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True)
        programs.append(told.stderr.strip().rpartition(": ")[2].replace("/", " "))
    cores = len(os.sched_getaffinity(0))
    kernel = platform.release().partition("-")[0]
    return (
        f"{cores} cores, Linux {kernel}, Python {platform.python_version()}, {', '.join(programs)}"
    )


def _plot(results: list[Result]) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - only who writes the page needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = "downloads"
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    shown = [result for result in results if result.row.key != "small"]
    for offset, peer, colour in ((0.2, NGINX, "#1f6f8b"), (-0.2, STARLETTE, "#c9a227")):
        found = [(n, ratio(result, peer, rate)) for n, result in enumerate(reversed(shown))]
        bars = [(n + offset, each) for n, each in found if each is not None]
        medians = [each.median for _, each in bars]
        spread = [
            [each.median - each.low for _, each in bars],
            [each.high - each.median for _, each in bars],
        ]
        places = [place for place, _ in bars]
        axes.barh(places, medians, 0.36, xerr=spread, color=colour, label=f"to {peer}", capsize=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [result.row.title for result in reversed(shown)])
    axes.set_xlabel("Tidemill's throughput to the other's in the same round (median, middle half)")
    axes.legend()
    figure.savefig(PLOT, metadata={"Date": None})
