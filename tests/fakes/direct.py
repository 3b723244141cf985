"""The application on the protocol and loop of the command, and clients that are blunt with it."""

import asyncio
import socket
import struct
import time
from types import TracebackType
from typing import Self

import uvicorn
import uvloop

from app.server.protocol import LimitedProtocol
from app.settings import Settings
from tests.fakes.served import Served


class Direct(Served):
    """In the test's process, but otherwise as ``tidemill serve`` runs it: files go to the socket."""

    http_protocol: type[asyncio.Protocol] = LimitedProtocol

    def __init__(self, settings: Settings, **headers: str) -> None:
        super().__init__(settings, **headers)
        config = uvicorn.Config(
            self.app,
            http=self.http_protocol,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[self._socket])

        uvloop.run(main())


class Blunt:
    """A client on a bare socket. ``buffer``: how much its system takes before it is read."""

    def __init__(self, port: int, *, buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", port))
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def ask(self, path: str, method: str = "GET", **headers: str) -> None:
        """Send a request; an underscore in a header's name stands for a hyphen."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())

    def head(self) -> tuple[int, dict[str, str]]:
        """Read the head of an answer: its status and headers by lower-case name."""
        while b"\r\n\r\n" not in self._rest:
            piece = self.socket.recv(65536)
            assert piece, "the server hung up"
            self._rest += piece
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        return int(status.split()[1]), {name.lower(): value for name, _, value in pairs}

    def read(self, count: int, *, per_second: int | None = None) -> bytes:
        """Read exactly so many bytes, if wished no faster than that; less when the server ends."""
        data, began = bytearray(self._rest[:count]), time.monotonic()
        self._rest = self._rest[count:]
        while len(data) < count:
            most = count - len(data) if per_second is None else min(per_second // 20, count)
            piece = self.socket.recv(min(most, count - len(data)))
            if not piece:
                break
            data += piece
            if per_second is not None:
                time.sleep(max(0.0, began + len(data) / per_second - time.monotonic()))
        return bytes(data)

    def fetch(self, path: str, **headers: str) -> bytes:
        """Ask for a file or a part of it and read it all."""
        self.ask(path, **headers)
        status, found = self.head()
        assert status in {200, 206}, status
        return self.read(int(found["content-length"]))

    def reset(self) -> None:
        """Break the connection off."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
