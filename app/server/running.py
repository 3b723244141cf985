"""Runs the application until it is told to stop, and stops it so that nothing is lost or left."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Generator, Sequence
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from app.main import create_app
from app.server.malloc import tune_malloc
from app.server.protocol import MAX_HEAD_BYTES, LimitedProtocol
from app.server.welcome import print_welcome
from app.settings import Settings

log = structlog.get_logger(__name__)

STOPPED = 0
FAILED = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CUT_SECONDS = 5.0
"""How long requests that were cut off may take to put away what they hold."""


def serve(settings: Settings) -> int:
    """Serve until a signal or a dead loop ends it; return the exit code of the process.

    Raises ``StartRefused`` when access is not set up; everything later is logged.
    """
    tune_malloc()
    app = create_app(settings)
    try:
        sockets = bind(settings.service.host, settings.service.port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        log.error("service.start_refused", reason=f"{_where(settings)}: {reason}")  # noqa: TRY400
        return FAILED
    server = Server(_config(app, settings), app, settings)
    try:
        server.run(sockets=list(sockets))
    except SystemExit:
        return FAILED  # uvicorn's way of saying that the start-up failed; it is in the log
    finally:
        for each in sockets:
            each.close()
    return FAILED if getattr(app.state, "failure", None) else STOPPED


def _where(settings: Settings) -> str:
    return f"TIDEMILL_HOST={settings.service.host} TIDEMILL_PORT={settings.service.port}"


def bind(host: str, port: int) -> Sequence[socket.socket]:
    """Return bound sockets, not yet listening, for every address of ``host``.

    Before anything else is touched: a port that is taken must not cost a migration. Port 0 takes
    any free one, the same for all addresses. Raises ``OSError`` when none can be had.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            wanted = sockets[0].getsockname()[1] if sockets else port
            _add(sockets, socket.socket(family, kind, protocol), (address[0], wanted, *address[2:]))
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def _add(sockets: list[socket.socket], new: socket.socket, address: tuple[object, ...]) -> None:
    try:
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if new.family == socket.AF_INET6:
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        new.bind(address)
    except OSError as error:
        new.close()
        # "localhost" often has an IPv6 address on machines without IPv6.
        if not (sockets and error.errno == errno.EADDRNOTAVAIL):
            raise
    else:
        sockets.append(new)


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    service = settings.service
    return uvicorn.Config(
        app,
        host=service.host,
        port=service.port,
        loop="uvloop",
        http=LimitedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(service.trusted_proxies),
        forwarded_allow_ips=list(service.trusted_proxies),
        root_path=service.root_path,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=round(service.drain_seconds),
    )


class Server(uvicorn.Server):
    """uvicorn's server with our stop: bodies parked, answers finished, exit 0, a second signal exits."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, settings: Settings) -> None:
        super().__init__(config)
        self._settings = settings
        app.state.stop = self.stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and sockets:
            port = sockets[0].getsockname()[1]
            log.info("service.started", host=self._settings.service.host, port=port)
            if self._settings.service.log_format == "console":
                print_welcome(self._settings, port)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take the signals while serving. uvicorn would raise them again at the end: we exit 0."""
        before = {each: signal.signal(each, self.handle_exit) for each in _SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def stop(self) -> None:
        """Stop in order, as the first signal does."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at the first signal, exit at the second: what is left is the next start's work."""
        del frame
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop in order: listeners, bodies, idle connections, running answers, the application."""
        log.info("service.stopping", connections=len(self.server_state.connections))
        for server in self.servers:
            server.close()
        for each in sockets or ():
            each.close()
        for connection in list(self.server_state.connections):
            # A body could go on for hours: the writer keeps what arrived, the client resumes later.
            if isinstance(connection, LimitedProtocol) and connection.is_receiving:
                connection.park()
            else:
                connection.shutdown()
        if not await self._is_quiet_within(self._settings.service.drain_seconds):
            await self._cut_off()
        await self.lifespan.shutdown()
        log.info("service.stopped")

    async def _is_quiet_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                state = self.server_state  # sets of uvicorn's: there is no event to wait for
                while state.connections or state.tasks:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                return True
        return False

    async def _cut_off(self) -> None:
        log.warning("service.requests_cut", requests=len(self.server_state.tasks))
        for connection in list(self.server_state.connections):
            if isinstance(connection, LimitedProtocol):
                connection.cut_off()
        await asyncio.sleep(0)  # lets them be told of it first, as by a client that left
        for task in list(self.server_state.tasks):
            task.cancel()
        await self._is_quiet_within(_CUT_SECONDS)
