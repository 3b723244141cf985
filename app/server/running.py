"""Runs the application until it is told to stop, and stops it so that nothing is lost or left."""

import errno
import os
import socket
from collections.abc import Sequence
from functools import partial

import structlog
import uvicorn
from fastapi import FastAPI

from app.main import create_app
from app.server.child import ChildServer, Post
from app.server.descriptors import raise_descriptor_limit
from app.server.http_server import FAILED, Server
from app.server.malloc import tune_malloc
from app.server.parent import Parent
from app.server.protocol import KEEP_ALIVE_SECONDS, MAX_HEAD_BYTES, LimitedProtocol
from app.settings import Settings

log = structlog.get_logger(__name__)


def serve(settings: Settings) -> int:
    """Serve until a signal or a dead loop ends it; return the exit code of the process.

    Raises ``StartRefused`` when access is not set up; everything later is logged.
    """
    tune_malloc()
    open_files = raise_descriptor_limit()
    app = create_app(settings)
    try:
        sockets = bind(settings.service.host, settings.service.port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        log.error("service.start_refused", reason=f"{_where(settings)}: {reason}")  # noqa: TRY400
        return FAILED
    try:
        if settings.service.processes > 1:
            run_child = partial(_run_child, app, settings, sockets, open_files)
            return Parent(settings, sockets, open_files, run_child).run()
        return _run(Server(_config(app, settings), app, settings, open_files), sockets)
    finally:
        for each in sockets:
            each.close()


def _run_child(
    app: FastAPI,
    settings: Settings,
    sockets: Sequence[socket.socket],
    open_files: int,
    post: Post,
) -> int:
    app.state.seat = post.seat
    server = ChildServer(_config(app, settings), app, settings, open_files, post)
    return _run(server, sockets)


def _run(server: Server, sockets: Sequence[socket.socket]) -> int:
    try:
        server.run(sockets=list(sockets))
    except SystemExit:
        return FAILED  # uvicorn's way of saying that the start-up failed; it is in the log
    return server.exit_code


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
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
