"""How fast a byte comes in: Tidemill beside @tus/server, tuspyserver as it comes and a raw socket sink.

All run on this machine at the same time and are measured in turn (A B C A B C ...) by a client that
costs little; what they stored is compared with what was sent. The machine's speed drifts, a ratio
within a round does not: so medians of ratios are what counts. Fsync is off but in a row of its own.

    make bench                                      # everything, some ten minutes
    .venv/bin/python -m benchmarks.uploads --quick  # small and few, a minute or two
    .venv/bin/python -m benchmarks.uploads --write  # and put the result into docs/performance.md
"""

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from benchmarks.uploads import report
from benchmarks.uploads.rows import MIB, ROWS, Bench, Result, Row, Sizes
from benchmarks.uploads.servers import running

_QUICK = Sizes(
    rounds=2, whole=128, each_of_eight=16, each_of_four=32, small=150, slow=4, many_slow=200
)
_DEFAULT = Sizes(
    rounds=7, whole=1024, each_of_eight=128, each_of_four=256, small=500, slow=16, many_slow=1000
)
_MEMORY = Path("/dev/shm")  # noqa: S108 - tmpfs is what is measured


def main() -> None:
    arguments = _arguments()
    sizes = _QUICK if arguments.quick else _DEFAULT
    if arguments.rounds:
        sizes = replace(sizes, rounds=arguments.rounds)
    chosen = [row for row in ROWS if not arguments.row or row.key in arguments.row]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers and files go
    memory = Path(tempfile.mkdtemp(prefix="benchmark-", dir=_MEMORY))
    disk = Path(tempfile.mkdtemp(prefix="benchmark-", dir=arguments.folder))
    try:
        source = memory / "source"
        with source.open("wb") as file:
            for _ in range(sizes.whole):
                file.write(os.urandom(MIB))
        results = _run(chosen, Bench(sizes, source), {"memory": memory, "disk": disk})
    finally:
        shutil.rmtree(memory)
        shutil.rmtree(disk)
    if arguments.write:
        report.write(results, sizes)


def _run(rows: list[Row], bench: Bench, places: dict[str, Path]) -> list[Result]:
    results = []
    for (place, fsync), group in groupby(sorted(rows, key=_where), key=_where):
        mine = list(group)
        names = list(dict.fromkeys(name for row in mine for name in row.peers))
        with running(names, places[place], fsync=fsync) as servers:
            for row in mine:
                results.append(bench.run(row, servers))
                print("\n".join(report.lines_of(results[-1], bench.sizes)), flush=True)
    order = [row.key for row in rows]
    return sorted(results, key=lambda result: order.index(result.row.key))


def _where(row: Row) -> tuple[str, bool]:
    return row.place, row.fsync


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.uploads",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds")
    parser.add_argument("--rounds", type=int, help="how often each server is measured in each row")
    parser.add_argument(
        "--row",
        action="append",
        choices=[row.key for row in ROWS],
        help="only this row (repeatable)",
    )
    parser.add_argument("--folder", type=Path, default=Path(), help="a folder on a disk (here)")
    parser.add_argument(
        "--write", action="store_true", help="write docs/performance.md and its plot"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
