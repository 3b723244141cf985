"""What operations cost beside plain FFmpeg doing the like: ratios of time, pair by pair in one run.

Ours is all that a worker does for a job: drawing, FFmpeg in its sandbox, the check of the result.
The plain line is FFmpeg alone, same binary, same sandbox, same number of threads, same clip. They run
in turn; the machine's speed drifts, a ratio within a round does not.

    make bench-media                                 # 30 s of 1080p, some twenty minutes
    .venv/bin/python -m benchmarks.media --quick     # 6 s, two rounds, two minutes
    .venv/bin/python -m benchmarks.media --write     # and put the result into docs/performance.md
"""

import argparse
import asyncio
import os
from pathlib import Path

from benchmarks.media import report
from benchmarks.media.report import Result
from benchmarks.media.rows import Row, rows
from benchmarks.media.workbench import workbench


async def measure(row: Row, rounds: int) -> Result:
    """Run both in turn, who goes first by turns; a first round warms everything up."""
    pairs: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        if number % 2:
            ours, theirs = await row.ours(), await row.theirs()
        else:
            theirs, ours = await row.theirs(), await row.ours()
        pairs.append((ours, theirs))
    return Result(row, pairs[1:])


async def run(arguments: argparse.Namespace) -> None:
    seconds = arguments.seconds or (6 if arguments.quick else 30)
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    threads = len(os.sched_getaffinity(0))
    folder = Path.cwd() / arguments.folder / f"benchmark-media-{os.getpid()}"
    async with workbench(folder, threads, arguments.ffmpeg) as bench:
        results = []
        for row in await rows(bench, seconds):
            if arguments.only and row.key not in arguments.only:
                continue
            results.append(await measure(row, rounds))
            print(report.line_of(results[-1]), flush=True)
    if arguments.write:
        report.write(results, rounds, f"FFmpeg {bench.ffmpeg.version}, {threads} threads each")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short and few: does it work?")
    parser.add_argument("--write", action="store_true", help="put it into docs/performance.md")
    parser.add_argument("--seconds", type=int, help="length of the clips (30)")
    parser.add_argument("--rounds", type=int, help="how often both run in turn (5)")
    parser.add_argument("--only", action="append", help="only this row, by its key; repeatable")
    parser.add_argument("--ffmpeg", help="the FFmpeg to use (as the service would find it)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write (here)")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
