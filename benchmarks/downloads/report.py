"""The result as text, as a section of docs/performance.md and as its plot."""

import os
import shutil
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from benchmarks import page
from benchmarks.downloads.servers import NGINX, OURS, STARLETTE
from benchmarks.page import Bars, Ratio

GIB = 1024**3
MIB = 1024**2
PLOT = page.DOCS / "performance-downloads.svg"
HEADING = "## Downloads"
BEGIN = "<!-- written by: make bench-downloads ARGS=--write -->"
_COLOURS = {NGINX: "#1f6f8b", STARLETTE: "#c9a227"}


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
    """Return ours to ``peer``'s, None where there is no round with both."""
    pairs = zip(result.samples[OURS], result.samples.get(peer, ()), strict=False)
    return page.ratio_of((of(ours), of(theirs)) for ours, theirs in pairs if ours and theirs)


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
    shown = [result for result in results if result.row.key != "small"]
    bars = {
        peer: Bars(colour, [ratio(result, peer, rate) for result in shown])
        for peer, colour in _COLOURS.items()
    }
    page.draw(PLOT, [result.row.title for result in shown], bars, height=3.6)
    page.put(page.PAGE, HEADING, BEGIN, _section(results, rounds))


def _section(results: list[Result], rounds: int) -> str:
    told = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {_machine()}. {rounds} rounds, all servers in"
        f" turn in each ({STARLETTE} in every fourth). In brackets: what the middle half of the"
        " rounds lies between."
    )
    speeds_of = ["Tidemill", "nginx", STARLETTE, "to nginx", f"to {STARLETTE}"]
    costs_of = ["CPU: Tidemill", "nginx", STARLETTE, "CPU to nginx"]
    lines = [told, "", *page.head(["download", *speeds_of, *costs_of])]
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
        lines.append(page.line(cells))
    return "\n".join([*lines, "", f"![Downloads, to nginx and to FileResponse]({PLOT.name})"])


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _machine() -> str:
    told = page.machine("uvicorn", "uvloop", "starlette")
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx:
        asked = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True)
        told.append(asked.stderr.strip().rpartition(": ")[2].replace("/", " "))
    return ", ".join(told)
