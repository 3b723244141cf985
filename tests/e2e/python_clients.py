"""tuspy and aiotus as their users use them, for any place that has an endpoint and wants a key."""

import io
from collections.abc import Coroutine, Mapping
from typing import Any

import aiotus
from tusclient.client import TusClient
from tusclient.uploader.baseuploader import BaseUploader
from tusclient.uploader.uploader import Uploader

MIB = 1024 * 1024
METADATA = {"filename": "clip ü.mp4", "filetype": "video/mp4"}
ENCODED = {name: value.encode() for name, value in METADATA.items()}
TUSPY: dict[str, dict[str, Any]] = {
    "in one piece": {},
    "in pieces": {"chunk_size": MIB},
    "in pieces with checksums": {"chunk_size": MIB, "upload_checksum": True},
    "in one piece with a checksum": {"upload_checksum": True},
}
EAGER = aiotus.RetryConfiguration(retry_attempts=120, max_retry_period_seconds=0.3)


def uploader(endpoint: str, headers: Mapping[str, str], content: bytes, **more: Any) -> Uploader:
    """Return a tuspy uploader that is patient."""
    client = TusClient(endpoint, headers=dict(headers))
    given = {"retries": 90, "retry_delay": 0.3, "metadata": METADATA, **more}
    return client.uploader(file_stream=io.BytesIO(content), **given)


def url_of(sender: BaseUploader) -> str:
    url = vars(sender)["url"]  # its annotation says None
    assert isinstance(url, str)
    return url


def send_by_aiotus(
    endpoint: str, headers: Mapping[str, str], content: bytes, chunk: int
) -> Coroutine[Any, Any, Any]:
    file = io.BytesIO(content)
    return aiotus.upload(endpoint, file, ENCODED, None, EAGER, headers, chunksize=chunk)


def send_parts_by_aiotus(
    endpoint: str, headers: Mapping[str, str], content: bytes
) -> Coroutine[Any, Any, Any]:
    """Three files that become one, each a part of its own."""
    files = [io.BytesIO(content) for _ in range(3)]
    return aiotus.upload_multiple(
        endpoint, files, ENCODED, None, EAGER, headers, MIB, parallel_uploads=3
    )
