"""The digests of uploads come by themselves, and nobody who works has to wait for them."""

import hashlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import await_job, create, offset_of, patch, upload

MIB = 1024 * 1024
LARGE_BYTES = 1024 * MIB
PIECES = 16
TRIM = {"operation": "trim", "params": {"start": 0.5, "end": 1.5}}


def large_upload(api: httpx.Client) -> str:
    """An upload whose digest takes a while: of zeros, so that it is soon there."""
    path = create(api, LARGE_BYTES)
    piece = bytes(LARGE_BYTES // PIECES)
    for n in range(PIECES):
        assert patch(api, path, n * len(piece), piece).status_code == 204
    return path.rsplit("/", 1)[-1]


def seconds_of_work(api: httpx.Client, clip: bytes) -> tuple[float, float]:
    """The median PATCH of a megabyte, and a whole trim."""
    took = []
    path, piece = create(api, 100 * MIB), os.urandom(MIB)
    for n in range(30):
        began = time.monotonic()
        assert patch(api, path, n * MIB, piece).status_code == 204
        took.append(time.monotonic() - began)
    assert offset_of(api, path) == 30 * MIB
    batch_id = upload(api, clip, filename="clip.mp4").headers["tidemill-batch"]
    began = time.monotonic()
    queued = api.post("/api/v1/jobs", json={**TRIM, "batch_id": batch_id}).json()
    assert await_job(api, queued["id"])["status"] == "completed"
    return statistics.median(took), time.monotonic() - began


def has_digest(api: httpx.Client, upload_id: str) -> bool:
    return api.get(f"/api/v1/uploads/{upload_id}").json()["sha256"] is not None


def test_digests_come_and_keep_no_patch_and_no_job_waiting(
    make_server: Callable[..., Server], short_clip: Path
) -> None:
    server = make_server({"FSYNC": "off"}).start()
    clip = short_clip.read_bytes()
    with server.client() as api:
        seconds_of_work(api, clip)  # warm
        alone = seconds_of_work(api, clip)
        uploads = [large_upload(api) for _ in range(3)]
        beside = seconds_of_work(api, clip)
        assert not has_digest(api, uploads[-1]), "the digests were there before the work was done"
        # A quiet machine shows hardly a difference; a busy one is never twice as slow for this.
        assert beside[0] < 2 * alone[0] + 0.02, (alone, beside)
        assert beside[1] < 2 * alone[1] + 0.5, (alone, beside)
        for upload_id in uploads:
            wait_for(lambda u=upload_id: has_digest(api, u), "the digest", 60)  # type: ignore[misc]
        expected = hashlib.sha256()
        for _ in range(PIECES):
            expected.update(bytes(LARGE_BYTES // PIECES))
        told = api.get(f"/api/v1/uploads/{uploads[0]}").json()
        assert told["sha256"] == expected.hexdigest()
        (file,) = api.get(f"/api/v1/batches/{told['batch_id']}").json()["files"]
        assert file["sha256"] == expected.hexdigest()
