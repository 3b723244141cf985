"""How several processes share the connections of one listening socket evenly."""

import asyncio
import mmap
import socket
import struct
import time
from collections.abc import Callable, Sequence

import structlog

log = structlog.get_logger(__name__)

BACKLOG = 2048
GIVE_WAY_SECONDS = 0.005
"""How long a process that is busier than another leaves a newcomer to it."""
FRESH_SECONDS = 0.1
"""How long a new connection counts as busy, whose request is still to come."""
SILENT_SECONDS = 1.0
"""Who has not said its load for so long is dead or hangs, and nobody gives way to it."""
RETRY_SECONDS = 0.5
"""How long none is accepted after that has failed: there are no descriptors left, most likely."""
_LOAD = struct.Struct("<dI")


class Loads:
    """How busy each process is, in memory that they share; made by their parent."""

    def __init__(self, seats: int) -> None:
        self._seats = seats
        self._memory = mmap.mmap(-1, seats * _LOAD.size)

    def say(self, seat: int, load: int) -> None:
        _LOAD.pack_into(self._memory, seat * _LOAD.size, time.monotonic(), load)

    def withdraw(self, seat: int) -> None:
        """Say that nobody has to give way to ``seat`` any more."""
        _LOAD.pack_into(self._memory, seat * _LOAD.size, 0.0, 0)

    def is_busiest_by(self, seat: int, load: int) -> bool:
        """Whether another process that is alive has less to do than ``load``."""
        since = time.monotonic() - SILENT_SECONDS
        others = (
            _LOAD.unpack_from(self._memory, each * _LOAD.size)
            for each in range(self._seats)
            if each != seat
        )
        return any(said_at > since and other < load for said_at, other in others)


class Acceptor:
    """Takes connections one by one, and leaves them to a process that has less to do.

    The loop's own server takes all that are there when it wakes up: of eight uploads that begin at
    once one process would get all eight.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.Protocol],
        loads: Loads,
        seat: int,
        busy: Callable[[], int],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = list(sockets)
        self._make_protocol = make_protocol
        self._loads = loads
        self._seat = seat
        self._busy = busy
        self._fresh = 0
        self._tasks: set[asyncio.Task[object]] = set()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Listen, and begin to take connections."""
        self.say_load()
        for each in self._sockets:
            each.settimeout(0)
            each.listen(BACKLOG)
            self._loop.add_reader(each, self._on_readable, each)

    def close(self) -> None:
        """Take no more; what has been taken goes on. A repeat is harmless."""
        for each in self._sockets:
            self._stop_reading(each)
            each.close()
        self._sockets.clear()
        self._loads.withdraw(self._seat)

    def say_load(self) -> int:
        """Tell the others how busy this process is; to be called now and then. Returns it."""
        load = self._busy() + self._fresh
        if self._sockets:
            self._loads.say(self._seat, load)
        return load

    def _on_readable(self, listener: socket.socket) -> None:
        if listener not in self._sockets:
            return  # closed since the loop saw it
        if self._loads.is_busiest_by(self._seat, self.say_load()):
            self._pause(listener, GIVE_WAY_SECONDS)
        else:
            self._accept(listener)

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listener)
        self._pauses[listener] = self._loop.call_later(seconds, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        """Take what nobody else has taken meanwhile: whoever has less to do may be hanging."""
        del self._pauses[listener]
        self._loop.add_reader(listener, self._on_readable, listener)
        self._accept(listener)

    def _stop_reading(self, listener: socket.socket) -> None:
        if (pause := self._pauses.pop(listener, None)) is not None:
            pause.cancel()
        else:
            self._loop.remove_reader(listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was quicker, or the client has left again
        except OSError as error:
            log.warning("connection.not_accepted", error=str(error))
            self._pause(listener, RETRY_SECONDS)
            return
        connection.settimeout(0)
        self._fresh += 1
        self._loop.call_later(FRESH_SECONDS, self._age)
        self.say_load()
        task = self._loop.create_task(self._serve(connection), name="accepted")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError as error:
            log.debug("connection.lost_at_once", error=str(error))
            connection.close()

    def _age(self) -> None:
        self._fresh -= 1
