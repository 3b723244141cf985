"""How fast a stored file goes out: Tidemill against nginx with sendfile, whole and by ranges.

Both serve the same bytes on loopback to the same client, in turn (A B A B ...), and every byte that
comes is compared with the source, outside the measured time. The machine's speed drifts, a ratio from
one pair does not: so ratios are what is printed at the end. Without nginx only our own speed is shown.

    make bench-downloads                        # 256 MiB, three pairs
    .venv/bin/python benchmarks/downloads.py --mebibytes 1024 --pairs 5 --ranges 64
"""

import argparse
import http.client
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PIECE = 1 << 20
TUS = {"Tus-Resumable": "1.0.0"}
NGINX = """daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log error;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@dataclass(frozen=True)
class Place:
    """Where one server has the file."""

    port: int
    path: str


def download(place: Place, buffer: memoryview, ranges: int) -> float:
    """Fetch the file into ``buffer``, over one connection, in so many parts; return seconds."""
    size, part = len(buffer), -(-len(buffer) // ranges)
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", place.port), timeout=60) as connection:
        for start in range(0, size, part):
            end = min(start + part, size)
            asked = f"Range: bytes={start}-{end - 1}\r\n" if ranges > 1 else ""
            head = f"GET {place.path} HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\n{asked}\r\n"
            connection.sendall(head.encode())
            receive(connection, buffer[start:end], b" 206 " if ranges > 1 else b" 200 ")
    return time.perf_counter() - began


def receive(connection: socket.socket, target: memoryview, status: bytes) -> None:
    """Read one answer whose body fills ``target`` exactly."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(65536)
        if not piece:
            sys.exit("the server hung up")
        head += piece
    head, _, first = head.partition(b"\r\n\r\n")
    if status not in head.split(b"\r\n")[0] or len(first) > len(target):
        sys.exit(f"an answer that was not asked for: {head.decode()}")
    target[: len(first)] = first
    filled = len(first)
    while filled < len(target):
        count = connection.recv_into(target[filled:])
        if not count:
            sys.exit(f"the server hung up {len(target) - filled} bytes early")
        filled += count


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until_open(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(400):
        if process.poll() is not None:
            break
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/readyz")
            if connection.getresponse().status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                return
        except OSError:
            time.sleep(0.1)
    process.kill()
    sys.exit(f"{process.args!r} did not start")


@contextmanager
def running(*command: str, port: int, **variables: str) -> Iterator[None]:
    """Run a server for the length of the block."""
    process = subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_open(port, process)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def tidemill(folder: Path, source: Path) -> Iterator[Place]:
    """Serve the file as an upload."""
    port = free_port()
    variables = {
        "TIDEMILL_PORT": str(port),
        "TIDEMILL_DATA_DIR": str(folder / "data"),
        "TIDEMILL_WORKERS": "0",
        "TIDEMILL_LOG_LEVEL": "warning",
    }
    command = str(Path(sys.executable).with_name("tidemill"))
    with running(command, "serve", port=port, **variables):
        api = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        api.request("POST", "/files/", headers=TUS | {"Upload-Length": str(source.stat().st_size)})
        created = api.getresponse()
        created.read()
        path = created.getheader("Location", "")
        headers = TUS | {
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": "0",
            "Content-Length": str(source.stat().st_size),
        }
        with source.open("rb") as file:
            api.request("PATCH", path, file, headers)
        if api.getresponse().status != http.HTTPStatus.NO_CONTENT:
            sys.exit("the upload was refused")
        api.close()
        yield Place(port, path)


@contextmanager
def nginx(folder: Path, source: Path) -> Iterator[Place | None]:
    """Serve the file by nginx, if this machine has it."""
    command = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if command is None:
        print("nginx is not installed (Debian and Ubuntu: apt-get install nginx-light):")
        print("showing our own speed, with nothing to hold it against.")
        yield None
        return
    port, config = free_port(), folder / "nginx.conf"
    # Its workers may be another user's.
    folder.chmod(0o755)
    config.write_text(NGINX.format(folder=folder, port=port, root=source.parent))
    with running(command, "-p", str(folder), "-c", str(config), port=port):
        yield Place(port, f"/{source.name}")


def measure(ours: Place, theirs: Place | None, source: Path, arguments: argparse.Namespace) -> None:
    """Print what each way gives, pair by pair, and its median ratio."""
    data = source.read_bytes()
    buffer = bytearray(len(data))
    for name, ranges in (("whole", 1), (f"{arguments.ranges} ranges", arguments.ranges)):
        ratios: list[float] = []
        for number in range(arguments.pairs + 1):
            speeds: list[float] = []
            for place in (ours, theirs):
                if place is None:
                    continue
                buffer[:] = bytes(len(buffer))
                seconds = download(place, memoryview(buffer), ranges)
                if buffer != data:
                    sys.exit(f"port {place.port} sent other bytes than the source has")
                speeds.append(arguments.mebibytes / seconds)
            if number == 0:
                continue  # warms the page cache and both paths
            shown = f"{name:>10}   tidemill {speeds[0]:6.0f} MiB/s"
            if theirs is not None:
                ratios.append(speeds[0] / speeds[1])
                shown += f"   nginx {speeds[1]:6.0f} MiB/s   ratio {ratios[-1]:.2f}"
            print(shown)
        if ratios:
            low, high = min(ratios), max(ratios)
            print(
                f"{name:>10}   median ratio {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mebibytes", type=int, default=256, help="size of the file (256)")
    parser.add_argument("--pairs", type=int, default=3, help="how often both run in turn (3)")
    parser.add_argument("--ranges", type=int, default=32, help="parts of a download by ranges (32)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write (here)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=arguments.folder)).resolve()
    try:
        source = folder / "served" / "source"
        source.parent.mkdir()
        with source.open("wb") as file:
            for _ in range(arguments.mebibytes):
                file.write(os.urandom(PIECE))
        with tidemill(folder, source) as ours, nginx(folder, source) as theirs:
            measure(ours, theirs, source, arguments)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
