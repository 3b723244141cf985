"""The service under test, and a client that looks after all that failed at what it changed."""

import base64
import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pytest

from tests.conformance.raw import Answer, Ended, Headers, Line
from tests.fakes.body_ways import OneWay, Way
from tests.fakes.served import TUS, wait_for

TYPE = "application/offset+octet-stream"
MAX = 4_000_000
TABLES = ("uploads", "sessions", "batches", "tombstones")
LATER = {"uploads": {"sha256"}}
"""Columns that are filled in whenever nothing else is to do."""

as_served = pytest.mark.parametrize("service", [Way.LENT], indirect=True, ids=str)
"""For what is the same on both ways of a body, since it has none or none of it is taken."""

Body = bytes | Sequence[bytes] | None
NO_BYTES: tuple[Body, ...] = (b"", ())


Rows = dict[str, list[tuple[Any, ...]]]


class Service(OneWay):
    """The service as the command runs it, on one way of its bodies."""

    def has_ended(self, port: int, *, others: bool) -> bool:
        """Whether the end of that client's connection was seen, and unless ``others`` are still there,
        its requests have come to theirs.
        """
        return port in self.lending.ended and (others or not self._server.server_state.tasks)


@dataclass(frozen=True, slots=True)
class State:
    """Every row of the tables that uploads live in, and size and digest of every upload's bytes."""

    rows: Rows
    files: dict[str, tuple[int, str]]

    def without(self, upload_id: str) -> "State":
        """All of it but one upload."""
        rows = {
            table: [row for row in found if upload_id not in row]
            for table, found in self.rows.items()
        }
        return State(rows, {name: file for name, file in self.files.items() if name != upload_id})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request without an answer yet, and how things were when it was begun.

    ``body``: what is known of it; None where a test sends it by hand.
    """

    method: str
    path: str
    headers: Headers
    before: State
    changes: int
    body: bytes | None = None

    @property
    def is_read(self) -> bool:
        return self._real_method in {"HEAD", "GET", "OPTIONS"}

    @property
    def may_leave_bytes(self) -> bool:
        """Whether what came of a body may stay when it fails in the middle."""
        return self._real_method == "PATCH" and "upload-checksum" not in self._named

    @property
    def _real_method(self) -> str:
        return self._named.get("x-http-method-override", self.method).upper()

    @property
    def _named(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers}


class Watched(Line):
    """A connection that has each request looked after that is refused, or ends without an answer."""

    def __init__(self, tus: "Tus") -> None:
        super().__init__(tus.service.port)
        self._tus = tus
        self.port: int = self.socket.getsockname()[1]
        tus.service.lending.ended.discard(self.port)
        self._asked: list[Asked] = []
        self._body: bytes | None = None
        self._is_lent = False

    def ask(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes | Sequence[bytes] | None = None,
    ) -> Answer:
        self._body = body if isinstance(body, bytes) else b"".join(body or ())
        self._is_lent = False
        try:
            answer = super().ask(method, path, headers, body)
        finally:
            self._body = None
        is_sized = isinstance(body, bytes) and len(body) > 1
        if is_sized and answer.status in {201, 204} and "upload-offset" in answer:
            assert self._is_lent == (self._tus.service.lending.way is Way.LENT)
        return answer

    def send_head(self, method: str, path: str, headers: Headers) -> None:
        self._asked.append(self._tus.begin(method, path, headers, self._body))
        super().send_head(method, path, headers)

    def send_body(self, body: bytes) -> None:
        self._is_lent = self._tus.service.lending.send(self.socket, body)

    def answer(self, *, is_head: bool = False) -> Answer:
        try:
            answer = super().answer(is_head=is_head)
        except Ended:
            self._look_after_all()
            raise
        if answer.status != 100:
            self._tus.look_after(self._asked.pop(0), answer)
        return answer

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, tb)
        if kind is None:
            self._look_after_all()

    def _look_after_all(self) -> None:
        asked, self._asked = self._asked, []
        if asked:
            self._tus.await_end(self.port, len(asked))
        for each in asked:
            self._tus.look_after(each, None)


class Tus:
    """A client of one service. All that fails is followed by a look at rows and bytes: after a refusal
    they are as before. A PATCH that the service could not go on with, or that ended without an answer,
    may have left a true beginning of its body, which HEAD tells.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._digests: dict[tuple[str, int, int], str] = {}
        self._queries: dict[str, str] = {}
        self._open = 0
        self._changes = 0
        self._latest: State | None = None

    def line(self) -> Watched:
        return Watched(self)

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
        with contextlib.nullcontext(on) if on else self.line() as line:
            answer = line.ask(method, path, pairs, body)
        assert answer["tus-resumable"] == "1.0.0"
        return answer

    # --- what became of what failed --------------------------------------------------------------

    def begin(self, method: str, path: str, headers: Headers, body: bytes | None) -> Asked:
        self._open += 1
        return Asked(method, path, headers, self.state(), self._changes, body)

    def look_after(self, asked: Asked, answer: Answer | None) -> None:
        """Look at what a request left. ``answer`` None: it had none."""
        self._open -= 1
        if answer is not None and answer.status < 400:
            if not asked.is_read:
                self._changes += 1
                # Who is refused later has changed nothing of what this one did.
                self._latest = self.state() if self._open else None
            return
        before = asked.before
        if asked.changes != self._changes and self._latest is not None:
            before = self._latest
        if answer is not None:
            assert "tidemill-batch" not in answer
        if (answer is None or answer.status >= 500) and asked.may_leave_bytes:
            self._check_beginning(asked, before)
            return
        what = "was refused" if answer else "had no answer"
        assert self.state() == before, f"{asked.method} {asked.path} {what} and changed something"

    def _check_beginning(self, asked: Asked, before: State) -> None:
        """See that all but one upload is as before, and that one what it was and a bit of the body."""
        upload_id, now = asked.path.rpartition("/")[2], self.state()
        assert now.without(upload_id) == before.without(upload_id)
        size, digest = before.files.get(upload_id, (0, hashlib.sha256().hexdigest()))
        stored = self.stored(asked.path)
        assert hashlib.sha256(stored[:size]).hexdigest() == digest
        assert asked.body is None or asked.body.startswith(stored[size:])
        head = self.service.http.head(asked.path, headers=TUS)
        if head.status_code != 423:
            assert (head.status_code, head.headers["upload-offset"]) == (200, str(len(stored)))

    def await_end(self, port: int, requests: int) -> None:
        """Wait until nothing more comes of a connection that had so many requests under way."""
        others = self._open > requests
        wait_for(lambda: self.service.has_ended(port, others=others))

    def state(self) -> State:
        with contextlib.closing(sqlite3.connect(self.service.data / "tidemill.db")) as db:
            if not self._queries:
                self._queries = {table: _query(db, table) for table in TABLES}
            rows = {table: db.execute(query).fetchall() for table, query in self._queries.items()}
        return State(rows, dict(self._bytes()))

    def _bytes(self) -> Iterator[tuple[str, tuple[int, str]]]:
        for path in sorted((self.service.data / "uploads").iterdir()):
            found = path.stat()
            key = (path.name, found.st_size, found.st_mtime_ns)
            if key not in self._digests:
                self._digests[key] = hashlib.sha256(path.read_bytes()).hexdigest()
            yield path.name, (found.st_size, self._digests[key])

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
