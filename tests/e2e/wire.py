"""tus and plain HTTP written by hand, for what no client library would ever do."""

import base64
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

TUS = {"Tus-Resumable": "1.0.0"}
PATCH_TYPE = {"Content-Type": "application/offset+octet-stream"}
ENDED = {"completed", "failed", "cancelled"}


def encode_metadata(fields: Mapping[str, str]) -> str:
    return ",".join(
        f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in fields.items()
    )


def create(client: httpx.Client, length: int, **fields: str) -> str:
    """Create an upload and return its path."""
    headers = TUS | {"Upload-Length": str(length), "Upload-Metadata": encode_metadata(fields)}
    response = client.post("/files/", headers=headers)
    assert response.status_code == 201, response.text
    return response.headers["location"]


def offset_of(client: httpx.Client, path: str) -> int:
    response = client.head(path, headers=TUS)
    assert response.status_code == 200, response.status_code
    return int(response.headers["upload-offset"])


def patch(
    client: httpx.Client, path: str, offset: int, body: bytes | Iterable[bytes], length: int = -1
) -> httpx.Response:
    """One PATCH; ``length`` is needed for a body that is not bytes."""
    headers = TUS | PATCH_TYPE | {"Upload-Offset": str(offset)}
    if not isinstance(body, bytes):
        headers["Content-Length"] = str(length)
    return client.patch(path, headers=headers, content=body)


def upload(client: httpx.Client, body: bytes, **fields: str) -> httpx.Response:
    """Create and send in one PATCH; return the finishing response."""
    path = create(client, len(body), **fields)
    if not body:
        return client.head(path, headers=TUS)
    response = patch(client, path, 0, body)
    assert response.status_code == 204, response.text
    return response


def open_session(client: httpx.Client, **body: Any) -> str:
    response = client.post("/api/v1/upload", json=body)
    assert response.status_code == 201, response.text
    return str(response.json()["session_id"])


def await_job(client: httpx.Client, job_id: str, seconds: float = 60.0) -> dict[str, Any]:
    """Return the job once it has ended."""
    deadline = time.monotonic() + seconds
    while True:
        response = client.get(f"/api/v1/jobs/{job_id}")
        assert response.status_code == 200, response.text
        job: dict[str, Any] = response.json()
        if job["status"] in ENDED:
            return job
        assert time.monotonic() < deadline, f"the job did not end: {job}"
        time.sleep(0.05)


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that a response is that problem and return it."""
    assert response.status_code == status, f"{response.status_code} {response.text}"
    assert response.headers["content-type"].startswith("application/problem+json")
    body: dict[str, Any] = response.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["detail"]
    return body


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]


class SlowPatch:
    """A PATCH on a socket of its own whose body is sent when the test says so."""

    def __init__(self, port: int, path: str, offset: int, length: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.settimeout(20)
        head = {
            "Host": f"127.0.0.1:{port}",
            **TUS,
            **PATCH_TYPE,
            "Upload-Offset": str(offset),
            "Content-Length": str(length),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        self._socket.sendall(f"PATCH {path} HTTP/1.1\r\n{lines}\r\n".encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> Answer | None:
        """The response's status and headers; None when the connection just ended."""
        received = b""
        while b"\r\n\r\n" not in received:
            try:
                data = self._socket.recv(65536)
            except ConnectionError:
                return None
            if not data:
                return None
            received += data
        first, *lines = received.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        return Answer(int(first.split()[1]), {k.strip().lower(): v.strip() for k, v in pairs})
