"""Sending one file by tus: tuspy's bookkeeping over a connection of ours, resumed until it is there."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, BinaryIO, TypeVar

import httpx
from tusclient.client import TusClient
from tusclient.uploader.uploader import Uploader

from app.cli.client import (
    WORTH_RETRYING,
    GaveUpError,
    Patience,
    RefusedError,
    Server,
    describe,
    refusal,
    retry_after_seconds,
)

T = TypeVar("T")

PATCH_BYTES = 64 * 1024 * 1024
"""Of one PATCH: large enough for full speed, small enough for proxies that collect a body first."""
PIECE_BYTES = 1024 * 1024
"""Of one read and write: all that is ever in memory."""

ASK_AGAIN: frozenset[int] = WORTH_RETRYING | {
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.INSUFFICIENT_STORAGE,
    460,
}
"""After these a PATCH asks for the offset and goes on; 460 is tus for a body damaged on its way."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the server made of a finished upload. A batch or job may be missing for a moment."""

    upload_id: str
    batch_id: str | None
    job_ids: tuple[str, ...]


def read_receipt(upload_id: str, headers: Mapping[str, str]) -> Receipt:
    """Return what the ``Tidemill-…`` headers of a response say."""
    jobs = tuple(part.strip() for part in headers.get("tidemill-job", "").split(",") if part)
    return Receipt(upload_id, headers.get("tidemill-batch"), jobs)


class _UnfinishedError(Exception):
    """A request that may have got through in part: ask for the offset, then go on."""

    def __init__(self, reason: str, pause_seconds: float = 0.0) -> None:
        self.reason = reason
        self.pause_seconds = pause_seconds
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What tuspy reads off a finished request."""

    response_headers: Mapping[str, str]


class _StreamingUploader(Uploader):
    """tuspy 1.1 with its three requests replaced.

    Its creation headers, metadata, offsets and piece lengths are kept. Its requests have no time
    limit (a silent server holds them for ever), hold a whole piece in memory, make a connection
    each, and its retries pause for one fixed time and tell nobody.
    """

    def __init__(
        self,
        http: httpx.Client,
        server: Server,
        stream: BinaryIO,
        metadata: Mapping[str, str],
        on_bytes: Callable[[int], None],
    ) -> None:
        self._http = http
        self._server = server
        self._stream = stream
        self._on_bytes = on_bytes
        self.headers_seen: Mapping[str, str] = {}
        client = TusClient(server.at("/files/"), headers=server.headers)
        super().__init__(
            file_stream=stream, client=client, chunk_size=PATCH_BYTES, metadata=dict(metadata)
        )

    def create_url(self) -> str:
        headers = self.get_url_creation_headers()  # type: ignore[no-untyped-call]
        response = self._ask("POST", self._server.at("/files/"), headers)
        if response.status_code != HTTPStatus.CREATED:
            raise _trouble(response, WORTH_RETRYING)
        self.headers_seen = response.headers
        return self._server.at(f"/files/{response.headers['location'].rsplit('/', 1)[-1]}")

    def get_offset(self) -> int:
        response = self._ask("HEAD", str(self.url), self._headers())
        if not response.is_success:
            # Whatever trouble: only 4xx that no retry can cure end it, and nothing starts at byte 0.
            raise _trouble(response, ASK_AGAIN)
        self.headers_seen = response.headers
        return int(response.headers["upload-offset"])

    def _do_request(self) -> None:
        length = int(self.get_request_length())  # type: ignore[no-untyped-call]
        headers = self._headers() | {
            "Upload-Offset": str(self.offset),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(length),
        }
        response = self._ask("PATCH", str(self.url), headers, self._pieces(length))
        if response.status_code != HTTPStatus.NO_CONTENT:
            raise _trouble(response, ASK_AGAIN)
        self.headers_seen = response.headers
        self.request = _Answer(response.headers)  # type: ignore[assignment]

    def _headers(self) -> dict[str, str]:
        return dict(self.get_headers())  # type: ignore[no-untyped-call]

    def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: Iterator[bytes] | None = None
    ) -> httpx.Response:
        try:
            return self._http.request(method, url, headers=headers, content=body)
        except httpx.TransportError as error:
            raise _UnfinishedError(describe(error, self._server.url)) from error

    def _pieces(self, length: int) -> Iterator[bytes]:
        self._stream.seek(self.offset)
        sent = 0
        while sent < length:
            piece = self._stream.read(min(PIECE_BYTES, length - sent))
            if not piece:
                raise RefusedError(0, "", "the file became shorter while it was being sent")
            yield piece
            sent += len(piece)
            self._on_bytes(self.offset + sent)


class Sending:
    """One file on its way. ``upload_id`` is None until the server knows of it."""

    def __init__(
        self,
        server: Server,
        http: httpx.Client,
        patience: Patience,
        *,
        stream: BinaryIO,
        metadata: Mapping[str, str],
        on_bytes: Callable[[int], None],
    ) -> None:
        self._server = server
        self._patience = patience
        self._on_bytes = on_bytes
        self._uploader: Any = _StreamingUploader(http, server, stream, metadata, on_bytes)

    @property
    def size_bytes(self) -> int:
        return int(self._uploader.stop_at)

    @property
    def upload_id(self) -> str | None:
        url = self._uploader.url
        return None if url is None else str(url).rsplit("/", 1)[-1]

    def create(self) -> str:
        """Tell the server of the file; return the upload's id.

        A lost answer leaves an empty upload behind, which the server removes in time.
        """
        self._uploader.set_url(self._keep_trying(self._uploader.create_url))
        return str(self.upload_id)

    def resume(self, upload_id: str) -> int:
        """Go on with an upload that the server has; return its offset in bytes.

        Raises RefusedError when the file is not as long as what was announced.
        """
        self._uploader.set_url(self._server.at(f"/files/{upload_id}"))
        self._look()
        length = self._uploader.headers_seen.get("upload-length")
        if length is not None and int(length) != self.size_bytes:
            detail = f"this upload is for a file of {length} bytes, yours has {self.size_bytes}"
            raise RefusedError(0, "", detail)
        return int(self._uploader.offset)

    def send(self) -> None:
        """Send what is missing. Raises RefusedError and GaveUpError."""
        uploader = self._uploader
        while uploader.offset < uploader.stop_at:
            try:
                uploader.upload_chunk()
            except _UnfinishedError as trouble:
                self._patience.wait(trouble.reason, at_least_seconds=trouble.pause_seconds)
                self._look()
            else:
                self._patience.succeeded("Going on.")
                self._on_bytes(uploader.offset)

    def receipt(self, patience: Patience) -> Receipt:
        """Return what the server made of the upload, waiting until it has recorded it.

        The batch and its jobs are made in one go: where the first is, the others are.
        """
        while True:
            found = read_receipt(str(self.upload_id), self._uploader.headers_seen)
            if found.batch_id:
                return found
            try:
                patience.wait("the upload is there, its batch is not yet")
            except GaveUpError:
                return found
            self._keep_trying(self._uploader.get_offset)

    def _look(self) -> None:
        before = self._uploader.offset
        offset = self._keep_trying(self._uploader.get_offset)
        self._uploader.offset = offset
        self._on_bytes(offset)
        if offset > before:
            # An answer alone is no progress: a full disk answers HEAD as well, for ever.
            self._patience.succeeded(f"Going on at byte {offset}.")

    def _keep_trying(self, ask: Callable[[], T]) -> T:
        while True:
            try:
                return ask()
            except _UnfinishedError as trouble:
                self._patience.wait(trouble.reason, at_least_seconds=trouble.pause_seconds)


def _trouble(response: httpx.Response, curable: frozenset[int]) -> Exception:
    if response.status_code not in curable:
        return refusal(response)
    said = refusal(response)
    reason = said.detail if said.code else f"the server answered {response.status_code}"
    return _UnfinishedError(reason, retry_after_seconds(response))
