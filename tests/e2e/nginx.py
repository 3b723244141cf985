"""A real nginx in front of the service: its own folder, its own port, nothing of the machine's."""

import os
import pwd
import re
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.harness import free_port, wait_for

START_SECONDS = 10.0
STOP_SECONDS = 10.0

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "running.md"
_CONFIG = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 2048; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  upstream tidemill {{ server 127.0.0.1:{upstream_port}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://tidemill;
      proxy_http_version {http_version};
      proxy_set_header Host $http_host;
      proxy_set_header Connection {connection};
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_request_buffering {request_buffering};
{more}
    }}
  }}
}}
"""


class Nginx:
    """nginx in the foreground on a free port of 127.0.0.1, passing everything to ``upstream_port``.

    Buffering of responses is as nginx comes: on. ``request_buffering``: whether bodies are
    collected before they are passed on (as nginx comes, too). ``http_version``: what it speaks to
    the service; "1.0" is what nginx comes with, "1.1" keeps connections. ``more``: lines for the
    location.
    """

    def __init__(
        self,
        folder: Path,
        upstream_port: int,
        *,
        request_buffering: bool = True,
        http_version: str = "1.1",
        more: str = "",
    ) -> None:
        self._program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        assert self._program, "nginx is needed for the tests behind a proxy"
        self.folder = folder / "nginx"
        self.folder.mkdir()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        # Without this a master that runs as root hands its workers to a user who cannot come in.
        user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
        self._config = self.folder / "nginx.conf"
        self._config.write_text(
            _CONFIG.format(
                folder=self.folder,
                user=user,
                port=self.port,
                upstream_port=upstream_port,
                http_version=http_version,
                connection='""' if http_version == "1.1" else "close",
                request_buffering="on" if request_buffering else "off",
                more=more,
            )
        )

    @classmethod
    def of_the_page(cls, folder: Path, upstream_port: int) -> Self:
        """With the server block of docs/running.md on plain HTTP at ports of the test, all else of it as
        it is written.
        """
        nginx = cls(folder, upstream_port)
        (block,) = re.findall(r"```nginx\n(.*?)```", _PAGE.read_text(), re.DOTALL)
        lines = [line for line in block.splitlines() if "ssl_certificate" not in line]
        text = "\n".join(lines).replace("listen 443 ssl;", f"listen 127.0.0.1:{nginx.port};")
        assert text.count("http://127.0.0.1:8000;") == 2
        text = text.replace("http://127.0.0.1:8000;", f"http://127.0.0.1:{upstream_port};")
        head, _, _ = nginx._config.read_text().partition("  client_max_body_size")
        nginx._config.write_text(f"{head}{text}\n}}\n")
        return nginx

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def error_log(self) -> str:
        path = self.folder / "error.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        assert self._program is not None
        self._process = subprocess.Popen(
            [
                *(self._program, "-p", str(self.folder), "-c", str(self._config)),
                *("-e", str(self.folder / "error.log")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"]},
            cwd=self.folder,
        )
        try:
            wait_for(self._is_listening, "nginx to listen", START_SECONDS)
        except AssertionError:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _is_listening(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"nginx ended:\n{self.error_log}"
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def _stop(self) -> None:
        """Stop it at once (TERM is nginx's fast way); its workers go with their master."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
            raise
