"""The only place that starts processes: limited, in a group of their own, always reaped.

Each command runs under ``guard.py``, which sets its limits and outlives it by nothing. Children are
forked from one thread that lives as long as the runner, because the kernel's death signal fires when
the forking *thread* ends.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from app.domain.errors import NotReady
from app.infrastructure.media.process_output import BoundedTail, hide_paths

T = TypeVar("T")

GUARD = Path(__file__).with_name("guard.py")
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
"""All that a child gets to see of our environment."""

GIB = 1024**3
PIPE_BYTES = 64 * 1024
PIPE_DRAIN_SECONDS = 2.0
REAP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """rlimits of one command; 0 leaves a limit as it is."""

    address_space_bytes: int = 4 * GIB
    file_size_bytes: int = 0
    cpu_seconds: int = 0
    open_files: int = 256


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. ``folder`` is the working directory and all it may write; ``readable`` is what it
    must see beyond the system's own libraries (the binary, an interpreter), and what of its folder
    it must not change (the inputs).
    """

    arguments: tuple[str, ...]
    folder: Path
    readable: tuple[Path, ...] = ()
    writable: bool = True
    limits: ProcessLimits = ProcessLimits()


class Isolation(Protocol):
    """How a command is shut in; ``app.infrastructure.media.sandbox`` has the levels."""

    @property
    def guard_mode(self) -> str:
        """What ``guard.py`` is told: bubblewrap, no-network or limits."""
        ...

    def wrap(self, command: Command) -> tuple[str, ...]:
        """Return the argument list that runs the command inside."""
        ...


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended. Exit codes differ between versions of FFmpeg, so there is none here."""

    succeeded: bool
    stderr: str


@dataclass(frozen=True, slots=True)
class BriefResult:
    succeeded: bool
    stdout: str
    stderr: str


def run_briefly(arguments: Sequence[str], *, timeout_seconds: float = 10.0) -> BriefResult:
    """Run a trusted command at start-up, before there is a loop; a timeout is a failure."""
    try:
        process = subprocess.Popen(  # noqa: S603  (arguments are ours)
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        return BriefResult(succeeded=False, stdout="", stderr=error.strerror or str(error))
    with process:
        try:
            out, err = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            # The whole group: a script's own child would keep the pipes open.
            os.killpg(process.pid, signal.SIGKILL)
            return BriefResult(succeeded=False, stdout="", stderr="it did not answer in time")
    return BriefResult(
        succeeded=process.returncode == 0,
        stdout=out.decode(errors="replace"),
        stderr=err.decode(errors="replace"),
    )


def guarded(command: Command, isolation: Isolation) -> list[str]:
    """Return the whole argument list: guard, limits, sandbox, command."""
    limits = command.limits
    return [
        sys.executable,
        "-I",
        "-S",
        str(GUARD),
        str(os.getpid()),
        isolation.guard_mode,
        str(limits.address_space_bytes),
        str(limits.file_size_bytes),
        str(limits.cpu_seconds),
        str(limits.open_files),
        "--",
        *isolation.wrap(command),
    ]


class _PipeReader:
    """Hands what a pipe brings to a function; ``closed`` is set at its end.

    Not by ``connect_read_pipe``: uvloop closes the number and then the pipe object, which closes the
    number again; by then it may be a file that another thread has opened meanwhile.
    """

    def __init__(self, pipe: IO[bytes], on_data: Callable[[bytes], None]) -> None:
        self._pipe = pipe
        self._on_data = on_data
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(pipe.fileno(), self._on_readable)

    def close(self) -> None:
        """Read no more; a repeat is harmless."""
        if not self.closed.done():
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()
            self.closed.set_result(None)

    def _on_readable(self) -> None:
        try:
            data = os.read(self._pipe.fileno(), PIPE_BYTES)
        except BlockingIOError:
            return
        if data:
            self._on_data(data)
        else:
            self.close()


class Child:
    """One running command. ``pid`` is its guard's, which is also its session's id."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", pidfd: int, *, grace_seconds: float
    ) -> None:
        self._process = process
        self._pidfd = pidfd
        self._grace_seconds = grace_seconds
        self._stderr = BoundedTail()
        self._pipes: list[_PipeReader] = []
        self._exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(pidfd, self._on_exit)

    @property
    def pid(self) -> int:
        return self._process.pid

    def attach(self, on_stdout: Callable[[bytes], None]) -> None:
        """Begin to read both pipes, so that the command never blocks on a full one."""
        for pipe, sink in (
            (self._process.stdout, on_stdout),
            (self._process.stderr, self._stderr.feed),
        ):
            if pipe is not None:
                self._pipes.append(_PipeReader(pipe, sink))

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        if not self._exited.done():
            self._exited.set_result(None)

    async def wait(self) -> Finished:
        """Wait for the end and for all of its output. May be cancelled and called again."""
        await asyncio.shield(self._exited)
        if self._pipes:
            await asyncio.wait([pipe.closed for pipe in self._pipes], timeout=PIPE_DRAIN_SECONDS)
        return Finished(self._process.returncode == 0, hide_paths(self._stderr.text()))

    async def stop(self) -> None:
        """TERM to the group, a grace, KILL; return when everything is dead and reaped."""
        for number, seconds in (
            (signal.SIGTERM, self._grace_seconds),
            (signal.SIGUSR1, REAP_SECONDS),
            (signal.SIGKILL, REAP_SECONDS),
        ):
            if self._exited.done():
                break
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            await asyncio.wait([self._exited], timeout=seconds)
        for pipe in self._pipes:
            pipe.close()


class ProcessRunner:
    """Starts commands under a guard. ``close`` kills and reaps whatever still runs."""

    def __init__(self, isolation: Isolation, *, grace_seconds: float = 1.0) -> None:
        self.isolation = isolation
        self._grace_seconds = grace_seconds
        self._forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tidemill-forker")
        self._children: set[Child] = set()
        self._spawning: set[asyncio.Future[Child]] = set()
        self._closed = False

    @asynccontextmanager
    async def start(
        self, command: Command, *, on_stdout: Callable[[bytes], None]
    ) -> AsyncIterator[Child]:
        """Run a command for the length of the block; leaving it in any way stops and reaps it.

        ``on_stdout`` is called from the event loop's thread. Raises ``NotReady`` after ``close``.
        """
        if self._closed:
            raise NotReady("The service is stopping and starts no more work.")
        spawned: list[Child] = []
        try:
            # Even when the caller is cancelled in here, the child is known and settled below.
            spawning = asyncio.ensure_future(self._spawn(command, on_stdout, spawned))
            self._spawning.add(spawning)
            spawning.add_done_callback(self._spawning.discard)
            yield await _finish(spawning)
        finally:
            for child in spawned:
                await _finish(self._settle(child))

    async def close(self) -> None:
        """Stop and reap every child, then end the thread that forked them."""
        self._closed = True
        await _finish(self._settle_all())
        self._forker.shutdown(wait=True)

    async def _spawn(
        self, command: Command, on_stdout: Callable[[bytes], None], spawned: list[Child]
    ) -> Child:
        arguments = guarded(command, self.isolation)
        process, pidfd = await asyncio.get_running_loop().run_in_executor(
            self._forker, _fork, arguments, str(command.folder)
        )
        child = Child(process, pidfd, grace_seconds=self._grace_seconds)
        spawned.append(child)
        self._children.add(child)
        child.attach(on_stdout)
        return child

    async def _settle(self, child: Child) -> None:
        await child.stop()
        self._children.discard(child)

    async def _settle_all(self) -> None:
        if self._spawning:
            # Forked, perhaps, but not known yet: who starts one gets it, and then it is stopped.
            await asyncio.wait(self._spawning)
        async with asyncio.TaskGroup() as group:
            for child in list(self._children):
                group.create_task(self._settle(child))


def _fork(arguments: list[str], folder: str) -> "tuple[subprocess.Popen[bytes], int]":
    process = subprocess.Popen(  # noqa: S603  (arguments are ours, there is no shell)
        arguments,
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        bufsize=0,
    )
    try:
        return process, os.pidfd_open(process.pid)
    except OSError:
        with process:  # nobody would know of it, and so nobody would stop it
            process.kill()
        raise


async def _finish(work: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:
    """Await ``work`` to its end even if the caller is cancelled meanwhile, then pass that on."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()
