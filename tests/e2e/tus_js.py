"""Every way to upload with tus-js-client: a table of its options and of the scenarios that set them."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.harness import PLAIN
from tests.e2e.heads import Head
from tests.e2e.node import CLIENTS, Run, Scenarios, Told
from tests.e2e.proxy import Proxy
from tests.e2e.resumed import ACCEPTED
from tests.e2e.wire import TUS, encode_metadata

MIB = 1024 * 1024
KIB = 1024
CLIP_BYTES = 3 * MIB
HOLD = 300 * KIB
"""More than is ever kept in memory, less than the smallest part."""
PATIENT = [0, 100, 200, 500, *[1000] * 60]
METADATA = {"filename": "clip ü.mp4", "filetype": "video/mp4"}
MARK = "x-scenario"
"""A header in which each scenario names itself, so that its requests are found again."""
BOUNDARIES = [
    {"start": 0, "end": MIB},
    {"start": MIB, "end": CLIP_BYTES - 800 * KIB},
    {"start": CLIP_BYTES - 800 * KIB, "end": CLIP_BYTES},
]
IN_CHUNKS = {"chunkSize": 256 * KIB}
DEFERRED = {**IN_CHUNKS, "uploadLengthDeferred": True}

# A wish each, as js/clients.mjs takes it. "made": the upload is made before, and its address given.
SCENARIOS: dict[str, dict[str, Any]] = {
    "as it comes": {"options": {"protocol": "tus-v1"}},
    "chunks of 64 KiB": {"chunkSize": 64 * KIB},
    "from a buffer": {"input": "buffer"},
    "from a buffer in chunks of 1 MiB": {"input": "buffer", "chunkSize": MIB},
    "from a stream": {"input": "stream", **IN_CHUNKS, "options": {"uploadSize": CLIP_BYTES}},
    "from a stream of unknown length": {"input": "stream", **DEFERRED},
    "from a buffer of unknown length": {"input": "buffer", **DEFERRED},
    "with the creation": {**IN_CHUNKS, "uploadDataDuringCreation": True},
    "of unknown length with the creation": {
        "input": "stream",
        **DEFERRED,
        "uploadDataDuringCreation": True,
    },
    "as POST": {"chunkSize": MIB, "options": {"overridePatchMethod": True}},
    "with request ids": {"chunkSize": MIB, "options": {"addRequestId": True}},
    "parallel 2 in chunks": {**IN_CHUNKS, "options": {"parallelUploads": 2}},
    "parallel 4": {"options": {"parallelUploads": 4}},
    "parallel with the creation": {
        **IN_CHUNKS,
        "uploadDataDuringCreation": True,
        "options": {"parallelUploads": 2},
    },
    "parallel as POST": {"options": {"parallelUploads": 2, "overridePatchMethod": True}},
    "parallel at boundaries": {
        "options": {
            "parallelUploads": 3,
            "parallelUploadBoundaries": BOUNDARIES,
            "metadataForPartialUploads": {"part": "of a clip"},
        }
    },
    "to a given address": {"made": True},
    "at an endpoint without its slash": {"path": "/files"},
    "retried as the page says": {"onShouldRetry": "always"},
    "a fingerprint and a storage of its own": {"own": ["fingerprint", "urlStorage"]},
    "kept after its success": {
        "own": ["urlStorage"],
        "options": {"removeFingerprintOnSuccess": False},
    },
    "not to be stored": {"own": ["urlStorage"], "options": {"storeFingerprintForResuming": False}},
    "read by the page": {"own": ["fileReader"], "chunkSize": MIB},
    "sent by the page": {"own": ["httpStack"]},
    "sent by the page in chunks": {"own": ["httpStack"], "input": "buffer", "chunkSize": MIB},
    # What only the newer one takes.
    "from a blob": {"input": "blob"},
    "from a file of the web": {"input": "file", "chunkSize": MIB},
    "from a stream of the web": {"input": "web-stream", **DEFERRED},
    "parallel 2 from a blob": {"input": "blob", "options": {"parallelUploads": 2}},
}
ALONE: dict[str, dict[str, Any]] = {"all with the creation": {"uploadDataDuringCreation": True}}
"""Which cannot go on where they were: see the tests of their own."""
ONLY_FIVE = {name for name in SCENARIOS if "web" in name or "blob" in name}
CASES = [
    (client, name)
    for client in CLIENTS
    for name in SCENARIOS
    if client == CLIENTS[1] or name not in ONLY_FIVE
]
OPTIONS: dict[str, str] = {
    "addRequestId": "with request ids",
    "chunkSize": "chunks of 64 KiB",
    "endpoint": "at an endpoint without its slash",
    "fileReader": "read by the page",
    "fingerprint": "a fingerprint and a storage of its own",
    "headers": "as it comes",
    "httpStack": "sent by the page",
    "metadata": "as it comes",
    "metadataForPartialUploads": "parallel at boundaries",
    "onAfterResponse": "as it comes",
    "onBeforeRequest": "as it comes",
    "onChunkComplete": "chunks of 64 KiB",
    "onError": "as it comes",
    "onProgress": "as it comes",
    "onShouldRetry": "retried as the page says",
    "onSuccess": "as it comes",
    "onUploadUrlAvailable": "as it comes",
    "overridePatchMethod": "parallel as POST",
    "parallelUploadBoundaries": "parallel at boundaries",
    "parallelUploads": "parallel 4",
    "protocol": "as it comes",
    "removeFingerprintOnSuccess": "kept after its success",
    "retryDelays": "as it comes",
    "storeFingerprintForResuming": "not to be stored",
    "uploadDataDuringCreation": "parallel with the creation",
    "uploadLengthDeferred": "of unknown length with the creation",
    "uploadSize": "from a stream",
    "uploadUrl": "to a given address",
    "urlStorage": "a fingerprint and a storage of its own",
}
"""Each option of either version, and a scenario that sets it."""


def parts_of(name: str) -> int:
    """How many uploads the client makes of the one file."""
    return int(SCENARIOS[name].get("options", {}).get("parallelUploads", 1))


def write_clip(folder: Path) -> Path:
    path = folder / "clip.mp4"
    path.write_bytes(os.urandom(CLIP_BYTES))
    return path


@dataclass(slots=True)
class Sending:
    """Scenarios that upload at once over one line."""

    node: Scenarios
    proxy: Proxy
    clip: Path
    headers: Mapping[str, str] = field(default_factory=dict)
    runs: dict[tuple[str, str], Run] = field(default_factory=dict)
    begin: int = 0

    def __post_init__(self) -> None:
        self.begin = len(self.proxy.heads)

    def start(self, client: str, name: str) -> None:
        chosen = dict((SCENARIOS | ALONE)[name])
        path = chosen.pop("path", "/files/")
        headers = {**self.headers, MARK: f"{client}: {name}"}
        wish = {
            "client": client,
            "endpoint": f"{self.proxy.url}{path}",
            "file": str(self.clip),
            "metadata": METADATA,
            "headers": headers,
            "retryDelays": PATIENT,
            **chosen,
        }
        if wish.pop("made", False):
            wish["uploadUrl"] = self._make(headers)
        self.runs[client, name] = self.node.start(wish)

    def finish(self) -> Iterator[tuple[str, Told, list[Head]]]:
        """Return of each its name, what it told and what it asked, once all have ended."""
        found = {case: run.finish() for case, run in self.runs.items()}
        heads = self.proxy.heads[self.begin :]
        for (client, name), told in found.items():
            mark = f"{client}: {name}"
            yield name, told, [head for head in heads if head.headers.get(MARK) == mark]

    def _make(self, headers: Mapping[str, str]) -> str:
        made = {
            "Upload-Length": str(CLIP_BYTES),
            "Upload-Metadata": encode_metadata(METADATA),
            **headers,
            **TUS,
        }
        response = httpx.post(
            f"{self.proxy.url}/files/", headers=made, trust_env=False, verify=PLAIN
        )
        assert response.status_code == 201, response.text
        return str(httpx.URL(self.proxy.url).join(response.headers["location"]))


def assert_as_chosen(name: str, told: Told, heads: list[Head]) -> None:
    """The options did what they are for; no upload was begun anew; all was asked for by this client."""
    shown = "\n".join([name, *map(str, heads)])
    (given,) = told.of("options")
    for option, scenario in OPTIONS.items():
        assert scenario != name or option in given["names"], f"{name} does not set {option}"
    assert len([head for head in heads if head.creates]) == parts_of(name), shown
    begun = [head for head in heads if _has_begun(head)]
    assert len({head.upload_id for head in begun}) == len(begun) <= parts_of(name), shown
    if parts_of(name) == 1:  # of its parts a client tells the page nothing
        assert told.of("url"), "onUploadUrlAvailable"
        assert told.of("chunk")[-1]["accepted"] == CLIP_BYTES, "onChunkComplete"
    check = CHECKS.get(name)
    assert check is None or check(told, heads), f"{shown}\n{told.without_progress}"


def _has_begun(head: Head) -> bool:
    """Whether it is a PATCH at the first byte that was taken."""
    return head.asked == "PATCH" and head.offset == 0 and head.status in ACCEPTED


def _creations(heads: list[Head]) -> list[Head]:
    return [head for head in heads if head.creates]


def _kept(told: Told) -> list[int]:
    return [event["count"] for event in told.of("kept")]


def _largest(heads: list[Head]) -> int:
    return max(head.body_bytes for head in heads)


CHECKS: dict[str, Callable[[Told, list[Head]], bool]] = {
    "chunks of 64 KiB": lambda _told, heads: _largest(heads) == 64 * KIB,
    "from a stream of unknown length": lambda _told, heads: (
        _creations(heads)[0].headers["upload-defer-length"] == "1"
    ),
    "with the creation": lambda _told, heads: _creations(heads)[0].body_bytes == 256 * KIB,
    "of unknown length with the creation": lambda _told, heads: (
        # Neither version sends bytes then, though they may.
        _creations(heads)[0].headers["upload-defer-length"] == "1"
        and _creations(heads)[0].body_bytes == 0
    ),
    "as POST": lambda _told, heads: not [head for head in heads if head.method == "PATCH"],
    "parallel as POST": lambda _told, heads: not [head for head in heads if head.method == "PATCH"],
    "with request ids": lambda _told, heads: (
        len({head.headers["x-request-id"] for head in heads}) == len(heads)
    ),
    "parallel with the creation": lambda _told, heads: (
        [head.body_bytes for head in _creations(heads)] == [256 * KIB] * 2
    ),
    "parallel at boundaries": lambda _told, heads: (
        sorted(int(head.headers["upload-length"]) for head in _creations(heads))
        == sorted(part["end"] - part["start"] for part in BOUNDARIES)
        and all(head.headers["upload-metadata"].startswith("part ") for head in _creations(heads))
    ),
    "to a given address": lambda told, _heads: (
        {e["method"] for e in told.of("request")} == {"HEAD", "PATCH"}
    ),
    "at an endpoint without its slash": lambda _told, heads: _creations(heads)[0].path == "/files",
    "retried as the page says": lambda told, _heads: bool(told.of("asked")),
    "a fingerprint and a storage of its own": lambda told, _heads: (
        _kept(told) == [1, 0] and told.of("kept")[0]["fingerprint"] == "own-clip ü.mp4"
    ),
    "kept after its success": lambda told, _heads: _kept(told) == [1],
    "not to be stored": lambda told, _heads: not told.of("kept"),
    "read by the page": lambda told, _heads: len(told.of("read")) >= 3,
    "sent by the page": lambda told, heads: (
        len(told.of("sent")) >= len(heads)
        and "chunked" in {head.headers.get("transfer-encoding") for head in heads}
    ),
    "sent by the page in chunks": lambda told, heads: len(told.of("sent")) >= len(heads),
}
