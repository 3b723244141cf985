"""The command's side of the REST API: one connection, clear refusals, patience while it is away."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
"""Seconds without any sign of life on one request; a body that moves may take as long as it likes."""

WORTH_RETRYING = frozenset(
    {
        HTTPStatus.LOCKED,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


class RefusedError(Exception):
    """The server said no, and asking again would not help."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        super().__init__(f"{detail} ({code})" if code else detail)


class GaveUpError(Exception):
    """The server did not answer, or not usefully, for longer than the caller wanted to wait."""


def refusal(response: httpx.Response) -> RefusedError:
    """Return the refusal a response tells of: problem+json if it is that, else its status."""
    code, detail = "", f"the server answered {response.status_code}"
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        problem = response.json()
        code = str(problem.get("code", ""))
        detail = str(problem.get("detail") or problem.get("title") or detail)
        if reason := problem.get("reason"):
            detail = f"{detail} Reason: {reason}."
    if response.status_code == httpx.codes.UNAUTHORIZED:
        detail = f"{detail} Here: --key-file names the file that holds it."
    return RefusedError(response.status_code, code, detail)


class Patience:
    """How long to go on without a useful answer, with growing pauses in between.

    ``limit_seconds`` counts from the first failure after a success, so that a long request that ends
    badly costs nothing. ``say`` gets one line when trouble begins and one when it is over.
    """

    FIRST_PAUSE = 0.2
    LONGEST_PAUSE = 5.0

    def __init__(self, limit_seconds: float, say: Callable[[str], None]) -> None:
        self._limit = limit_seconds
        self._say = say
        self._failures = 0
        self._since = 0.0

    def succeeded(self, note: str = "") -> None:
        """Forget the trouble there was; ``note`` says what goes on now."""
        if self._failures:
            self._say(f"The server is back. {note}".rstrip())
        self._failures = 0

    def wait(self, reason: str, *, at_least_seconds: float = 0.0) -> None:
        """Pause after a failure. Raises GaveUpError when the limit would be passed."""
        if not self._failures:
            self._since = time.monotonic()
        self._failures += 1
        left = self._since + self._limit - time.monotonic()
        if left <= 0:
            msg = f"no useful answer for {self._limit:.0f} s: {reason}"
            raise GaveUpError(msg)
        if self._failures == 1:
            self._say(f"{_sentence(reason)} Trying again for up to {self._limit:.0f} s.")
        growing = min(self.LONGEST_PAUSE, self.FIRST_PAUSE * 2 ** (self._failures - 1))
        pause = max(growing * random.uniform(0.7, 1.0), at_least_seconds)  # noqa: S311 - jitter
        time.sleep(min(pause, left))


def describe(error: httpx.TransportError, server: str) -> str:
    """Return what happened on the wire in words a person can use."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"the server at {server} cannot be reached"
    if isinstance(error, httpx.TimeoutException):
        return f"the server at {server} fell silent"
    return f"the connection to {server} was lost"


def retry_after_seconds(response: httpx.Response) -> float:
    """Return the whole seconds of Retry-After, 0 when there is none (dates are not sent to us)."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else 0.0


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is and what lets us in."""

    url: str
    key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def connect(self) -> httpx.Client:
        """Open a client for this server; a proxy of the environment is not asked for loopback."""
        return httpx.Client(
            headers=self.headers, timeout=TIMEOUT, trust_env=not _is_loopback(self.url)
        )

    def at(self, path: str) -> str:
        return f"{self.url}{path}"


def make_server(url: str, key_file: Path | None) -> Server:
    """Check an address and read the key. Raises ValueError saying what is wrong."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = f"{url!r} is not an http:// or https:// address"
        raise ValueError(msg)
    key = None
    if key_file is not None:
        key = key_file.read_text().strip()
        if not key or not key.isascii() or len(key.split()) != 1:
            msg = f"{key_file} holds no key: one line of plain characters is expected"
            raise ValueError(msg)
    return Server(url.rstrip("/"), key)


class Api:
    """REST calls that survive a restart of the server. Raises RefusedError and GaveUpError."""

    def __init__(self, server: Server, http: httpx.Client, patience: Patience) -> None:
        self.server = server
        self.http = http
        self.patience = patience

    def call(
        self, method: str, path: str, *, json: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the JSON body of a 2xx answer, {} where there is none.

        A POST may run twice when its first answer was lost: use it only where that is harmless.
        """
        while True:
            try:
                response = self.http.request(method, self.server.at(path), json=json)
            except httpx.TransportError as error:
                self.patience.wait(describe(error, self.server.url))
                continue
            if response.status_code in WORTH_RETRYING:
                self.patience.wait(
                    f"the server answered {response.status_code}",
                    at_least_seconds=retry_after_seconds(response),
                )
                continue
            self.patience.succeeded()
            if not response.is_success:
                raise refusal(response)
            return dict(response.json()) if response.content else {}

    def open_session(self, operation: str, params: Mapping[str, Any]) -> str:
        """Open a session for one file with an operation to start on it; return its id."""
        then = {"operation": operation, "params": dict(params)}
        answer = self.call("POST", "/api/v1/upload", json={"expected_files": 1, "then": then})
        return str(answer["session_id"])

    def get_job(self, job_id: str) -> dict[str, Any]:
        return self.call("GET", f"/api/v1/jobs/{job_id}")

    def delete_if_there(self, path: str) -> None:
        """Delete something that may be gone already."""
        try:
            self.call("DELETE", path)
        except RefusedError as refused:
            if refused.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
                raise


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
