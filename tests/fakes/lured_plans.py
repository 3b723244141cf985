"""Runs every operation on hostile files that no probe refused: ``python -m THIS FOLDER SANDBOX``.

FOLDER has ``lures/<number>`` (the files) and gets ``jobs/``. Nothing looks at the files before: what
stands between them and their baits is what the steps themselves do. Prints a line of JSON for each.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Literal, cast

from app.domain.errors import AppError
from app.infrastructure.drawing.fonts import FontAlphabet
from app.infrastructure.media.sandbox import detect_sandbox
from app.operations.base import FFmpegStep
from app.operations.registry import Registry, default_registry
from tests.fakes.media_bench import MediaBench, open_bench
from tests.fakes.wishes import WISHES, Wish, sources

CHOSEN = (0, 2, 3, 5, 6, 9, 14)
"""Wishes whose steps differ in how they read a clip or a picture."""


async def work(bench: MediaBench, registry: Registry, wish: Wish, lure: Path) -> str:
    """Run a wish whose every input is the lure; return the code of its end."""
    operation = registry.get(wish.operation)
    given = sources(wish)
    for each in given:
        (bench.folder / each.name).hardlink_to(lure)
    plan = operation.plan(operation.params_model.model_validate(wish.params), given)
    ended = ""
    for step in plan.steps:
        try:
            await bench.steps.run(step, bench.folder, lambda _: None)
        except AppError as error:
            ended = error.code
            # As if it had gone well, so that the steps behind it have their turn with the lure.
            if isinstance(step, FFmpegStep):
                (bench.folder / step.output).hardlink_to(lure)
            else:
                break
        except KeyError:
            break  # a step before it told no numbers
    return ended


async def main(root: Path, sandbox: str) -> None:
    registry = default_registry(FontAlphabet())
    isolation = detect_sandbox(cast("Literal['auto', 'off']", sandbox))
    for lure in sorted((root / "lures").iterdir()):
        for place in CHOSEN:
            folder = root / "jobs" / f"{lure.name}-{place}"
            async with open_bench(folder, isolation=isolation) as bench:
                ended = await work(bench, registry, WISHES[place], lure)
            told = {"lure": lure.name, "operation": WISHES[place].operation, "code": ended}
            print(json.dumps(told), flush=True)  # noqa: T201 - this is what it is for


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
