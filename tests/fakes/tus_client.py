"""A client for tus tests: short calls over httpx, and raw sockets for what no library would do."""

import base64
import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import httpx

VERSION = {"Tus-Resumable": "1.0.0"}
OFFSET_TYPE = {"Content-Type": "application/offset+octet-stream"}


def encoded(**fields: str) -> str:
    """Return an Upload-Metadata header."""
    return ",".join(
        f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in fields.items()
    )


class TusClient:
    """Calls on one server. ``id_of`` a Location is its last segment."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    def create(
        self,
        length: int | None = None,
        *,
        content: bytes | Iterable[bytes] | None = None,
        **headers: str,
    ) -> httpx.Response:
        size = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
        kind = {} if content is None else OFFSET_TYPE
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post("/files/", headers=VERSION | size | kind | named, content=content)

    def new(self, length: int | None = None, **headers: str) -> str:
        """Create an upload and return its id."""
        response = self.create(length, content=None, **headers)
        assert response.status_code == 201, response.text
        return id_of(response)

    def patch(
        self, upload_id: str, offset: int | str, content: bytes | Iterable[bytes], **headers: str
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = VERSION | OFFSET_TYPE | {"Upload-Offset": str(offset)} | named
        return self.http.patch(f"/files/{upload_id}", headers=sent, content=content)

    def head(self, upload_id: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.head(f"/files/{upload_id}", headers=VERSION | named)

    def offset(self, upload_id: str) -> int:
        response = self.head(upload_id)
        assert response.status_code == 200, response.status_code
        return int(response.headers["upload-offset"])

    def delete(self, upload_id: str) -> httpx.Response:
        return self.http.delete(f"/files/{upload_id}", headers=VERSION)

    def get(self, upload_id: str, **headers: str) -> httpx.Response:
        return self.http.get(f"/files/{upload_id}", headers=headers)


def id_of(response: httpx.Response) -> str:
    return response.headers["location"].rsplit("/", 1)[-1]


def code_of(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.json()["code"])


class RawRequest:
    """A request on a socket of its own, sent as slowly as a test wants."""

    def __init__(
        self, port: int, method: str, path: str, headers: Mapping[str, str], *, timeout: float = 20
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body; status 0 when the connection ended without an answer."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self._receive()
            if not piece:
                return 0, {}, data
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        while len(body) < int(headers.get("content-length", "0")):
            piece = self._receive()
            if not piece:
                break
            body += piece
        return int(status.split()[1]), headers, body

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:
            return b""


def raw_patch(
    port: int, upload_id: str, offset: int, length: int | None, **more: str
) -> RawRequest:
    """Begin a PATCH whose body of ``length`` bytes (None: chunked) is still to be sent."""
    size = {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
    named = {name.replace("_", "-"): value for name, value in more.items()}
    headers = VERSION | OFFSET_TYPE | size | {"Upload-Offset": str(offset)} | named
    return RawRequest(port, "PATCH", f"/files/{upload_id}", headers)


def until(check: Callable[[], Any], *, seconds: float = 10, what: str = "the condition") -> Any:
    """Return what ``check`` returns once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.01)
    message = f"{what} did not come true within {seconds} s"
    raise AssertionError(message)


def problem_of(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)
    return found
