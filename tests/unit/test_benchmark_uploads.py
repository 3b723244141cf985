"""The load that uploads are measured with sends what it says, and the page shows what was measured."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.uploads import client, meter, report
from benchmarks.uploads.rows import ROWS, Bench, Result, Sample, Sizes
from benchmarks.uploads.servers import NODE, OURS, SINK, STOCK, Server
from tests.fakes.served import Served, settings_for

SIZES = Sizes(rounds=2, whole=2, each_of_eight=1, each_of_four=2, small=12, slow=1, many_slow=5)
MIB = 2**20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "source"
    path.write_bytes(bytes(range(256)) * (2 * MIB // 256))
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ours")
    with Served(settings_for(folder / "data")) as served:
        yield Server(OURS, served.port, os.getpid(), folder / "data" / "uploads")


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("sink")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    script = Path(client.__file__).with_name("peers") / "sink.py"
    process = subprocess.Popen([sys.executable, script, folder, str(port)])
    try:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.05)
        yield Server(SINK, port, process.pid, folder)
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("at_once", [1, 3])
def test_large_uploads_arrive_whole_in_one_patch_and_in_several(
    ours: Server, source: Path, at_once: int
) -> None:
    for piece in (2 * MIB, 300_000):
        _, stored = client.send_large(ours, source, at_once=at_once, length=2 * MIB, piece=piece)
        assert len({each.location for each in stored}) == at_once
        for each in stored:
            assert ours.stored(each.location).read_bytes() == source.read_bytes()
            assert each.batch
            ours.forget(each.location, each.batch)
            assert not ours.stored(each.location).exists()


def test_the_sink_stores_what_it_is_sent(sink: Server, source: Path) -> None:
    _, stored = client.send_large(sink, source, at_once=2, length=MIB, piece=MIB)
    for each in stored:
        assert sink.stored(each.location).read_bytes() == source.read_bytes()[:MIB]


def test_small_and_slow_uploads_all_finish(ours: Server) -> None:
    _, small = client.send_small(ours, b"small" * 100, count=13, at_once=4)
    assert len({each.location for each in small}) == 13
    assert all(ours.stored(each.location).read_bytes() == b"small" * 100 for each in small)
    body = bytes(200_000)
    seconds, slow = client.send_slowly(ours, body, at_once=5, bytes_per_second=400_000)
    assert len({each.location for each in slow}) == 5
    assert all(ours.stored(each.location).read_bytes() == body for each in slow)
    assert seconds > 0.4  # it is the clients that are slow


def test_a_row_measures_every_server_in_each_round_and_compares_bytes_in_each(
    ours: Server, sink: Server, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    compare = Bench._compare

    def seen(bench: Bench, file: Path, length: int, server: Server) -> None:
        compared.append(server.name)
        compare(bench, file, length, server)

    monkeypatch.setattr(Bench, "_compare", seen)
    bench = Bench(SIZES, source)
    result = bench.run(ROWS[0], [ours, sink])
    # And in the round before, which is not counted.
    assert sorted(compared) == sorted([OURS, SINK] * 3)
    assert {name: len(samples) for name, samples in result.samples.items()} == {OURS: 2, SINK: 2}
    assert all(sample.rate > 0 for samples in result.samples.values() for sample in samples)
    (ours.store / "strange").write_bytes(bytes(MIB))
    with pytest.raises(SystemExit, match="other bytes"):
        bench._compare(ours.store / "strange", MIB, ours)
    (ours.store / "strange").unlink()


def test_slow_clients_are_counted_and_their_bytes_are_compared(ours: Server, source: Path) -> None:
    def measure(bench: Bench, server: Server) -> Sample:
        return bench._slowly(server, bench._head(MIB // 4), at_once=5, bytes_per_second=MIB)

    row = replace(next(row for row in ROWS if row.key == "many-slow"), measure=measure)
    result = Bench(SIZES, source).run(row, [ours])
    assert [(each.begun, each.finished) for each in result.samples[OURS]] == [(5, 5)] * 2
    assert all(0.2 < each.seconds < result.seconds for each in result.samples[OURS])
    assert "10 of 10 finished" in "\n".join(report.lines_of(result, SIZES))


def test_processor_time_and_memory_are_those_of_the_whole_tree() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**10))'])"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        until = time.monotonic() + 20
        while meter.cpu_seconds(process.pid) < 0.2:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert len(list(meter.tree(process.pid))) == 2
        assert meter.peak_mebibytes(process.pid) >= meter.resident_mebibytes(process.pid) > 5
    finally:
        for pid in reversed(list(meter.tree(process.pid))):
            subprocess.run(["kill", str(pid)], check=False)
        process.wait(20)


def measured() -> list[Result]:
    found = []
    for row in ROWS:
        samples = {
            name: [Sample(rate * n, 1.0 / rate, 7.0 * rate, 5, 5, 6.0) for n in (1, 2, 3)]
            for name, rate in ((OURS, 4.0), (NODE, 2.0), (STOCK, 1.0), (SINK, 5.0))
            if name in row.peers
        }
        found.append(Result(row, samples))
    return found


def test_ratios_are_of_the_same_round() -> None:
    result = measured()[0]
    assert report.ratio(result, NODE, report.rate) == page.Ratio(2.0, 2.0, 2.0)
    assert str(report.ratio(result, SINK, report.cpu)) == "1.25 (1.25 to 1.25)"
    assert report.ratio(measured()[2], SINK, report.rate) is None


def test_the_page_keeps_what_is_written_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, plot = tmp_path / "performance.md", tmp_path / "uploads.svg"
    monkeypatch.setattr(page, "PAGE", written)
    monkeypatch.setattr(report, "PLOT", plot)
    report.write(measured(), SIZES)
    written.write_text(written.read_text() + "\nBy hand.\n\n## Downloads\n")
    report.write(measured(), SIZES)
    text = written.read_text()
    assert text.count(report.BEGIN) == text.count("| 2 MiB in one PATCH | 8 MiB/s |") == 1
    assert text.endswith("\nBy hand.\n\n## Downloads\n")
    assert "2.00 (2.00 to 2.00)" in text
    assert "| 28 MiB | - | - | 3 | 6.0 s | 15 of 15 finished |" in text
    assert plot.read_text().startswith("<?xml")
    assert all(line for result in measured() for line in report.lines_of(result, SIZES))
