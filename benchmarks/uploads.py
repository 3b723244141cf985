"""How fast a byte comes in: one large PATCH into Tidemill against a bare socket that writes a file.

Runs both in turn (A B A B ...), verifies every length, and prints the ratio pair by pair: the machine's
speed drifts, a ratio from one run does not. Fsync is off on both sides.

    make bench                        # 1 GiB, five pairs
    .venv/bin/python benchmarks/uploads.py --mebibytes 256 --pairs 3
"""

import argparse
import base64
import http.client
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PIECE = 1 << 20


def sink_round(source: Path, target: Path) -> float:
    """Send ``source`` to a socket whose other end writes it to ``target``; return seconds."""
    listener = socket.create_server(("127.0.0.1", 0))

    def receive() -> None:
        connection, _ = listener.accept()
        buffer = bytearray(PIECE)
        with connection, target.open("wb", buffering=0) as file:
            while count := connection.recv_into(buffer):
                file.write(memoryview(buffer)[:count])

    thread = threading.Thread(target=receive)
    thread.start()
    began = time.perf_counter()
    with socket.create_connection(listener.getsockname()) as out, source.open("rb") as file:
        out.sendfile(file)
    thread.join()
    seconds = time.perf_counter() - began
    listener.close()
    if target.stat().st_size != source.stat().st_size:
        sys.exit("the sink lost bytes")
    target.unlink()
    return seconds


def tidemill_round(port: int, source: Path) -> float:
    """Create an upload, send it whole in one PATCH, delete it; return the PATCH's seconds."""
    size = source.stat().st_size
    tus = {"Tus-Resumable": "1.0.0"}
    # A session of two files stays open, so that the upload can be deleted again.
    api = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    api.request(
        "POST", "/api/v1/upload", '{"expected_files": 2}', {"Content-Type": "application/json"}
    )
    session_answer = api.getresponse()
    session = session_answer.getheader("Location", "").rsplit("/", 1)[-1]
    session_answer.read()
    api.request(
        "POST",
        "/files/",
        headers=tus | {"Upload-Length": str(size), "Upload-Metadata": f"session {_b64(session)}"},
    )
    created = api.getresponse()
    created.read()
    location = created.getheader("Location", "")
    head = (
        f"PATCH {location} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nTus-Resumable: 1.0.0\r\n"
        "Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n"
        f"Content-Length: {size}\r\nConnection: close\r\n\r\n"
    )
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as out, source.open("rb") as file:
        out.sendall(head.encode())
        out.sendfile(file)
        answer = out.recv(65536).decode()
    seconds = time.perf_counter() - began
    if " 204 " not in answer.split("\r\n")[0] or f"upload-offset: {size}" not in answer.lower():
        sys.exit(f"the PATCH was refused: {answer}")
    api.request("DELETE", location, headers=tus)
    api.getresponse().read()
    api.close()
    return seconds


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def start_server(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start ``tidemill serve`` on a free port and wait until it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    environment = os.environ | {
        "TIDEMILL_PORT": str(port),
        "TIDEMILL_DATA_DIR": str(folder / "data"),
        "TIDEMILL_FSYNC": "off",
        "TIDEMILL_LOG_LEVEL": "warning",
    }
    command = Path(sys.executable).with_name("tidemill")
    process = subprocess.Popen([command, "serve"], env=environment, stdout=subprocess.DEVNULL)
    for _ in range(300):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return process, port
        except OSError:
            time.sleep(0.1)
    process.kill()
    sys.exit("the server did not become ready")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mebibytes", type=int, default=1024, help="size of the upload (1024)")
    parser.add_argument("--pairs", type=int, default=5, help="how often both run in turn (5)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write (here)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=arguments.folder))
    try:
        source = folder / "source"
        with source.open("wb") as file:
            for _ in range(arguments.mebibytes):
                file.write(os.urandom(PIECE))
        process, port = start_server(folder)
        try:
            rates: list[tuple[float, float]] = []
            tidemill_round(port, source)  # warm the page cache and both paths
            sink_round(source, folder / "sink")
            for _ in range(arguments.pairs):
                ours = arguments.mebibytes / tidemill_round(port, source)
                sink = arguments.mebibytes / sink_round(source, folder / "sink")
                rates.append((ours, sink))
                print(
                    f"tidemill {ours:7.0f} MiB/s   bare sink {sink:7.0f} MiB/s   ratio {ours / sink:.2f}"
                )
        finally:
            process.terminate()
            process.wait(30)
        ratios = [ours / sink for ours, sink in rates]
        print(
            f"median ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}), {arguments.mebibytes} MiB in one PATCH"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
