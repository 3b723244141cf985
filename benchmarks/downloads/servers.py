"""The servers that are measured: each in processes of its own on 127.0.0.1, and all with one file."""

import http.client
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

OURS, NGINX, STARLETTE = "Tidemill", "nginx", "FileResponse"
TUS = {"Tus-Resumable": "1.0.0"}
_PEER = Path(__file__).parent / "peers" / "file_response.py"
_PROC = Path("/proc")
_START_SECONDS = 60.0
_CONFIG = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log error;
events {{ worker_connections 64; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and where it has the file."""

    name: str
    port: int
    path: str
    pid: int

    def cpu_seconds(self) -> float:
        """Return the processor seconds of its processes and their threads so far."""
        return sum(_seconds_of(pid) for pid in _tree(self.pid))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in (_PROC / str(pid) / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _tree(int(child))


def _seconds_of(pid: int) -> float:
    tasks = (_PROC / str(pid) / "task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def running(folder: Path, source: Path) -> Iterator[list[Server]]:
    """Start every server there is. All give out the very file that Tidemill stored ``source`` in."""
    with _tidemill(folder, source) as (ours, stored), _starlette(stored) as starlette:
        program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            print("nginx is not installed (Debian and Ubuntu: apt-get install nginx-light).")
            yield [ours, starlette]
            return
        with _nginx(program, folder, stored) as nginx:
            yield [ours, nginx, starlette]


@contextmanager
def _tidemill(folder: Path, source: Path) -> Iterator[tuple[Server, Path]]:
    port = _free_port()
    variables = {
        "TIDEMILL_PORT": str(port),
        "TIDEMILL_DATA_DIR": str(folder / "data"),
        "TIDEMILL_LOG_LEVEL": "warning",
    }
    command = [str(Path(sys.executable).with_name("tidemill")), "serve"]
    with _process(command, port, "/readyz", **variables) as pid:
        path = _upload(port, source)
        stored = folder / "data" / "uploads" / path.rpartition("/")[2]
        yield Server(OURS, port, path, pid), stored


def _upload(port: int, source: Path) -> str:
    """Store the file and return its address."""
    size = source.stat().st_size
    api = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    api.request("POST", "/files/", headers=TUS | {"Upload-Length": str(size)})
    created = api.getresponse()
    created.read()
    path = created.getheader("Location", "")
    headers = {
        "Content-Type": "application/offset+octet-stream",
        "Upload-Offset": "0",
        "Content-Length": str(size),
    }
    with source.open("rb") as file:
        api.request("PATCH", path, file, TUS | headers)
    if api.getresponse().status != http.HTTPStatus.NO_CONTENT:
        sys.exit("the upload was refused")
    api.close()
    return path


@contextmanager
def _starlette(stored: Path) -> Iterator[Server]:
    port = _free_port()
    with _process([sys.executable, str(_PEER), str(stored), str(port)], port, "/") as pid:
        yield Server(STARLETTE, port, "/file", pid)


@contextmanager
def _nginx(program: str, folder: Path, stored: Path) -> Iterator[Server]:
    port, config = _free_port(), folder / "nginx.conf"
    # As root it would hand its work to a user who may not read what another stored.
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    config.write_text(_CONFIG.format(folder=folder, port=port, root=stored.parent, user=user))
    with _process([program, "-p", str(folder), "-c", str(config)], port, "/") as pid:
        yield Server(NGINX, port, f"/{stored.name}", pid)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def _process(command: list[str], port: int, look_at: str, **variables: str) -> Iterator[int]:
    """Run a server for the length of the block; yields its process's number once it answers."""
    with subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_until_open(port, process, look_at)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_open(port: int, process: "subprocess.Popen[bytes]", look_at: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", look_at)
            if connection.getresponse().status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{process.args!r} did not start")
