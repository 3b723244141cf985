"""What is measured, row by row: every server in turn, round by round, and ratios within a round."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.uploads import client, meter
from benchmarks.uploads.client import Stored
from benchmarks.uploads.servers import NODE, OURS, SINK, STOCK, Server

MIB = 2**20
SMALL_BYTES = 10_000
SLOW_BYTES = 300 * 1024


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is sent and how often; all but ``rounds`` in MiB or uploads of one round."""

    rounds: int
    whole: int
    each_of_eight: int
    each_of_four: int
    small: int
    slow: int
    many_slow: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One server in one round. ``rate``: MiB/s or uploads/s; ``cpu``: seconds per GiB or
    milliseconds per upload. Of slow clients: ``memory``: MiB of peak over idle; ``begun`` and
    ``finished``: how many there were, and how many came to their end within ``seconds``.
    """

    rate: float
    cpu: float
    memory: float = 0.0
    begun: int = 0
    finished: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """``key`` names it. ``place``: disk or memory; ``fsync``: whether servers sync. ``rounds``: at most
    so many.
    """

    key: str
    unit: str
    measure: Callable[["Bench", Server], Sample]
    peers: Sequence[str] = (OURS, NODE, STOCK)
    place: str = "disk"
    fsync: bool = False
    rounds: int | None = None

    @property
    def is_small(self) -> bool:
        return self.key.startswith("small")

    @property
    def tells_memory(self) -> bool:
        """Whether how much is held is what counts: the rate is the clients' own."""
        return self.key in {"slow", "many-slow"}


@dataclass(slots=True)
class Result:
    """The samples of a row, by server; the n-th of each server are of the same round."""

    row: Row
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    seconds: float = 0.0


class Bench:
    """The source of all bytes, and what is done with each server."""

    def __init__(self, sizes: Sizes, source: Path) -> None:
        self.sizes = sizes
        self.source = source
        self._idle: dict[int, float] = {}

    def run(self, row: Row, servers: Sequence[Server]) -> Result:
        """Measure ``row``: a round that warms everything up, which is not counted, then the others.

        Where memory is what counts there is none: who was warm would hold it already.
        """
        result, began = Result(row), time.monotonic()
        rounds = min(self.sizes.rounds, row.rounds or self.sizes.rounds)
        chosen = [server for server in servers if server.name in row.peers]
        self._idle = {server.pid: meter.resident_mebibytes(server.pid) for server in chosen}
        is_warmed = rounds > 1 and not row.tells_memory
        for number in range(-1 if is_warmed else 0, rounds):
            # Every other round backwards: nobody always comes after the same neighbour.
            for server in chosen if number % 2 else reversed(chosen):
                sample = row.measure(self, server)
                if number >= 0:
                    result.samples.setdefault(server.name, []).append(sample)
        result.seconds = time.monotonic() - began
        return result

    def large(self, server: Server, at_once: int, mebibytes: int, piece: int) -> Sample:
        length, before = mebibytes * MIB, meter.cpu_seconds(server.pid)
        seconds, stored = client.send_large(
            server, self.source, at_once=at_once, length=length, piece=piece * MIB
        )
        cpu = meter.cpu_seconds(server.pid) - before
        self._settle(server, stored, length)
        sent = at_once * mebibytes
        return Sample(sent / seconds, cpu / (sent / 1024))

    def small(self, server: Server) -> Sample:
        count, body = self.sizes.small, self._head(SMALL_BYTES)
        before = meter.cpu_seconds(server.pid)
        seconds, stored = client.send_small(server, body, count=count, at_once=8)
        cpu = meter.cpu_seconds(server.pid) - before
        if len(stored) != count:
            sys.exit(f"{server.name} took {len(stored)} of {count} small uploads")
        self._settle(server, stored, SMALL_BYTES)
        return Sample(count / seconds, cpu * 1000 / count)

    def slow(self, server: Server) -> Sample:
        """64 clients of 4 MiB/s each."""
        body = self._head(self.sizes.slow * MIB)
        return self._slowly(server, body, at_once=64, bytes_per_second=4 * MIB)

    def many_slow(self, server: Server) -> Sample:
        """As many clients as wanted, which take 6 seconds for 300 KiB."""
        body = self._head(SLOW_BYTES)
        at_once = self.sizes.many_slow
        return self._slowly(server, body, at_once=at_once, bytes_per_second=SLOW_BYTES / 6)

    def _slowly(
        self, server: Server, body: bytes, *, at_once: int, bytes_per_second: float
    ) -> Sample:
        # Before the first round: what a server keeps of one round is not idle in the next.
        idle, before = self._idle[server.pid], meter.cpu_seconds(server.pid)
        meter.forget_peak(server.pid)
        seconds, stored = client.send_slowly(
            server, body, at_once=at_once, bytes_per_second=bytes_per_second
        )
        peak, cpu = meter.peak_mebibytes(server.pid), meter.cpu_seconds(server.pid) - before
        if len({each.location for each in stored}) != at_once:
            sys.exit(f"{server.name} took {len(stored)} of {at_once} slow uploads")
        self._settle(server, stored, len(body))
        gibibytes = at_once * len(body) / 2**30
        memory = max(0.0, peak - idle)
        return Sample(at_once / seconds, cpu / gibibytes, memory, at_once, len(stored), seconds)

    def _head(self, count: int) -> bytes:
        with self.source.open("rb") as file:
            return file.read(count)

    def _settle(self, server: Server, stored: Sequence[Stored], length: int) -> None:
        """Compare what was stored with what was sent, in each round after it was measured, and remove
        it.
        """
        for each in stored:
            self._compare(server.stored(each.location), length, server)
        if length <= SLOW_BYTES:
            return  # thousands: they go with their server
        for each in stored:
            server.forget(each.location, each.batch)

    def _compare(self, file: Path, length: int, server: Server) -> None:
        if file.stat().st_size != length:
            sys.exit(f"{server.name} stored {file.stat().st_size} of {length} bytes")
        if not _begins_with(self.source, file):
            sys.exit(f"{server.name} stored other bytes than were sent")


def _begins_with(source: Path, file: Path) -> bool:
    with source.open("rb") as wanted, file.open("rb") as found:
        while piece := found.read(MIB):
            if piece != wanted.read(len(piece)):
                return False
    return True


def _whole(bench: Bench, server: Server) -> Sample:
    return bench.large(server, 1, bench.sizes.whole, bench.sizes.whole)


def _eight(bench: Bench, server: Server) -> Sample:
    return bench.large(server, 8, bench.sizes.each_of_eight, bench.sizes.each_of_eight)


def _four(bench: Bench, server: Server) -> Sample:
    return bench.large(server, 4, bench.sizes.each_of_four, 8)


ROWS = (
    Row("whole", "MiB/s", _whole, (OURS, NODE, STOCK, SINK)),
    Row("eight", "MiB/s", _eight, (OURS, NODE, STOCK, SINK)),
    Row("four", "MiB/s", _four),
    Row("small-memory", "uploads/s", Bench.small, place="memory"),
    Row("small-disk", "uploads/s", Bench.small),
    Row("fsync", "MiB/s", _whole, (OURS, NODE, SINK), fsync=True),
    Row("slow", "uploads/s", Bench.slow, rounds=3),
    Row("many-slow", "uploads/s", Bench.many_slow, (OURS,), rounds=3),
)
