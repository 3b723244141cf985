"""Hostile stills and logos at the look that every picture gets, traced: no bait taken, no bomb fed."""

import json
import sys
from pathlib import Path

from app.domain.errors import AppError
from tests.fakes.hostile import Bait
from tests.fakes.hostile_pictures import hostile_pictures
from tests.fakes.lure_runs import connections, loopback, traced
from tests.fakes.media_bench import LIMITS, open_bench

MEMORY_KIB = 400 * 1024
ROOT = Path(__file__).parents[2]
LOOKS = """
import json, resource, sys
from pathlib import Path
from app.domain.errors import AppError
from app.infrastructure.drawing.pictures import look
for path in sys.argv[2:]:
    code = ""
    try:
        look(Path(path), int(sys.argv[1]))
    except AppError as error:
        code = error.code
    print(json.dumps([code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


async def test_no_picture_takes_its_bait_or_more_memory_than_a_picture_may(tmp_path: Path) -> None:
    with loopback(b"") as page:
        bait = Bait(tmp_path, "bait-of-a-picture.png", page.server_port, "bait-of-a-picture.png")
        bait.path.write_bytes(b"somebody else's")
        pictures = list(hostile_pictures(bait))
        files = [tmp_path / f"{number}" for number in range(len(pictures))]
        for file, each in zip(files, pictures, strict=True):
            file.write_bytes(each.content)
        ours = [sys.executable, "-c", LOOKS, str(LIMITS.max_pixels), *map(str, files)]
        trace = traced(tmp_path, [(ROOT, ours)], patience=60, out=tmp_path / "told")
        told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
        assert len(told) == len(pictures)
        for each, (code, memory) in zip(pictures, told, strict=True):
            assert code in each.codes, each.title
            assert memory < MEMORY_KIB, each.title
        assert all(f'"{file}"' in trace for file in files)
        assert not bait.taken(trace, page.asked)
        assert connections(trace) == []
        assert page.connections == 0
        # The same through the child that a service asks, which first looks at the first bytes.
        async with open_bench(tmp_path / "job") as bench:
            for place in (0, 1, 8, 12):
                code = ""
                try:
                    await bench.stills.probe_still(files[place])
                except AppError as error:
                    code = error.code
                assert code in pictures[place].codes, pictures[place].title
