"""One of several processes that serve side by side: it obeys its parent, and ends without it."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from app.bootstrap import Seat
from app.infrastructure.metrics import PrometheusMetrics
from app.server.accepting import Acceptor, Loads
from app.server.http_server import AFTER_DRAIN_SECONDS, FAILED, Server
from app.server.protocol import LimitedProtocol
from app.settings import Settings

log = structlog.get_logger(__name__)

STOP = b"s"
"""The parent's order to stop in order."""
READY = b"r"
"""What a child tells its parent once it takes connections."""
_TICKS_PER_SHARE = 10
"""uvicorn ticks ten times a second."""


@dataclass(frozen=True, slots=True)
class Post:
    """What a child gets from its parent: its seat, its line to the parent, everybody's load."""

    seat: Seat
    channel: socket.socket
    loads: Loads


class ChildServer(Server):
    """Serves on the sockets of its parent, which it hears through ``channel``.

    The parent stops all of them. A SIGTERM to one of them alone makes that one leave in order: it
    takes no more connections, which go to the others. Should the parent die, each does the same by
    itself. Ctrl+C reaches the whole group and is the parent's business.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        app: FastAPI,
        settings: Settings,
        open_files: int,
        post: Post,
    ) -> None:
        super().__init__(config, app, settings, open_files)
        self._post = post
        self._channel = post.channel
        self._acceptor: Acceptor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Begin to obey: until here the parent has kept all signals waiting."""
        self._loop = asyncio.get_running_loop()
        signal.signal(signal.SIGINT, _disregard)
        signal.signal(signal.SIGTERM, self.handle_exit)
        threading.Thread(target=self._listen, name="parent", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Leave in order, however often it is said: to end at once is what SIGKILL is for."""
        del sig, frame
        self._tell(self._leave)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        if not self.started or self.should_exit or not sockets:
            return
        make_protocol = partial(
            LimitedProtocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        busy = self.server_state.tasks.__len__
        self._acceptor = Acceptor(
            sockets, make_protocol, self._post.loads, self._post.seat.index, busy
        )
        self._acceptor.start()
        self.say_started(sockets[0].getsockname()[1])

    def close_listeners(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()

    def say_started(self, port: int) -> None:
        log.info("process.started", port=port)
        with contextlib.suppress(OSError):
            self._channel.sendall(READY)

    def say_stopping(self) -> None:
        """Nothing: the parent says it once."""

    async def on_tick(self, counter: int) -> bool:
        if self._acceptor is not None:
            self._acceptor.say_load()
        if counter % _TICKS_PER_SHARE == 0:
            self._share_metrics()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        metrics = self._metrics
        await super().shutdown(sockets)
        if metrics is not None:
            metrics.share()

    def _share_metrics(self) -> None:
        if (metrics := self._metrics) is not None:
            metrics.share()

    @property
    def _metrics(self) -> PrometheusMetrics | None:
        metrics = self._container.metrics if self._container else None
        return metrics if isinstance(metrics, PrometheusMetrics) else None

    # --- what the parent says --------------------------------------------------------------------

    def _listen(self) -> None:
        """Wait for the parent's word or its end, in a thread: the loop may be what hangs."""
        while order := self._hear():
            if order == STOP:
                self._tell(self._stop)
        log.warning("process.orphaned", parent=os.getppid())
        self._watchdog.allow(self._drain_seconds + AFTER_DRAIN_SECONDS, FAILED)
        self._tell(self._leave)

    def _hear(self) -> bytes:
        try:
            return self._channel.recv(1)
        except OSError:
            return b""

    def _tell(self, work: Callable[[], None]) -> None:
        """Have the loop do ``work``: a signal or a thread can come at any moment of it."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(work)

    def _stop(self) -> None:
        self.begin_stop(signal.SIGTERM)

    def _leave(self) -> None:
        """Stop while others take over, or nobody is to: new connections are not for us any more."""
        self.close_listeners()
        self.begin_stop(signal.SIGTERM, is_noticed=False)


def _disregard(sig: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which whatever we start would inherit."""
