"""Described requests put on a socket as they are, and a service that counts what it was asked."""

import base64
import contextlib
import hashlib
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from app.settings import Settings
from tests.fakes.body_ways import Lending, Way
from tests.fakes.served import OCTETS, TUS, Served
from tests.fakes.tus_client import RawRequest, encoded
from tests.fakes.upload_model import Body, Creation, End, Fault, Patch, Sum

QUIET_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """Status 0: the connection ended without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def upload_id(self) -> str:
        return self.headers["location"].rpartition("/")[2]


class Counted(Served):
    """The service with the protocol that it really has, and one of the ways of its bodies. ``begun``
    counts its requests, ``active`` are the client ports of those under way.
    """

    def __init__(self, settings: Settings, way: Way) -> None:
        self.lending = Lending(way)
        self.http_protocol = self.lending.protocol
        super().__init__(settings)
        self.begun = 0
        self.active: set[int] = set()
        self._server.config.app = self._counting(self.app)
        self.hanging: list[RawRequest] = []
        self._hanging_ports: set[int] = set()

    def _counting(self, app: ASGIApp) -> ASGIApp:
        async def counting(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            port = scope["client"][1]
            self.active.add(port)
            self.begun += 1
            try:
                await app(scope, receive, send)
            finally:
                self.active.discard(port)

        return counting

    def let_go(self, hung: RawRequest) -> None:
        """Close a request whose body hangs."""
        self.hanging.remove(hung)
        self._hanging_ports = {each.socket.getsockname()[1] for each in self.hanging}
        with contextlib.suppress(OSError):
            hung.socket.close()

    @property
    def is_quiet(self) -> bool:
        """Whether no request is under way but those that hang."""
        return self.active.copy() <= self._hanging_ports

    def wait_until_quiet(self) -> None:
        until(lambda: self.is_quiet, "the end of every request")

    # --- requests ---

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> Answer:
        """Ask without a body."""
        return self.exchange(method, path, headers or {}, None)[0]

    def patch_with(
        self, upload_id: str, patch: Patch, has_arrived: Callable[[], bool]
    ) -> tuple[Answer, RawRequest | None]:
        """Send a PATCH. A line is reset once ``has_arrived``: what was not read is lost by it."""
        headers = {**TUS, **OCTETS, "Upload-Offset": str(patch.offset)}
        if patch.declared is not None:
            headers["Upload-Length"] = str(patch.declared)
        headers |= checksum_headers(patch.checksum, patch.body)
        if patch.fault is Fault.GARBAGE:
            headers["Upload-Offset"] = "-1"
        spoil(headers, patch.fault)
        method = "PATCH"
        if patch.override:
            method, headers["X-HTTP-Method-Override"] = "POST", "PATCH"
        return self.exchange(method, f"/files/{upload_id}", headers, patch.body, has_arrived)

    def create_with(self, creation: Creation) -> Answer:
        headers = dict(TUS)
        if creation.length is None:
            headers["Upload-Defer-Length"] = "1"
        else:
            headers["Upload-Length"] = str(creation.length)
        if creation.session is not None:
            headers["Upload-Metadata"] = encoded(session=creation.session)
        if creation.partial:
            headers["Upload-Concat"] = "partial"
        if creation.body is not None:
            headers |= OCTETS | checksum_headers(creation.checksum, creation.body)
        if creation.fault is Fault.GARBAGE:
            headers["Upload-Length"] = "1e3"
        spoil(headers, creation.fault)
        return self.exchange("POST", "/files/", headers, creation.body)[0]

    def exchange(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: Body | None,
        has_arrived: Callable[[], bool] = bool,
    ) -> tuple[Answer, RawRequest | None]:
        """Send a request and take its answer. A body that hangs gives its open connection instead."""
        begun = self.begun
        if body is not None:
            size = {"Content-Length": str(len(body.data))}
            headers = headers | ({"Transfer-Encoding": "chunked"} if body.chunked else size)
        request = RawRequest(self.port, method, path, headers, timeout=QUIET_SECONDS)
        if body is not None:
            self._send_body(request, body)
            if body.end is not End.WHOLE:
                until(lambda: self.begun > begun, "the request")
            if body.end is End.HANGS:
                self.hanging.append(request)
                self._hanging_ports.add(request.socket.getsockname()[1])
                return Answer(0, {}, b""), request
        with request:
            if body is not None and body.end is not End.WHOLE:
                if body.end is End.RESET:
                    until(has_arrived, "what was sent")
                    linger = struct.pack("ii", 1, 0)
                    request.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                answer = Answer(0, {}, b"")
            else:
                answer = Answer(*request.answer())
        self.wait_until_quiet()
        return answer, None

    def _send_body(self, request: RawRequest, body: Body) -> None:
        """Send what is to arrive of a body. A server that has answered already may have closed."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if not body.chunked:
                self.lending.send(request.socket, body.arrived)
                return
            head = f"{len(body.data):x}\r\n".encode() if body.data else b""
            tail = (b"\r\n" if body.data else b"") + b"0\r\n\r\n"
            request.send(head + body.arrived + (tail if body.end is End.WHOLE else b""))


def until(check: Callable[[], bool], what: str) -> None:
    """Wait for what comes within a millisecond as a rule."""
    deadline = time.monotonic() + QUIET_SECONDS
    while not check():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.0003)


def spoil(headers: dict[str, str], fault: Fault | None) -> None:
    if fault is Fault.VERSION:
        headers["Tus-Resumable"] = "0.2.2"
    if fault is Fault.CONTENT_TYPE:
        headers["Content-Type"] = "application/octet-stream"


def checksum_headers(checksum: Sum | None, body: Body) -> dict[str, str]:
    if checksum is None:
        return {}
    digest = hashlib.sha256(body.data).digest()
    if checksum is Sum.WRONG:
        digest = digest[::-1]
    told = base64.b64encode(digest).decode()
    name = {Sum.UNKNOWN: "crc7", Sum.GARBLED: "sha256sha256"}.get(checksum, "sha256")
    return {"Upload-Checksum": name if checksum is Sum.GARBLED else f"{name} {told}"}
