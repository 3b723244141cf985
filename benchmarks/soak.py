"""Ten minutes of mixed traffic, then a look at what it left: memory, descriptors, threads, bytes.

Four clients upload in pieces (some with checksums, some as parts that are put together), drop
connections in the middle, resume, abandon sessions, run trims and follow their events, download whole,
by ranges and not to the end, and delete what they made. The run fails when a byte differs, when an
answer is not the expected one, or when the data folder or the process does not come back to what it
was: at the end `tidemill storage` has to find no file and no row of it. Memory, descriptors and threads
are printed at the start, each minute and at the end, with how much each may grow after the warm-up.

    make soak
    .venv/bin/python benchmarks/soak.py --minutes 1
"""

import argparse
import base64
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import imageio_ffmpeg
import psutil

TUS = {"Tus-Resumable": "1.0.0"}
PATCH = TUS | {"Content-Type": "application/offset+octet-stream"}
CLIENTS = 4
PIECE = 512 * 1024
KINDS_OF_ERRANDS = 8
GROWTH_ALLOWED = {"memory": 24 * 1024 * 1024, "descriptors": 8, "threads": 8}
KINDS = ("uploads", "work", "outputs", "cache")
SAMPLE_SECONDS = 5.0
MINUTE = 60.0
MIB = 1024 * 1024
PLOT_WIDTH, PLOT_HEIGHT = 60, 8


@dataclass
class Tally:
    """What happened, and what must not."""

    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Client(threading.Thread):
    """One user: picks an errand at random until time is up."""

    def __init__(self, port: int, clip: bytes, until: float, tally: Tally, seed: int) -> None:
        super().__init__(name=f"client-{seed}")
        self._port, self._clip, self._until, self._tally = port, clip, until, tally
        self._random = random.Random(seed)  # noqa: S311
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

    def run(self) -> None:
        errands = [self.trim, self.bytes_only, self.bytes_only, self.abandon, self.in_parts]
        with self._http:
            while time.monotonic() < self._until:
                errand = self._random.choice(errands)
                try:
                    errand()
                    self._tally.done[errand.__name__] += 1
                except (httpx.HTTPError, AssertionError, KeyError, OSError) as error:
                    self._tally.faults.append(f"{errand.__name__}: {error!r}")

    def call(self, method: str, path: str, expect: int, **more: Any) -> httpx.Response:
        answer = self._http.request(method, path, **more)
        if answer.status_code != expect:
            msg = f"{method} {path}: {answer.status_code} {answer.text[:200]}"
            raise AssertionError(msg)
        return answer

    def upload(self, content: bytes, session: str) -> httpx.Response:
        """Upload in pieces, dropping the connection now and then; return the last answer."""
        name = base64.b64encode(b"soak.mp4").decode()
        secret = base64.b64encode(session.encode()).decode()
        made = self.call(
            "POST",
            "/files/",
            201,
            headers=TUS
            | {
                "Upload-Length": str(len(content)),
                "Upload-Metadata": f"filename {name},session {secret}",
            },
        )
        place, offset = made.headers["Location"], 0
        answer = made
        while offset < len(content):
            if self._random.random() < 0.2:
                self.drop(place, offset, content)
                offset = int(self.call("HEAD", place, 200, headers=TUS).headers["Upload-Offset"])
                continue
            piece = content[offset : offset + PIECE]
            headers = PATCH | {"Upload-Offset": str(offset)} | self.checksum(piece)
            answer = self._http.patch(place, content=piece, headers=headers)
            if answer.status_code in {409, 423}:
                offset = int(self.call("HEAD", place, 200, headers=TUS).headers["Upload-Offset"])
                continue
            if answer.status_code != 204:
                msg = f"PATCH: {answer.status_code} {answer.text[:200]}"
                raise AssertionError(msg)
            offset = int(answer.headers["Upload-Offset"])
        return self.call("HEAD", place, 200, headers=TUS)

    def checksum(self, piece: bytes) -> dict[str, str]:
        """Now and then a body brings the digest of its bytes."""
        if self._random.random() < 0.6:
            return {}
        digest = base64.b64encode(hashlib.sha256(piece).digest()).decode()
        self._tally.done["checksums"] += 1
        return {"Upload-Checksum": f"sha256 {digest}"}

    def drop(self, place: str, offset: int, content: bytes) -> None:
        """Begin a PATCH, send a part of it, and vanish."""
        lines = [
            f"PATCH {place} HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            f"Upload-Offset: {offset}",
            f"Content-Length: {len(content) - offset}",
            *(f"{k}: {v}" for k, v in PATCH.items()),
        ]
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as line:
            line.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            line.sendall(content[offset : offset + self._random.randrange(1, PIECE)])
        self._tally.done["dropped"] += 1

    def session(self, **wish: Any) -> str:
        answer = self.call("POST", "/api/v1/upload", 201, json=wish)
        return str(answer.json()["session_id"])

    def trim(self) -> None:
        then = {"operation": "trim", "params": {"start": 0.5, "end": 1.5}}
        finished = self.upload(self._clip, self.session(expected_files=1, then=then))
        batch, job = finished.headers["Tidemill-Batch"], finished.headers["Tidemill-Job"]
        self.follow(job)
        state: dict[str, Any] = {}
        for _ in range(1200):
            state = self.call("GET", f"/api/v1/jobs/{job}", 200).json()
            if state["status"] not in {"queued", "processing"}:
                break
            time.sleep(0.1)
        if state["status"] != "completed":
            msg = f"the job {state['status']}: {state['error']}"
            raise AssertionError(msg)
        (output,) = state["outputs"]
        half = output["size_bytes"] // 2
        content = b"".join(
            self.call("GET", output["url"], 206, headers={"Range": part}).content
            for part in (f"bytes=0-{half - 1}", f"bytes={half}-")
        )
        if hashlib.sha256(content).hexdigest() != output["sha256"]:
            raise AssertionError("the output differs")
        self.call("DELETE", f"/api/v1/batches/{batch}", 204)

    def follow(self, job: str) -> None:
        """Read the job's events to their end, or leave in the middle."""
        leaves = self._random.random() < 0.3
        with self._http.stream("GET", f"/api/v1/jobs/{job}/events") as events:
            for _ in events.iter_lines():
                if leaves:
                    break
        self._tally.done["event streams"] += 1

    def in_parts(self) -> None:
        """As clients with parallel uploads do: parts first, then the file that is made of them."""
        parts = [self._random.randbytes(self._random.randrange(1, 700_000)) for _ in range(3)]
        places = []
        for part in parts:
            told = TUS | {"Upload-Length": str(len(part)), "Upload-Concat": "partial"}
            place = self.call("POST", "/files/", 201, headers=told).headers["Location"]
            headers = PATCH | {"Upload-Offset": "0"} | self.checksum(part)
            self.call("PATCH", place, 204, headers=headers, content=part)
            places.append(place)
        headers = TUS | {"Upload-Concat": "final;" + " ".join(places)}
        made = self.call("POST", "/files/", 201, headers=headers)
        if self.call("GET", made.headers["Location"], 200).content != b"".join(parts):
            raise AssertionError("the bytes of the parts differ")
        head = self.call("HEAD", made.headers["Location"], 200, headers=TUS)
        self.call("DELETE", f"/api/v1/batches/{head.headers['Tidemill-Batch']}", 204)

    def leave_download(self, place: str) -> None:
        """Begin a download and go away after a few bytes."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as line:
            line.sendall(f"GET {place} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            line.recv(self._random.randrange(1, 100_000))
        self._tally.done["downloads left"] += 1

    def bytes_only(self) -> None:
        content = self._random.randbytes(self._random.randrange(1, 4 * 1024 * 1024))
        finished = self.upload(content, self.session(expected_files=1))
        place = f"/files/{finished.headers['Tidemill-Upload']}"
        if self.call("GET", place, 200).content != content:
            raise AssertionError("the bytes differ")
        self.leave_download(place)
        self.call("DELETE", f"/api/v1/batches/{finished.headers['Tidemill-Batch']}", 204)

    def abandon(self) -> None:
        session = self.session()
        self.upload(self._random.randbytes(100_000), session)
        self.call("DELETE", f"/api/v1/upload/{session}", 204)


class Watch(threading.Thread):
    """Looks at the memory of a process, in MiB, every few seconds, and prints all each minute."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(name="watch", daemon=True)
        self._process = process
        self._done = threading.Event()
        self.samples: list[float] = []

    def run(self) -> None:
        began = time.monotonic()
        minutes = 0
        while not self._done.wait(SAMPLE_SECONDS):
            self.samples.append(self._process.memory_info().rss / MIB)
            if time.monotonic() - began >= (minutes + 1) * MINUTE:
                minutes += 1
                print_line(f"{minutes} min", figures(self._process))

    def end(self) -> None:
        self._done.set()
        self.join()


def figures(process: psutil.Process) -> dict[str, int]:
    """Return how much memory in bytes, how many descriptors and threads a process has."""
    return {
        "memory": process.memory_info().rss,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
    }


def print_line(when: str, found: dict[str, int]) -> None:
    """Print a line of the table. Memory in MiB."""
    cells = (found[name] / (MIB if name == "memory" else 1) for name in found)
    print(f"{when:12} " + " ".join(f"{value:12.1f}" for value in cells), flush=True)


def unexplained(environment: dict[str, str]) -> list[str]:
    """Return what `tidemill storage` finds that nothing explains any more, on the disk or in rows."""
    command = [str(Path(sys.executable).with_name("tidemill")), "storage", "--json"]
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    report = json.loads(answer.stdout)
    found = [
        f"tidemill storage: {kind['kind']} has {kind['size_bytes']} bytes in {kind['count']} files"
        for kind in report["kinds"]
        if kind["kind"] in KINDS and (kind["size_bytes"] or kind["count"])
    ]
    found += [
        f"tidemill storage: {row['count']} rows of {kind['kind']} are {row['state']}"
        for kind in report["kinds"]
        for row in kind["rows"]
        if row["count"]
    ]
    for name in ("reserved_bytes", "pending_cleanups"):
        if report[name]:
            found.append(f"tidemill storage: {name} is {report[name]}")
    return found


def left_over(data: Path) -> list[str]:
    """Files in the data folder that belong to nothing any more."""
    return [
        str(p.relative_to(data)) for kind in KINDS for p in (data / kind).rglob("*") if p.is_file()
    ]


def make_clip(folder: Path) -> bytes:
    path = folder / "clip.mp4"
    subprocess.run(
        [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=320x180:rate=30:duration=2",
            "-f",
            "lavfi",
            "-i",
            "sine=duration=2",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-c:a",
            "aac",
            str(path),
        ],
        check=True,
    )
    return path.read_bytes()


def wait_until_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    process.kill()
    sys.exit("the server did not become ready")


def soak(folder: Path, minutes: float) -> int:
    """Run the traffic and print the table; return the number of things that went wrong."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    environment = os.environ | {
        "TIDEMILL_PORT": str(port),
        "TIDEMILL_DATA_DIR": str(folder / "data"),
        "TIDEMILL_LOG_LEVEL": "error",
    }
    clip, tally = make_clip(folder), Tally()
    server = subprocess.Popen(
        [Path(sys.executable).with_name("tidemill"), "serve"],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until_ready(port, server)
        process = psutil.Process(server.pid)
        # Warm first: the allocator keeps what the busiest minute needed, and gives none of it back.
        print(f"{'':12} " + " ".join(f"{name:>12}" for name in GROWTH_ALLOWED))
        print_line("started", figures(process))
        run_clients(port, clip, MINUTE, tally)
        watch = Watch(process)
        before = figures(process)
        print_line("warmed up", before)
        watch.start()
        run_clients(port, clip, minutes * MINUTE, tally)
        watch.end()
        time.sleep(5)
        after = figures(process)
        print_line("at the end", after)
        print_line("may grow", GROWTH_ALLOWED)
        left = [*left_over(folder / "data"), *unexplained(environment)]
    finally:
        server.terminate()
        server.wait(60)
    print(", ".join(f"{count} x {name}" for name, count in sorted(tally.done.items())))
    plot(watch.samples)
    wrong = ["a kind of errand was never done"] if len(tally.done) < KINDS_OF_ERRANDS else []
    wrong += [*tally.faults, *grown(before, after), *(f"left over: {each}" for each in left)]
    print("\n".join(wrong) or "0 unexplained bytes in `tidemill storage`, nothing went wrong")
    return len(wrong)


def grown(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Return what grew too much."""
    return [
        f"{name} grew by {after[name] - start}"
        for name, start in before.items()
        if after[name] - start > GROWTH_ALLOWED[name]
    ]


def plot(samples: list[float]) -> None:
    """Print memory over time as columns of stars."""
    if not samples:
        return
    step = max(1, len(samples) // PLOT_WIDTH)
    columns = [max(samples[n : n + step]) for n in range(0, len(samples), step)]
    low, high = min(columns), max(columns)
    print(f"memory, {low:.1f} to {high:.1f} MiB, a column each {step * SAMPLE_SECONDS:.0f} s")
    for line in range(PLOT_HEIGHT, 0, -1):
        floor = low + (high - low) * (line - 1) / PLOT_HEIGHT
        print("".join("*" if column >= floor else " " for column in columns))


def run_clients(port: int, clip: bytes, seconds: float, tally: Tally) -> None:
    until = time.monotonic() + seconds
    clients = [Client(port, clip, until, tally, seed) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long the traffic lasts (10)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=Path()))
    try:
        sys.exit(min(soak(folder, arguments.minutes), 1))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
