"""The service under test, and a client that looks after every refusal whether anything changed."""

import base64
import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.api.connection import OfferConnection
from tests.conformance.raw import Answer, Line
from tests.fakes.served import Served, wait_for

TYPE = "application/offset+octet-stream"
MAX = 4_000_000
TABLES = ("uploads", "sessions", "batches", "tombstones")
LATER = {"uploads": {"sha256"}}
"""Columns that are filled in whenever nothing else is to do."""

Body = bytes | Sequence[bytes] | None
NO_BYTES: tuple[Body, ...] = (b"", ())


class Service(Served):
    """The application behind the protocol of the real server: it sees lost clients as that does."""

    http_protocol = OfferConnection


class Tus:
    """A client of one service. Every 4xx is followed by a look at rows and bytes."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._digests: dict[tuple[str, int, int], str] = {}
        self._queries: dict[str, str] = {}

    def line(self) -> Line:
        return Line(self.service.port)

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: Body = None,
        *,
        version: str | None = "1.0.0",
        on: Line | None = None,
    ) -> Answer:
        """Ask, on a connection of its own or ``on`` one, and check what holds for all answers."""
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        if version is not None:
            pairs.insert(0, ("Tus-Resumable", version))
        before = self.state()
        with contextlib.nullcontext(on) if on else self.line() as line:
            answer = line.ask(method, path, pairs, body)
        assert answer["tus-resumable"] == "1.0.0"
        if 400 <= answer.status < 500:
            assert self.state() == before, f"{method} {path} was refused and changed something"
            assert "tidemill-batch" not in answer
        return answer

    def state(self) -> tuple[dict[str, list[tuple[Any, ...]]], dict[str, str]]:
        """Every row of the tables that uploads live in, and the bytes of every upload."""
        with contextlib.closing(sqlite3.connect(self.service.data / "tidemill.db")) as db:
            if not self._queries:
                self._queries = {table: _query(db, table) for table in TABLES}
            rows = {table: db.execute(query).fetchall() for table, query in self._queries.items()}
        return rows, dict(self._bytes())

    def _bytes(self) -> Iterator[tuple[str, str]]:
        for path in sorted((self.service.data / "uploads").iterdir()):
            found = path.stat()
            key = (path.name, found.st_size, found.st_mtime_ns)
            if key not in self._digests:
                self._digests[key] = hashlib.sha256(path.read_bytes()).hexdigest()
            yield path.name, self._digests[key]

    # --- the usual calls -------------------------------------------------------------------------

    def create(self, length: int | None, body: Body = None, **headers: str) -> Answer:
        size = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
        kind = {} if body is None else {"Content-Type": TYPE}
        more = {"Content-Length": "0"} if body is None else {}
        return self.ask("POST", "/files/", {**size, **kind, **more, **named(headers)}, body)

    def new(self, length: int | None, **headers: str) -> str:
        """Create an upload and return its path."""
        answer = self.create(length, None, **headers)
        assert answer.status == 201, answer
        return answer["location"]

    def patch(self, path: str, offset: int | str, body: Body, **headers: str) -> Answer:
        usual = {"Content-Type": TYPE, "Upload-Offset": str(offset)}
        return self.ask("PATCH", path, {**usual, **named(headers)}, body)

    def head(self, path: str) -> Answer:
        return self.ask("HEAD", path)

    def delete(self, path: str) -> Answer:
        return self.ask("DELETE", path)

    def offset(self, path: str) -> int:
        answer = self.head(path)
        assert answer.status == 200, answer
        return int(answer["upload-offset"])

    def stored(self, path: str) -> bytes:
        """The bytes on the disk."""
        file = self.service.data / "uploads" / path.rpartition("/")[2]
        return file.read_bytes() if file.exists() else b""

    def await_stored(self, path: str, size: int) -> None:
        """Wait until so many bytes are on the disk."""
        wait_for(lambda: len(self.stored(path)) == size)

    def extensions(self) -> list[str]:
        return self.ask("OPTIONS", "/files/", version=None)["tus-extension"].split(",")

    def finished(self, *bodies: bytes) -> str:
        """Upload a file in several bodies and return its path."""
        path, offset = self.new(sum(map(len, bodies))), 0
        for body in bodies:
            assert self.patch(path, offset, body).status == 204
            offset += len(body)
        return path


def _query(db: sqlite3.Connection, table: str) -> str:
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    shown = ", ".join(f'"{name}"' for name in columns if name not in LATER.get(table, ()))
    return f"SELECT {shown} FROM {table} ORDER BY id"  # noqa: S608


def named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def code(answer: Answer) -> str:
    """The code of a refusal."""
    assert answer["content-type"] == "application/problem+json"
    found: dict[str, Any] = json.loads(answer.body)
    assert found["status"] == answer.status
    return str(found["code"])


def checksum(body: bytes, algorithm: str = "sha1") -> str:
    """What Upload-Checksum says of a body."""
    digest = hashlib.new(algorithm, body, usedforsecurity=False).digest()
    return f"{algorithm} {b64(digest)}"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
