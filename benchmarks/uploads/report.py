"""The result as text, as the page docs/performance.md and as its plot."""

import json
import statistics
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import page
from benchmarks.page import Bars, Ratio
from benchmarks.uploads.rows import Result, Row, Sample, Sizes
from benchmarks.uploads.servers import NODE, OURS, SINK, STOCK

PLOT = page.DOCS / "performance-uploads.svg"
HEADING = "## Uploads"
BEGIN = "<!-- written by: make bench ARGS=--write -->"
_PEERS = (NODE, STOCK, SINK)
_COLOURS = {NODE: "#1f6f8b", STOCK: "#c9a227", SINK: "#8a8a8a"}
_LOCK = Path(__file__).resolve().parents[1] / "js" / "package-lock.json"


def ratio(result: Result, peer: str, of: Callable[[Sample], float]) -> Ratio | None:
    """Return ours against ``peer``'s, None where it was not measured."""
    pairs = zip(result.samples.get(OURS, ()), result.samples.get(peer, ()), strict=False)
    return page.ratio_of((of(ours), of(theirs)) for ours, theirs in pairs)


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
            line += f"   {_memory(result, name)} over idle, {_finished(result, name)}"
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


def _finished(result: Result, name: str) -> str:
    """Say how many uploads came to their end in all rounds, of how many that were begun."""
    samples = result.samples.get(name)
    if not samples:
        return "-"
    begun, whole = sum(each.begun for each in samples), sum(each.finished for each in samples)
    return f"{whole:,} of {begun:,} finished"


def _duration(result: Result, name: str) -> str:
    samples = result.samples.get(name)
    return f"{statistics.median(each.seconds for each in samples):.1f} s" if samples else "-"


def write(results: Sequence[Result], sizes: Sizes) -> None:
    """Put the tables into the page, in place of the ones before, and the plot beside it."""
    shown = [result for result in results if not result.row.tells_memory]
    bars = {
        peer: Bars(colour, [ratio(result, peer, rate) for result in shown])
        for peer, colour in _COLOURS.items()
    }
    page.draw(PLOT, [title_of(result.row, sizes) for result in shown], bars, height=5)
    page.put(page.PAGE, HEADING, BEGIN, _section(results, sizes))


def _section(results: Sequence[Result], sizes: Sizes) -> str:
    minutes = sum(result.seconds for result in results) / 60
    told = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {_machine()}. {sizes.rounds} rounds, all servers"
        " in turn in each. In brackets: what the middle half of the rounds lies between. It took"
        f" {minutes:.0f} minutes."
    )
    fast = [result for result in results if not result.row.tells_memory]
    tables = [
        _table("upload", fast, sizes, rate),
        _table("processor time", fast, sizes, cpu),
        _slow_table([result for result in results if result.row.tells_memory], sizes),
    ]
    lines = [line for table in tables for line in ("", *table)]
    return "\n".join([told, *lines, "", f"![Uploads, to the other servers]({PLOT.name})"])


def _table(
    what: str, results: Sequence[Result], sizes: Sizes, of: Callable[[Sample], float]
) -> list[str]:
    """Return rates or costs of each server, and ours to those of the others."""
    shown = _speed if of is rate else _cost
    lines = page.head([what, OURS, *_PEERS, *(f"to {peer}" for peer in _PEERS)])
    for result in results:
        figures = [shown(result, name) for name in (OURS, *_PEERS)]
        ratios = [str(ratio(result, peer, of) or "-") for peer in _PEERS]
        lines.append(page.line([title_of(result.row, sizes), *figures, *ratios]))
    return lines


def _slow_table(results: Sequence[Result], sizes: Sizes) -> list[str]:
    """Return how much was held for slow clients, by whom, for how long, and that all came through."""
    names = (OURS, NODE, STOCK)
    lines = page.head(["most memory over idle", *names, "rounds", "a round took", "uploads"])
    for result in results:
        held = [_memory(result, name) for name in names]
        samples = result.samples.get(OURS, ())
        cells = [str(len(samples)), _duration(result, OURS), _finished(result, OURS)]
        lines.append(page.line([title_of(result.row, sizes), *held, *cells]))
    return lines


def _machine() -> str:
    packages = json.loads(_LOCK.read_text())["packages"]
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    told = page.machine("uvicorn", "uvloop", "fastapi", "tuspyserver")
    told.insert(3, f"Node {node.stdout.strip().lstrip('v')}")
    for name in ("@tus/server", "@tus/file-store"):
        told.append(f"{name} {packages[f'node_modules/{name}']['version']}")
    return ", ".join(told)
