"""uvicorn's server with our stop: it drains, cuts what is left, and ends within a known time."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Generator
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from app.server.protocol import DrainingState, LimitedProtocol
from app.server.watchdog import Watchdog
from app.server.welcome import print_stopping, print_welcome
from app.services.container import Container
from app.settings import Settings

log = structlog.get_logger(__name__)

STOPPED = 0
FAILED = 1
AFTER_DRAIN_SECONDS = 25.0
"""How long everything after the drain may take, before the process ends with what it has not done."""
START_SECONDS = 5.0
"""How long a start that is told to stop may take to come to an end of its own."""
EXIT_SECONDS = 2.0
"""How long threads may keep a process that has stopped: one that hangs in a disk call never ends."""
SETTLE_SECONDS = 0.1
"""How long a drain lasts at least: a request may be on its way through the socket."""
_CUT_SECONDS = 3.0
"""How long requests that were cut off may take to put away what they hold."""
_LOOK_SECONDS = 0.02
_DATE_SECONDS = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def say_started(settings: Settings, port: int, open_files: int, **facts: int) -> None:
    """Say where the service answers; ``open_files`` is how many a process may have."""
    host = settings.service.host
    log.info("service.started", host=host, port=port, open_files=open_files, **facts)
    if settings.service.log_format == "console":
        print_welcome(settings, port)


class Server(uvicorn.Server):
    """Serves until the first signal, then stops in order; a second signal exits at once.

    The stop: bodies under way are parked and nothing new begins, while reads, answers and running
    jobs go on for at most ``DRAIN_SECONDS``. It ends as soon as nothing is under way, but behind a
    proxy, which has to see for all of that time that ``/readyz`` says no. Then what is left is cut.
    ``open_files`` is how many there may be at once, for the log.
    """

    def __init__(
        self, config: uvicorn.Config, app: FastAPI, settings: Settings, open_files: int
    ) -> None:
        super().__init__(config)
        service = settings.service
        self._app = app
        self._settings = settings
        self._open_files = open_files
        self._drain_seconds = service.drain_seconds
        self._state = DrainingState()
        self.server_state = self._state
        self._watchdog = Watchdog()
        self._signals = 0
        self._is_noticed = bool(service.public_url or service.trusted_proxies)
        app.state.stop = self.stop

    @property
    def exit_code(self) -> int:
        """What the process should end with: 0 for a stop that was asked for."""
        failed = getattr(self._app.state, "failure", None) or self.lifespan.should_exit
        return FAILED if failed else STOPPED

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and sockets and not self.should_exit:
            self.say_started(sockets[0].getsockname()[1])

    def say_started(self, port: int) -> None:
        """Say that the service answers, to the log and to whoever sits before it."""
        say_started(self._settings, port, self._open_files)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take the signals from here to the end of the process, which a second one must not kill
        with another exit code. uvicorn would raise the first one again: we exit 0.
        """
        for each in _SIGNALS:
            signal.signal(each, self.handle_exit)
        yield

    def close_listeners(self) -> None:
        """Take no more connections. A repeat is harmless."""
        for server in self.servers:
            server.close()

    def stop(self) -> None:
        """Stop in order, as the first signal does."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at the first signal, exit at the second: what is left is the next start's work."""
        del frame
        self._signals += 1
        if self._signals > 1:
            os._exit(128 + sig)
        self.begin_stop(sig)

    def begin_stop(self, sig: int, *, is_noticed: bool = True) -> None:
        """Stop in order because of a signal; a start that is under way has little time to end.

        Unless it ``is_noticed``, nobody is left to be told over time that it is no longer ready.
        """
        self.should_exit = True
        if not (self.started and is_noticed):
            self._is_noticed = False
        if not self.started:
            self._watchdog.allow(START_SECONDS, 128 + sig)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then end listeners, connections and the application, all within a known time."""
        began = time.monotonic()
        self._watchdog.allow(self._drain_seconds + AFTER_DRAIN_SECONDS, FAILED)
        await self._drain()
        self.close_listeners()
        for each in sockets or ():
            each.close()
        await self._end_connections()
        await self.lifespan.shutdown()
        log.info("service.stopped", seconds=round(time.monotonic() - began, 3))
        self._watchdog.allow(EXIT_SECONDS, self.exit_code)

    # --- the drain -------------------------------------------------------------------------------

    @property
    def _container(self) -> Container | None:
        found = getattr(self._app.state, "container", None)
        return found if isinstance(found, Container) else None

    @property
    def _jobs(self) -> int:
        container = self._container
        return container.engine.running if container else 0

    @property
    def _requests(self) -> int:
        """Answers under way: being made, or made and not taken by the client yet."""
        sending = [each for each in self._connections if each.is_busy]
        return max(len(sending), len(self._state.tasks))

    @property
    def _connections(self) -> list[LimitedProtocol]:
        found = list(self._state.connections)
        return [each for each in found if isinstance(each, LimitedProtocol)]

    async def _drain(self) -> None:
        began = time.monotonic()
        self._begin_drain()
        least = self._drain_seconds if self._is_noticed else SETTLE_SECONDS
        dated_at = began
        while (elapsed := time.monotonic() - began) < self._drain_seconds:
            if elapsed >= least and not (self._requests or self._jobs):
                break
            await asyncio.sleep(_LOOK_SECONDS)
            if time.monotonic() - dated_at >= _DATE_SECONDS:
                dated_at = time.monotonic()
                await self.on_tick(0)  # brings the answers' Date header up to date
        log.info(
            "service.drained",
            seconds=round(time.monotonic() - began, 3),
            requests_left=self._requests,
            jobs_left=self._jobs,
        )

    def _begin_drain(self) -> None:
        self._state.is_draining = True
        if (container := self._container) is not None:
            certain = self._drain_seconds if self._is_noticed else 0.0
            container.drain.begin(certain, limit_seconds=self._drain_seconds)
            container.engine.stop_claiming()
        connections = self._connections
        # A body could go on for hours: the writer keeps what arrived, the client resumes later.
        parked = sum(each.drain() for each in connections)
        log.info(
            "service.draining",
            limit_seconds=self._drain_seconds,
            connections=len(connections),
            requests=self._requests,
            parked=parked,
            jobs=self._jobs,
        )
        if self._requests or self._jobs:
            self.say_stopping()

    def say_stopping(self) -> None:
        """Say to whoever pressed Ctrl+C that something is still under way."""
        if self._settings.service.log_format == "console":
            print_stopping(self._drain_seconds)

    # --- and after it ----------------------------------------------------------------------------

    async def _end_connections(self) -> None:
        requests = self._requests
        for connection in self._connections:
            if not connection.is_busy:
                connection.transport.close()
        if requests:
            log.warning("service.requests_cut", requests=requests)
            for connection in self._connections:
                connection.transport.abort()  # with what it still has to send
            await asyncio.sleep(0)  # lets them be told of it first, as by a client that left
            self._state.cancel_requests()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CUT_SECONDS):
                # Sets of uvicorn's: there is no event to wait for.
                while self._state.connections or self._state.tasks:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_SECONDS)
