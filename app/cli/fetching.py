"""Downloading an output in as many pieces as it takes, and checking it before it gets its name."""

import base64
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

import httpx

from app.cli.client import WORTH_RETRYING, Patience, RefusedError, Server, describe, refusal

PIECE_BYTES = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)\Z")
_SHA256 = re.compile(r"sha-256=:([A-Za-z0-9+/=]+):")


@dataclass(frozen=True, slots=True)
class Source:
    """An output as the server describes it. ``sha256`` is hex."""

    path: str
    size_bytes: int
    sha256: str | None
    etag: str | None


class DamagedError(Exception):
    """What arrived, twice, is not what the server says it sent."""


class Fetching:
    """One download into ``<target>.part``, renamed to ``target`` once every byte is right."""

    def __init__(
        self,
        server: Server,
        http: httpx.Client,
        patience: Patience,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._server = server
        self._http = http
        self._patience = patience
        self._on_bytes = on_bytes

    def look(self, path: str) -> Source:
        """Return size, digest and tag of the output at ``path``. Raises RefusedError and GaveUpError."""
        while True:
            try:
                response = self._http.head(self._server.at(path))
            except httpx.TransportError as error:
                self._patience.wait(describe(error, self._server.url))
                continue
            if response.status_code in WORTH_RETRYING:
                self._patience.wait(f"the server answered {response.status_code}")
                continue
            if not response.is_success:
                raise refusal(response)
            self._patience.succeeded()
            digest = _SHA256.search(response.headers.get("repr-digest", ""))
            return Source(
                path=path,
                size_bytes=int(response.headers["content-length"]),
                sha256=base64.b64decode(digest.group(1)).hex() if digest else None,
                etag=response.headers.get("etag"),
            )

    def fetch(self, source: Source, target: Path) -> None:
        """Download to ``target``. A partial file of an earlier try is gone on with.

        Raises RefusedError, GaveUpError, and DamagedError when a second download from the start is
        wrong as well.
        """
        part = part_of(target)
        for fresh in (False, True):
            if fresh:
                part.unlink(missing_ok=True)
            self._fill(source, part)
            if source.sha256 is None or _sha256(part) == source.sha256:
                part.replace(target)
                return
        part.unlink(missing_ok=True)
        msg = "what arrived does not have the digest the server names"
        raise DamagedError(msg)

    def _fill(self, source: Source, part: Path) -> None:
        with part.open("ab") as out:
            if out.tell() > source.size_bytes:
                out.truncate(0)
            while (have := out.seek(0, os.SEEK_END)) < source.size_bytes:
                try:
                    self._get(source, out, have)
                except httpx.TransportError as error:
                    trouble = describe(error, self._server.url)
                else:
                    trouble = "the download stopped early"
                if out.tell() <= have:
                    self._patience.wait(trouble)
                elif out.tell() < source.size_bytes:
                    self._patience.succeeded()
                    self._patience.wait(trouble)
            self._patience.succeeded("The download is complete.")
            out.flush()
            os.fsync(out.fileno())

    def _get(self, source: Source, out: BinaryIO, have: int) -> None:
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and source.etag:
            headers["If-Range"] = source.etag
        with self._http.stream("GET", self._server.at(source.path), headers=headers) as response:
            if response.status_code in WORTH_RETRYING:
                return
            if not response.is_success:
                response.read()
                raise refusal(response)
            if response.status_code == HTTPStatus.PARTIAL_CONTENT:
                found = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
                if not found or int(found.group(1)) != have:
                    raise RefusedError(0, "", "the server sent another range than was asked for")
            else:
                out.truncate(0)
                have = 0
            for piece in response.iter_bytes(PIECE_BYTES):
                out.write(piece)
                have += len(piece)
                self._on_bytes(have)


def part_of(target: Path) -> Path:
    """Return where the bytes stand until they are complete and checked."""
    return target.with_name(f"{target.name}.part")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
