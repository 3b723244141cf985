"""The installed command in a process of its own, on a real socket, and looks at it from outside."""

import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from tests.fakes.recorder import recording_environment

T = TypeVar("T")

COMMAND = Path(sys.prefix) / "bin" / "tidemill"
START_SECONDS = 20.0
STOP_SECONDS = 20.0
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here is TLS, and a client reads the machine's certificates for 40 ms if it is given none."""
SYSTEM_FILES = {"tidemill.db", "tidemill.db-wal", "tidemill.db-shm", "instance.json"}


def wait_for(look: Callable[[], T | None], what: str, seconds: float = 15.0) -> T:
    """Return the first true thing that ``look`` returns; fail with ``what`` when it never does."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.02)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """An environment with nothing of this machine's settings in it."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Nothing of ours is ever put there.
        "TMPDIR": "/nonexistent",
        **recording_environment(),
        **extra,
    }


class Server:
    """One ``tidemill serve`` on a data folder; stopped, killed and started again at will.

    ``settings`` are variables without prefix. ``wrapper`` goes before the command, which it must
    become by exec.
    """

    def __init__(
        self,
        data: Path,
        settings: Mapping[str, object] | None = None,
        *,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.data = data
        self.home = data.parent / f"{data.name}-home"
        self.home.mkdir(exist_ok=True)
        self.settings = dict(settings or {})
        self.wrapper = tuple(wrapper)
        self.port = free_port()
        self.log_path = data.parent / f"{data.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process that serves: wrappers become it."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(
        self, settings: Mapping[str, object] | None = None, *, ready: bool = True
    ) -> "Server":
        """Start it, with more settings if given, and wait until it answers."""
        assert not self.is_running
        self.settings |= settings or {}
        variables = {f"TIDEMILL_{name}": str(value) for name, value in self.settings.items()}
        environment = clean_environment(
            self.home,
            {
                "TIDEMILL_DATA_DIR": str(self.data),
                "TIDEMILL_PORT": str(self.port),
                "TIDEMILL_LOG_FORMAT": "json",
                # A job under way would hold up the end of a test.
                "TIDEMILL_DRAIN_SECONDS": "2",
                **variables,
            },
        )
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.wrapper, str(COMMAND), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.home,
                start_new_session=True,
            )
        if ready:
            self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        def answers(http: httpx.Client) -> bool:
            assert self.is_running, f"the server ended:\n{self.log_text()[-4000:]}"
            try:
                return http.get("/readyz", timeout=5).is_success
            except httpx.TransportError:
                return False

        try:
            with self.client() as http:
                wait_for(lambda: answers(http), "a ready server", START_SECONDS)
        except AssertionError as error:
            msg = f"{error}\n{self.log_text()[-4000:]}"
            raise AssertionError(msg) from error

    def stop(self) -> int:
        """Ask it to stop, wait, and return its exit code."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        return self._process.wait(STOP_SECONDS)

    def kill(self, tracer: "subprocess.Popen[bytes] | None" = None) -> list[psutil.Process]:
        """kill -9 of the leader alone. Returns the children it had, dead or alive.

        A tracer goes right after it: the dead are not buried before their tracer has looked.
        """
        assert self._process is not None
        children = psutil.Process(self.pid).children(recursive=True)
        os.kill(self.pid, signal.SIGKILL)
        if tracer is not None:
            tracer.kill()
        self._process.wait(STOP_SECONDS)
        return children

    def close(self) -> None:
        """End whatever is left of it, for the end of a test."""
        if self._process is None:
            return
        if self.is_running:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(STOP_SECONDS)
                raise

    def client(self, **options: Any) -> httpx.Client:
        given = {
            "base_url": self.url,
            "timeout": 60,
            "trust_env": False,
            "verify": PLAIN,
            **options,
        }
        return httpx.Client(**given)

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def events(self, name: str | None = None, **facts: object) -> list[dict[str, Any]]:
        """The log lines so far with this event name and these facts."""
        found = []
        for line in self.log_text().splitlines():
            if not line.startswith("{"):
                continue
            with suppress(ValueError):
                event = json.loads(line)
                if name in (None, event.get("event")) and facts.items() <= event.items():
                    found.append(event)
        return found

    def peak_memory_bytes(self) -> int:
        """VmHWM of the serving process since it was last reset."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")

    def reset_peak_memory(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def held(self) -> list[str]:
        """What the process has open, but the database: it opens links as it is asked more at once."""
        found = []
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found.append(str(descriptor.readlink()))
        return [link for link in found if "/tidemill.db" not in link]

    # --- looks at the folder and the database, from outside ---

    def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Read rows beside the running server."""
        uri = f"file:{self.data / 'tidemill.db'}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            return connection.execute(query, arguments).fetchall()

    def leftovers(self) -> list[str]:
        """Every file below the data folder that is not the system's own."""
        # Not by rglob, which fails when a folder goes while it looks.
        names = {
            (Path(folder) / file).relative_to(self.data).as_posix()
            for folder, _, files in os.walk(self.data)
            for file in files
        }
        return sorted(name for name in names - SYSTEM_FILES if not name.startswith("run/"))

    def database_bytes(self) -> int:
        """Size of the database after a truncating checkpoint, its WAL included."""
        path = self.data / "tidemill.db"
        with closing(sqlite3.connect(path, timeout=10)) as connection:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            assert busy == 0, "the checkpoint could not be taken"
        wal = path.with_name("tidemill.db-wal")
        return path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)

    def survivors(self) -> list[str]:
        """Processes that still work in the data folder, the server itself aside."""
        own = self._process.pid if self._process and self.is_running else None
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid in (own, os.getpid()) or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                places = [process.cwd(), *process.cmdline()]
                if any(place.startswith(f"{self.data}/") for place in places):
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
        return found


@contextmanager
def strace(pid: int, *options: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Attach strace to every thread of a process, and go on once it is attached."""
    with log.open("wb") as out:
        tracer = subprocess.Popen(
            ["strace", "-f", "-p", str(pid), "-o", "/dev/null", *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:

        def attached() -> bool:
            assert tracer.poll() is None, log.read_text()
            threads = list(Path(f"/proc/{pid}/task").iterdir())
            return all(f"TracerPid:\t{tracer.pid}\n" in _status(t) for t in threads)

        wait_for(attached, "strace to attach", 10)
        yield tracer
    finally:
        tracer.kill()
        tracer.wait(10)


def _status(thread: Path) -> str:
    try:
        return (thread / "status").read_text()
    except OSError:
        return ""


def run_command(
    *arguments: str | Path, home: Path, seconds: float = 90.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the installed command to its end, outside any terminal."""
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(home, environment),
        cwd=home,
        timeout=seconds,
    )


@contextmanager
def start_command(*arguments: str | Path, home: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run the installed command beside the block; it is ended with the block at the latest."""
    with subprocess.Popen(
        [str(COMMAND), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(home, {}),
        cwd=home,
        start_new_session=True,
    ) as command:
        try:
            yield command
        finally:
            if command.poll() is None:
                command.kill()
