"""Thousands of spoilt requests on raw sockets: no crash, no hang, and nobody else's bytes change.

Every try comes from a seed, which a failure names together with the fewest mutations and the exact
bytes that still do it. ``FUZZ_SEED`` and ``FUZZ_TRIES`` in the environment repeat a run.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import re
import secrets
import sqlite3
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.conftest import _servers_in
from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import TUS, SlowPatch, create, offset_of, upload
from tests.fakes.tus_fuzz import MOST_BYTES, Try, TusFuzz

AT_ONCE = 12
SHORT_TRIES, LONG_TRIES, ROUND_TRIES = 1_000, 100_000, 4_000
"""Of each way of a body."""
WAYS = Path(__file__).parents[1] / "fakes" / "command_on_one_way.py"
POOL = 96
LOOK_SECONDS = 0.15
"""How long a client that only looks waits for more."""
PAUSE_SECONDS = 0.01
"""Between the pieces of a try: else the kernel would join them again."""
HANG_SECONDS = 20.0
"""Longer than anything may take that has been told that the client sends no more."""
ALLOWED_5XX = {501, 505}
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


@pytest.fixture(params=["plain", "lent"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(tmp_path: Path, way: str) -> Iterator[Server]:
    settings = {
        "MAX_UPLOAD_BYTES": MOST_BYTES,
        "DISK_RESERVE_BYTES": 0,
        "WORKERS": 0,
        "FSYNC": "off",
        "LOG_LEVEL": "warning",
    }
    with _servers_in(tmp_path) as make:
        yield make(settings, wrapper=(sys.executable, "-P", str(WAYS), way)).start()


@dataclass
class Canaries:
    """Uploads that no try may touch: one complete, one half there; and how they looked."""

    data: Path
    paths: list[str]
    seen: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def settle(cls, api: httpx.Client, server: Server) -> "Canaries":
        body = random.Random(1).randbytes(5_000)
        complete = upload(api, body).headers["tidemill-upload"]
        half = create(api, 10_000)
        with SlowPatch(server.port, half, 0, len(body)) as slow:
            slow.send(body[:1])
            wait_for(lambda: offset_of(api, half) == 1, "the first byte")
            slow.send(body[1:])
            assert slow.answer() is not None
        found = cls(server.data, [f"/files/{complete}", half])
        found.seen = found.look(api)
        return found

    @property
    def ids(self) -> list[str]:
        return [path.rpartition("/")[2] for path in self.paths]

    def look(self, api: httpx.Client) -> dict[str, Any]:
        heads = [api.head(path, headers=TUS) for path in self.paths]
        assert [head.status_code for head in heads] == [200, 200]
        return {
            "heads": [
                {
                    k: v
                    for k, v in head.headers.items()
                    if k.startswith(("upload-o", "upload-l", "tidem"))
                }
                for head in heads
            ],
            "bytes": [
                hashlib.sha256((self.data / "uploads" / each).read_bytes()).hexdigest()
                for each in self.ids
            ],
            "system": sorted(
                path.name for path in self.data.iterdir() if "tidemill.db" not in path.name
            ),
        }


class Fuzzing:
    """Many clients at once, each with one try on one connection."""

    def __init__(self, server: Server, fuzz: TusFuzz) -> None:
        self._port = server.port
        self._fuzz = fuzz
        self.statuses: Counter[int] = Counter()
        self.failures: list[tuple[int, str]] = []

    async def run(self, first: int, tries: int) -> None:
        numbers = iter(range(first, first + tries))

        async def work() -> None:
            for number in numbers:
                if len(self.failures) > 5:
                    return
                await self._try(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())

    async def _try(self, number: int) -> None:
        wrong, statuses = await self.send(self._fuzz.make(number))
        self.statuses.update(statuses)
        if wrong:
            self.failures.append((number, wrong))

    async def send(self, tried: Try) -> tuple[str, list[int]]:
        """Return what went wrong, "" for nothing, and the statuses that came."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        received = b""
        try:
            received = await self._talk(reader, writer, tried)
        except TimeoutError:
            return "the server did not end the connection", []
        except OSError:
            pass
        finally:
            writer.transport.abort() if tried.ends == "rst" else writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        statuses = [int(each) for each in STATUS.findall(received)]
        bad = [each for each in statuses if each >= 500 and each not in ALLOWED_5XX]
        return (f"answered {bad}" if bad else ""), statuses

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tried: Try
    ) -> bytes:
        received = b""
        for number, piece in enumerate(tried.pieces, 1):
            writer.write(piece)
            async with asyncio.timeout(HANG_SECONDS):
                await writer.drain()
            if number < len(tried.pieces):
                await asyncio.sleep(PAUSE_SECONDS)
        if tried.ends == "fin":
            writer.write_eof()
            async with asyncio.timeout(HANG_SECONDS):
                return await reader.read(-1)
        if tried.ends == "rst":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, linger)
        if tried.ends == "looks":
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(LOOK_SECONDS):
                        piece = await reader.read(65536)
                    if not piece:
                        break
                    received += piece
        return received

    async def explain(self, number: int, wrong: str) -> str:
        """Leave out every mutation that is not needed, and say what is left."""
        skip: set[int] = set()
        for each in range(self._fuzz.make(number).mutations):
            found, _ = await self.send(self._fuzz.make(number, skip | {each}))
            if found:
                skip.add(each)
                wrong = found
        least = self._fuzz.make(number, skip)
        what = f"seed {number} without mutations {sorted(skip)}: {wrong}, {least.ends} after"
        return f"{what}\n{least.raw[:3000]!r}"


def make_pool(api: httpx.Client) -> list[str]:
    """Uploads to be hurt, of several lengths."""
    return [create(api, length).rpartition("/")[2] for length in [50, 5_000, 90_000] * (POOL // 3)]


def check_rest(server: Server, canaries: Canaries) -> None:
    """Every other upload: bytes and row fit, and no file is without a row."""
    rows = {
        upload_id: (status, length, verified)
        for upload_id, status, length, verified in server.rows(
            "SELECT id, status, length, verified_offset FROM uploads"
        )
    }
    files = {path.name: path.stat().st_size for path in (server.data / "uploads").iterdir()}
    assert set(files) <= set(rows), "a file without a row"
    for upload_id, (status, length, verified) in rows.items():
        size = files.get(upload_id, 0)
        if status == "completed":
            assert size == length, upload_id
        elif verified is None:
            assert size <= (MOST_BYTES if length is None else length), upload_id
    outside = [
        path for path in server.leftovers() if not path.startswith(("uploads/", ".", "tidemill"))
    ]
    assert outside == []
    assert set(canaries.ids) <= set(rows)


def _unclaimed(server: Server) -> list[str]:
    """Return the unfinished uploads that have all their bytes."""
    rows = server.rows(
        "SELECT id, length FROM uploads WHERE status = 'receiving' AND kind = 'file'"
    )
    folder = server.data / "uploads"
    return [
        upload_id
        for upload_id, length in rows
        if (folder / upload_id).exists() and (folder / upload_id).stat().st_size == length
    ]


def clean(server: Server, canaries: Canaries) -> None:
    """Let everything but the canaries expire, as nobody comes back for it."""
    keep = ", ".join(f"'{each}'" for each in canaries.ids)
    old = "2001-01-01 00:00:00.000000"
    with server.client() as api:
        # Whole uploads whose completion was lost do not expire: they become batches, and those do.
        assert api.post("/api/v1/sweeps/unclaimed_uploads").status_code in {200, 409}
        wait_for(lambda: not _unclaimed(server), "the completion of what is whole")
    with contextlib.closing(sqlite3.connect(server.data / "tidemill.db", timeout=20)) as db, db:
        (sample,) = db.execute("SELECT expires_at FROM uploads LIMIT 1").fetchone()
        past = old if isinstance(sample, str) else 978307200_000000
        for statement in (
            f"UPDATE uploads SET expires_at = ?, active_at = ? WHERE id NOT IN ({keep})",  # noqa: S608
            f"""UPDATE batches SET expires_at = ?, created_at = ? WHERE id NOT IN
                (SELECT batch_id FROM uploads WHERE id IN ({keep}) AND batch_id IS NOT NULL)""",  # noqa: S608
        ):
            db.execute(statement, (past, past))
    for path in (server.data / "uploads").iterdir():
        if path.name not in canaries.ids:
            os.utime(path, (978307200, 978307200))
    with server.client() as api:

        def is_clean() -> bool:
            for sweep in ("gc_files", "expired_batches", "spent_inputs"):
                assert api.post(f"/api/v1/sweeps/{sweep}").status_code == 200
            return sorted(p.name for p in (server.data / "uploads").iterdir()) == sorted(
                canaries.ids
            )

        wait_for(is_clean, "an end of what the tries left", 60)


def no_connection_is_left(server: Server) -> bool:
    found = psutil.Process(server.pid).net_connections("tcp")
    return all(
        each.status == psutil.CONN_LISTEN for each in found if each.laddr.port == server.port
    )


def fuzz(server: Server, way: str, seed: int, tries: int) -> None:
    with server.client() as api:
        canaries = Canaries.settle(api, server)
    statuses: Counter[int] = Counter()
    for first in range(seed, seed + tries, ROUND_TRIES):
        with server.client() as api:
            pool = make_pool(api)
        fuzzing = Fuzzing(server, TusFuzz(pool, canaries.ids))

        async def run(first: int = first, fuzzing: Fuzzing = fuzzing) -> list[str]:
            await fuzzing.run(first, min(ROUND_TRIES, seed + tries - first))
            return [await fuzzing.explain(*failure) for failure in fuzzing.failures]

        failures = asyncio.run(run())
        assert not failures, "\n\n".join(failures)
        statuses.update(fuzzing.statuses)
        wait_for(lambda: no_connection_is_left(server), "the end of every connection", 60)
        assert "Traceback" not in server.log_text(), server.log_text()[-5000:]
        with server.client() as api:
            assert canaries.look(api) == canaries.seen
        check_rest(server, canaries)
        clean(server, canaries)
        with server.client() as api:
            assert canaries.look(api) == canaries.seen
    sys.stdout.write(f"\n{tries} tries from seed {seed}: {dict(sorted(statuses.items()))}\n")
    lent = len(server.events("test.body_lent"))
    sys.stdout.write(f"{lent} bodies went past the parser\n")
    # One did for certain, a canary's; how many of the others depends on how quickly they are read.
    assert (lent > 0) == (way == "lent")
    # Most were understood, and the service did things: else this test would try nothing.
    assert statuses[201] > tries // 100
    assert statuses[204] > tries // 100


@pytest.mark.timeout(600)
def test_spoilt_requests_crash_hang_and_change_nothing(server: Server, way: str) -> None:
    seed, tries = int(os.environ.get("FUZZ_SEED", "1")), int(os.environ.get("FUZZ_TRIES", "0"))
    fuzz(server, way, seed, tries or SHORT_TRIES)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_great_many_spoilt_requests_crash_hang_and_change_nothing(
    server: Server, way: str
) -> None:
    seed = int(os.environ.get("FUZZ_SEED", "0")) or secrets.randbelow(2**40)
    fuzz(server, way, seed, int(os.environ.get("FUZZ_TRIES", "0")) or LONG_TRIES)


def test_a_try_is_the_same_each_time_and_never_meets_what_is_protected() -> None:
    fuzz = TusFuzz(["a" * 32, "b" * 32], ["c" * 32])
    for seed in range(500):
        tried = fuzz.make(seed)
        assert tried == fuzz.make(seed)
        assert b"/" + b"c" * 32 + b" " not in tried.raw
    assert len({fuzz.make(seed).raw for seed in range(500)}) > 450
