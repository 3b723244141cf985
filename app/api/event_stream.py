"""Server-Sent Events of one thing: its present state, what changes, its end; nothing kept of it."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.errors import problem, request_id_of
from app.domain.errors import AppError, Kind
from app.services.draining import Drain
from app.services.job_watch import JobWatch, Subject, Subscription

log = structlog.get_logger(__name__)

MEDIA_TYPE = "text/event-stream"
HEADERS = {
    "content-type": f"{MEDIA_TYPE}; charset=utf-8",
    "cache-control": "no-store",
    # nginx would collect what is sent until a buffer is full.
    "x-accel-buffering": "no",
}
RETRY_MS = 3000
"""After how long a client whose connection broke is asked to come back."""
RETRY_AFTER_STOP_MS = 2000
LOOK_AGAIN_SECONDS = 1.0
"""How long after a failed read the state is read again."""
_HEARTBEAT = b": still here\n\n"
_ABSENT = frozenset({Kind.NOT_FOUND, Kind.GONE})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How a thing is at one moment: its version, its JSON on one line, whether this is its end."""

    version: str
    body: bytes
    is_last: bool


@dataclass(frozen=True, slots=True)
class Followed:
    """What a stream tells of. ``look`` reads it anew, raising the errors of a GET; ``first`` is how
    it was when the request came; ``known`` is the version the client has already (Last-Event-ID).
    """

    subject: Subject
    look: Callable[[], Awaitable[Snapshot]]
    first: Snapshot
    known: str | None


class EventStream(Response):
    """A response that goes on until the thing has ended, the client has gone, or we stop.

    Events: ``state`` (how it is now), ``end`` (how it ended), ``gone`` (the problem that a GET would
    answer). Of a client that reads slowly only a socket buffer is kept: it gets the newest state
    next, and misses what was in between.
    """

    def __init__(self, followed: Followed, watch: JobWatch, drain: Drain) -> None:
        super().__init__()
        self._followed = followed
        self._watch = watch
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        with self._watch.subscribe(self._followed.subject) as subscription:
            telling = _Telling(self._followed, subscription, send, request_id_of(scope))
            # A server drops what is sent after the peer has gone: someone must notice.
            watchers = [
                asyncio.create_task(telling.end_with_client(receive)),
                asyncio.create_task(telling.end_with_service(self._drain)),
            ]
            try:
                await telling.run(self._watch)
            finally:
                for watcher in watchers:
                    watcher.cancel()
                await asyncio.wait(watchers)


class _Telling:
    """One stream while it runs."""

    def __init__(
        self, followed: Followed, subscription: Subscription, send: Send, request_id: str | None
    ) -> None:
        self._followed = followed
        self._subscription = subscription
        self._send = send
        self._request_id = request_id
        self._told = b""
        self._written_at = 0.0
        self._is_client_gone = False
        self._is_stopping = False
        self._is_blind = False

    async def end_with_client(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._is_client_gone = True
        self._subscription.wake()

    async def end_with_service(self, drain: Drain) -> None:
        await drain.begun()
        self._is_stopping = True
        self._subscription.wake()

    async def run(self, watch: JobWatch) -> None:
        """Tell until there is nothing more to tell, or nobody to tell it to."""
        first = self._followed.first
        await self._write(f"retry: {RETRY_MS}\n\n".encode())
        is_over = await self._tell(first, is_known=first.version == self._followed.known)
        while not is_over:
            is_woken = await self._subscription.wait(self._pause(watch.heartbeat_seconds))
            if self._is_client_gone:
                return
            if self._is_stopping:
                await self._write(f"retry: {RETRY_AFTER_STOP_MS}\n\n".encode())
                break
            if is_woken or self._is_blind:
                is_over = await self._tell_news(watch)
            if not is_over and self._quiet_seconds() >= watch.heartbeat_seconds:
                await self._write(_HEARTBEAT)
        await self._send({"type": "http.response.body", "body": b""})

    def _pause(self, heartbeat_seconds: float) -> float:
        left = max(0.0, heartbeat_seconds - self._quiet_seconds())
        return min(left, LOOK_AGAIN_SECONDS) if self._is_blind else left

    def _quiet_seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._written_at

    async def _tell_news(self, watch: JobWatch) -> bool:
        try:
            async with watch.turns:  # not while writing: that waits for the client
                if self._is_client_gone or self._is_stopping:
                    return False
                snapshot = await self._followed.look()
        except AppError as error:
            if error.kind in _ABSENT:
                await self._write(_event("gone", problem(error, self._request_id).body))
                return True
            if not self._is_blind:
                log.warning("events.look_failed", code=error.code)
            self._is_blind = True
            return False
        self._is_blind = False
        return await self._tell(snapshot)

    async def _tell(self, snapshot: Snapshot, *, is_known: bool = False) -> bool:
        """Send the state unless the client has it; True when it was the last."""
        digest = hashlib.sha256(snapshot.body).digest()
        # A version also counts what no client sees, such as the heartbeat of a worker.
        is_news = digest != self._told and not is_known
        self._told = digest
        if is_news:
            name = "end" if snapshot.is_last else "state"
            await self._write(_event(name, snapshot.body, snapshot.version))
        return snapshot.is_last

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._written_at = asyncio.get_running_loop().time()


def _event(name: str, data: bytes, version: str | None = None) -> bytes:
    """Return one event. ``data`` is JSON as we write it: no line break in it."""
    identity = b"" if version is None else f"id: {version}\n".encode()
    return b"event: %b\n%bdata: %b\n\n" % (name.encode(), identity, data)
