"""How fast a stored file goes out: Tidemill beside nginx with sendfile and Starlette's FileResponse.

All three give out the very same file on loopback, in turn (A B A B ...), to one client that costs
little. Bytes are compared with the source before the measured rounds (ours after them too), lengths
in each. The machine's speed drifts, a ratio within a round does not: so medians of those ratios are
what counts.

    make bench-downloads                                # 1 GiB, some minutes
    .venv/bin/python -m benchmarks.downloads --quick    # small and few, under a minute
    .venv/bin/python -m benchmarks.downloads --write    # and put the result into docs/performance.md
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.downloads import report
from benchmarks.downloads.client import Client, Task, client
from benchmarks.downloads.report import Result, Row, Sample
from benchmarks.downloads.servers import STARLETTE, Server, running

MIB = 1024 * 1024
SMALL = 10_000
_SELDOM = 4
"""Starlette's is measured in every fourth round: it takes ten times as long."""


def rows(mebibytes: int, small: int) -> list[Row]:
    """Return what is measured, given the size of the file and how many small requests."""
    size, part = mebibytes * MIB, mebibytes // 16
    discarding = "the client discards"
    return [
        Row("whole", f"{mebibytes} MiB whole", size, {"is_whole": True}),
        Row("ranges", f"16 ranges of {part} MiB", size, {"is_whole": False, "ranges": 16}),
        Row(
            "whole, discarded",
            f"{mebibytes} MiB whole, {discarding}",
            size,
            {"is_whole": True, "discard": True},
        ),
        Row(
            "ranges, discarded",
            f"16 ranges of {part} MiB, {discarding}",
            size,
            {"is_whole": False, "ranges": 16, "discard": True},
        ),
        Row(
            "8 at once",
            f"8 downloads at once, {mebibytes // 8} MiB each",
            size,
            {"is_whole": False, "at_once": 8},
        ),
        Row(
            "small",
            "10 KB after 10 KB on one connection",
            SMALL,
            {"is_whole": False, "times": small},
        ),
    ]


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not without stopping the servers
    mebibytes = arguments.mebibytes or (128 if arguments.quick else 1024)
    rounds = arguments.rounds or (5 if arguments.quick else 21)
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=arguments.folder)).resolve()
    try:
        source = folder / "source"
        with source.open("wb") as file:
            for _ in range(mebibytes):
                file.write(os.urandom(MIB))
        chosen = rows(mebibytes, 100 if arguments.quick else 300)
        with running(folder, source) as servers, client() as reader:
            results = [_measure(row, servers, reader, source, rounds) for row in chosen]
    finally:
        shutil.rmtree(folder)
    if arguments.write:
        report.write(results, rounds)


def _measure(row: Row, servers: list[Server], reader: Client, source: Path, rounds: int) -> Result:
    result = Result(row, {server.name: [] for server in servers})
    _verify(row, servers, reader, source)
    for number in range(rounds + 1):
        # Who goes first has a colder cache: by turns.
        for server in servers if number % 2 else [*servers[1::-1], *servers[2:]]:
            if server.name == STARLETTE and number % _SELDOM != 1:
                result.samples[server.name].append(None)
                continue
            task = Task(server.port, server.path, row.size, **row.shape)
            before = server.cpu_seconds()
            seconds, own = reader.run(task)
            cpu = server.cpu_seconds() - before
            count = row.size * task.times * (task.at_once if task.is_whole else 1)
            result.samples[server.name].append(Sample(count, seconds, cpu, own, task.times))
    for samples in result.samples.values():
        del samples[0]  # warmed the page cache and the path
    _verify(row, servers[:1], reader, source)
    print("\n".join(report.lines_of(result)), flush=True)
    return result


def _verify(row: Row, servers: list[Server], reader: Client, source: Path) -> None:
    shape = row.shape | {"discard": False, "times": 1, "source": str(source)}
    for server in servers:
        reader.run(Task(server.port, server.path, row.size, **shape))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small and few: does it work?")
    parser.add_argument("--write", action="store_true", help="put it into docs/performance.md")
    parser.add_argument("--mebibytes", type=int, help="size of the file (1024)")
    parser.add_argument("--rounds", type=int, help="how often all run in turn (21)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write (here)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
