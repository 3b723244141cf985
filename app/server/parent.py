"""The parent of several processes that serve side by side: starts, replaces and stops them."""

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Self

import structlog

from app.bootstrap import Seat
from app.infrastructure.metrics_board import MetricsBoard
from app.server.accepting import Loads
from app.server.child import STOP, Post
from app.server.http_server import (
    AFTER_DRAIN_SECONDS,
    EXIT_SECONDS,
    FAILED,
    STOPPED,
    say_started,
)
from app.server.welcome import print_stopping
from app.settings import Settings

log = structlog.get_logger(__name__)

STEADY_SECONDS = 2.0
"""Whoever has served for so long did not die at once."""
DELAYS = (0.0, 0.5, 1.0, 2.0)
"""What a seat waits after its first, second... death at once in a row; one more ends the service."""
LATE_SECONDS = 2.0
"""How much later than it should have ended itself a child is killed."""
SAY_SECONDS = 0.3
"""A stop that takes longer is announced."""
_STOPS = (signal.SIGINT, signal.SIGTERM)
RunChild = Callable[[Post], int]


@dataclass(slots=True)
class Child:
    """A running process; ``channel`` is our end of what connects us."""

    pid: int
    channel: socket.socket
    ready_at: float | None = None


@dataclass(slots=True)
class Place:
    """A seat and who has it; times are of the monotonic clock."""

    seat: Seat
    child: Child | None = None
    start_at: float = 0.0
    quick_deaths: int = 0


@dataclass(slots=True)
class Stop:
    """A stop under way, and the exit code it leads to."""

    code: int
    began: float = field(default_factory=time.monotonic)
    is_said: bool = False
    is_late: bool = False


class Parent:
    """Runs ``settings.service.processes`` children on the same sockets, until a signal or a failure.

    The first one starts alone, since it may have to migrate. The service has started when all
    serve, and what keeps one of them from it ends all. From then on whoever dies is replaced.
    ``run_child`` is what a child does. To be run by a process that has one thread only.
    """

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket],
        open_files: int,
        run_child: RunChild,
    ) -> None:
        service = settings.service
        board = MetricsBoard(service.processes)
        seats = (Seat(index, service.processes, board) for index in range(service.processes))
        self._places = [Place(seat) for seat in seats]
        self._loads = Loads(service.processes)
        self._settings = settings
        self._sockets = sockets
        self._port = sockets[0].getsockname()[1]
        self._open_files = open_files
        self._run_child = run_child
        self._stop_seconds = service.drain_seconds + AFTER_DRAIN_SECONDS + EXIT_SECONDS
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._waker = socket.socketpair()
        self._has_started = False
        self._signals = 0
        self._stop: Stop | None = None

    def run(self) -> int:
        """Serve until told to stop; return the exit code of the service."""
        gc.freeze()  # what is there now stays untouched: memory that the children share with us
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        with self._signals_handled():
            while self._stop is None or self._children:
                self._take_turn()
        stopped = self._stop
        seconds = round(time.monotonic() - stopped.began, 3)
        log.info("service.ended", seconds=seconds, exit_code=stopped.code)
        return stopped.code

    def _take_turn(self) -> None:
        if self._stop is None:
            self._start_due()
        for key, _ in self._selector.select(self._idle_seconds()):
            if key.fileobj is self._wakeup:
                self._wakeup.recv(4096)
            else:
                self._hear(key.data)
        self._bury_dead()
        if self._signals and self._stop is None:
            self._begin_stop(STOPPED)
        if self._stop is not None:
            self._see_to_stop(self._stop)

    @property
    def _children(self) -> list[Child]:
        return [place.child for place in self._places if place.child is not None]

    def _idle_seconds(self) -> float | None:
        """How long nothing is to be done unless somebody says something; None is for ever."""
        now = time.monotonic()
        if self._stop is not None:
            return SAY_SECONDS
        empty = [place.start_at for place in self._places if place.child is None]
        return max(0.0, min(empty) - now) if empty and self._may_start_all else None

    # --- starting --------------------------------------------------------------------------------

    @property
    def _may_start_all(self) -> bool:
        """Whether one has come to serve: it has migrated, and the others find it done."""
        first = self._places[0].child
        return self._has_started or (first is not None and first.ready_at is not None)

    def _start_due(self) -> None:
        for place in self._places if self._may_start_all else self._places[:1]:
            if place.child is None and time.monotonic() >= place.start_at:
                self._start(place)

    def _start(self, place: Place) -> None:
        ours, theirs = socket.socketpair()
        # Kept waiting until either of the two can take them as it should.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        pid = os.fork()
        if pid == 0:
            with _Ending() as ending:
                self._forget_children(ours)
                ending.code = self._run_child(Post(place.seat, theirs, self._loads))
        theirs.close()
        ours.settimeout(0)
        place.child = Child(pid, ours)
        self._selector.register(ours, selectors.EVENT_READ, place)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    def _forget_children(self, ours: socket.socket) -> None:
        """In the new child: its brothers must not keep each other's lines to the parent open."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for each in (ours, self._wakeup, self._waker, *(c.channel for c in self._children)):
            each.close()

    def _hear(self, place: Place) -> None:
        child = place.child
        if child is None:
            return
        try:
            word = child.channel.recv(16)
        except OSError:
            word = b""
        if not word:
            self._selector.unregister(child.channel)  # it is about to die, which we shall be told
            return
        child.ready_at = time.monotonic()
        is_whole = all(each.child and each.child.ready_at for each in self._places)
        if is_whole and not self._has_started and self._stop is None:
            self._has_started = True
            say_started(self._settings, self._port, self._open_files, processes=len(self._places))

    # --- replacing -------------------------------------------------------------------------------

    def _bury_dead(self) -> None:
        """Take note of every child that has ended, also of those that init would bury."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for place in self._places:
                if place.child is not None and place.child.pid == pid:
                    self._bury(place, place.child, os.waitstatus_to_exitcode(status))

    def _bury(self, place: Place, child: Child, code: int) -> None:
        place.child = None
        with contextlib.suppress(KeyError):
            self._selector.unregister(child.channel)
        child.channel.close()
        if self._stop is not None:
            self._stop.code = self._stop.code or _as_exit_code(code)
            return
        facts = {"seat": place.seat.index, "child": child.pid, "exit_code": code}
        if not self._has_started:
            if code < 0:  # else it has said itself what kept it from starting
                log.error("process.start_failed", **facts)
            self._begin_stop(FAILED)
            return
        delay = self._delay(place, child)
        if delay is None:
            log.critical(
                "service.failed", part="processes", reason="one dies again and again", **facts
            )
            self._begin_stop(FAILED)
            return
        log.warning("process.died", **facts, replaced_in_seconds=delay)
        place.start_at = time.monotonic() + delay

    def _delay(self, place: Place, child: Child) -> float | None:
        """Return after how many seconds a seat is taken again, None to give up."""
        lived = time.monotonic() - child.ready_at if child.ready_at is not None else 0.0
        if lived >= STEADY_SECONDS:
            place.quick_deaths = 0
            return 0.0
        place.quick_deaths += 1
        return DELAYS[place.quick_deaths - 1] if place.quick_deaths <= len(DELAYS) else None

    # --- stopping --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals_handled(self) -> Iterator[None]:
        self._wakeup.settimeout(0)
        self._waker.settimeout(0)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _look_up)
        for each in _STOPS:
            signal.signal(each, self._on_signal)
        yield  # to the end of the process: a late signal must not change its exit code

    def _on_signal(self, sig: int, frame: FrameType | None) -> None:
        """Stop at the first signal; at the second end at once, and everybody with us."""
        del frame
        self._signals += 1
        if self._signals > 1:
            self._kill_all()
            os._exit(128 + sig)

    def _begin_stop(self, code: int) -> None:
        self._stop = Stop(code)
        # Theirs are open until they have drained; who connects after that shall be refused.
        for each in self._sockets:
            each.close()
        for child in self._children:
            with contextlib.suppress(OSError):
                child.channel.send(STOP)

    def _see_to_stop(self, stop: Stop) -> None:
        elapsed = time.monotonic() - stop.began
        if not self._children or elapsed < SAY_SECONDS:
            return
        if not stop.is_said:
            stop.is_said = True
            if self._settings.service.log_format == "console":
                print_stopping(self._settings.service.drain_seconds)
        if elapsed > self._stop_seconds + LATE_SECONDS and not stop.is_late:
            stop.is_late = True
            log.error("process.stop_late", processes=len(self._children))
            self._kill_all()

    def _kill_all(self) -> None:
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)


class _Ending:
    """Ends a forked child with its ``code``, whatever happens: nothing of the parent's goes on."""

    def __init__(self) -> None:
        self.code = FAILED

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            traceback.print_exception(kind, error, trace)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.code)


def _look_up(sig: int, frame: FrameType | None) -> None:
    """Of a child's end: the wakeup descriptor has ended the wait, and the turn looks after it."""


def _as_exit_code(code: int) -> int:
    return FAILED if code < 0 else code
