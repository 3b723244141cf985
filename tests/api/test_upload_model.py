"""Every order of requests around a few uploads, over real sockets, held against a plain model.

Created, sent in pieces right and wrong, broken off, left hanging, looked at, put together, expired,
terminated, with sweeps in between. After each step HEAD, the rows and the files on the disk are as the
model says, and a request that was refused has changed nothing.
"""

import contextlib
import os
import random
import sqlite3
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.body_ways import Way, smallest_lent
from tests.fakes.served import TUS, settings_for
from tests.fakes.tus_client import RawRequest
from tests.fakes.upload_model import (
    MOST,
    Age,
    Body,
    Creation,
    End,
    Fault,
    Life,
    Model,
    ModelUpload,
    Patch,
    Sum,
    gone,
)
from tests.fakes.upload_wire import Answer, Counted, until

Trouble = tuple[int, Sum | None, Fault | None]

AGES_AGO = timedelta(days=30)
PIECE = 256 * 1024
PICK = st.integers(0, 11)
SEED = st.integers(0, 2**32 - 1)
LENGTHS = None, None, 0, 1, 7, 23, 40, 300, PIECE, PIECE + 1, 700_000, MOST, MOST + 1
SHARES = "all", "all", "some", "some", "some", "none", "one more", "much more"
ENDS = (*[End.WHOLE] * 5, End.FIN, End.FIN, End.RESET, End.HANGS, End.HANGS)
TROUBLES: tuple[Trouble, ...] = (
    *[(0, None, None)] * 10,
    *[(off_by, None, None) for off_by in (1, -1, -1, 5, MOST)],
    *[(0, Sum.RIGHT, None)] * 9,
    *[(0, checksum, None) for checksum in (Sum.WRONG, Sum.WRONG, Sum.UNKNOWN, Sum.GARBLED)],
    *[(0, None, fault) for fault in Fault],
    (1, Sum.WRONG, None),
    (-1, None, Fault.VERSION),
    (0, Sum.UNKNOWN, Fault.CONTENT_TYPE),
)
"""What is wrong with a request, if anything: how far the offset is off, the checksum, something else."""
SWEEPS = "gc_files", "gc_files", "unclaimed_uploads", "spent_inputs"
COLUMNS = {
    "uploads": "id, status, length, session_id, batch_id, metadata_raw, completed_at, spent_at",
    "sessions": "id, status, expected_files, batch_id",
    "batches": "id",
}
"""What a refused request leaves as it was. When a row was last touched is nobody's business."""


STEPS = st.lists(st.tuples(st.integers(0, 19), PICK, SEED), min_size=10, max_size=30)
"""What is done, to which upload, and the seed of everything else: none of it hangs on what happened."""


class Example:
    """Clients and sweeps around a few uploads of one service, which all examples share."""

    served: ClassVar[Counted]
    rows: ClassVar[sqlite3.Connection]
    knows: ClassVar[frozenset[str]]
    tries: ClassVar[list[int]]

    def __init__(self) -> None:
        self.model = Model(self.knows)
        self.hung: dict[str, RawRequest] = {}
        self.sessions: list[str] = []
        # What lies in a file beyond what counts, while a body with a checksum hangs.
        self.unverified: dict[str, bytes] = {}
        self.folder = self.served.data / "uploads"
        self.touched: ModelUpload | None = None
        self.seed = self.drawn = 0

    def step(self, what: int, pick: int, seed: int) -> None:
        """Do one thing, if it can be done now; most often some PATCH."""
        source, alive = self._source(seed), len(self.model.alive())
        match what:
            case 0 | 1 if alive < 4:
                self.create(source.choice(LENGTHS), seed, in_session=source.random() < 0.5)
            case 2 if alive < 5 and "concatenation" in self.model.knows:
                self.create_part(source.choice([3, 10, 10, PIECE + 1]), seed)
            case 3 | 4 if self.parts() and alive < 7:
                picks = [source.randrange(12) for _ in range(source.randint(1, 3))]
                self.put_together(picks, source.randint(0, 8))
            case 5 if any(each.length is None for each in self.model.alive()):
                self.declare(pick, source.choice([0, 1, 100, PIECE, -1, MOST]), seed)
            case 6 if alive:
                self.declare_again(pick, source.choice([0, 1, 7]))
            case 7 if source.random() < 0.5:
                self.terminate(pick, override=source.random() < 0.3)
            case 8:
                self.options(
                    source.choice(["/files", "/files/", f"/files/{'a' * 32}", "/files/.."])
                )
                self.download(pick, (source.getrandbits(30), source.getrandbits(30)))
            case 9 if self.old_enough():
                self.grow_old(pick)
            case 10 | 11:
                self.sweep(source.choice(SWEEPS))
            case _:
                self.patch(pick, seed)
        self.everything_is_as_the_model_says()

    def clean(self) -> None:
        for upload_id in list(self.hung):
            self.let_go(upload_id)
        for upload in self.model.uploads.values():
            head = self.head(upload.id)
            if batch := head.headers.get("tidemill-batch"):
                self.served.ask("DELETE", f"/api/v1/batches/{batch}?cancel=true")
            elif head.status == 200:
                self.served.ask("DELETE", f"/files/{upload.id}", TUS)
        for session in self.sessions:
            self.served.ask("DELETE", f"/api/v1/upload/{session}")

    # --- creation ---

    def begin(self, length: int, seed: int, *, deferred: bool) -> None:
        self.seed = seed
        self._create(Creation(length))
        if deferred:
            self._create(Creation(None, session=self.open_session()))
        if "concatenation" in self.model.knows:
            self._create(Creation(length, Body(b"p" * length), partial=True))

    def create(self, length: int | None, seed: int, *, in_session: bool) -> None:
        source, body = self._source(seed), None
        _, checksum, fault = self._trouble(source)
        if source.random() < 0.6:
            rest = 5_000 if length is None else min(length, MOST)
            body = self._body(source, rest, may_hang=False)
        session = self.open_session() if in_session else None
        sums = checksum if body else None
        self._create(Creation(length, body, session, checksum=sums, fault=fault))

    def create_part(self, length: int, seed: int) -> None:
        body = self._body(self._source(seed), length, may_hang=False)
        self._create(Creation(length, body, partial=True))

    def _create(self, creation: Creation) -> None:
        before = self.state()
        refusals = self.model.creation_refusals(creation)
        answer = self.served.create_with(creation)
        body = creation.body
        if body is not None and body.end is not End.WHOLE:
            # Whoever leaves in the middle has no address: nothing stays, unless it was the end.
            self._note_left_creation(creation, before)
            return
        if refusals:
            assert answer.status in refusals, answer
            assert self.state() == before
            return
        assert answer.status == 201, answer
        upload = self._note_creation(creation, answer.upload_id)
        assert (answer.headers.get("tidemill-batch") is not None) == (
            upload.is_complete and upload.makes_batch
        )
        if body is not None and body.data:
            assert answer.headers["upload-offset"] == str(len(body.data))

    def _note_creation(self, creation: Creation, upload_id: str) -> ModelUpload:
        data = creation.body.arrived if creation.body else b""
        upload = ModelUpload(
            upload_id, creation.length, data, is_part=creation.partial, session=creation.session
        )
        upload.settle()
        self.model.uploads[upload_id] = self.touched = upload
        return upload

    def _note_left_creation(self, creation: Creation, before: Any) -> None:
        new = {row[0] for row in self.state()["uploads"]} - {row[0] for row in before["uploads"]}
        assert creation.body is not None
        if new and creation.body.is_whole and not self.model.creation_refusals(creation):
            (upload_id,) = new
            self._note_creation(creation, upload_id)
        else:
            assert not new

    def put_together(self, picks: list[int], unknown: int) -> None:
        parts = self.parts()
        chosen = [parts[pick % len(parts)] for pick in picks]
        paths = [f"/files/{part.id}" for part in chosen]
        if unknown == 0:
            paths.append(f"/files/{'0' * 32}")
        before = self.state()
        headers = TUS | {"Upload-Concat": "final;" + " ".join(paths)}
        answer = self.served.ask("POST", "/files/", headers)
        same = [
            each
            for each in self.model.uploads.values()
            if each.parts == tuple(part.id for part in chosen) and not each.life.is_over
        ]
        if same and unknown:
            assert (answer.status, answer.upload_id) == (201, same[0].id), answer
            assert self.state() == before
        elif unknown and all(part.is_whole and not part.life.is_over for part in chosen):
            assert answer.status == 201, answer
            self._note_final(answer, chosen)
        else:
            assert 400 <= answer.status < 500, answer
            assert self.state() == before

    def _note_final(self, answer: Answer, parts: list[ModelUpload]) -> None:
        data = b"".join(part.data for part in parts)
        final = ModelUpload(
            answer.upload_id, len(data), data, parts=tuple(part.id for part in parts)
        )
        final.settle()
        self.model.uploads[final.id] = final
        for part in parts:
            part.life = Life.USED
            if part.id in self.hung:
                self.let_go(part.id)

    def parts(self) -> list[ModelUpload]:
        return [each for each in self.model.uploads.values() if each.is_part]

    # --- PATCH ---

    def patch(self, pick: int, seed: int) -> None:
        self._send(self.any_upload(pick), self._source(seed))

    def _send(self, upload: ModelUpload, source: random.Random) -> None:
        """One PATCH of which everything but its upload comes from a seed: so all kinds are tried."""
        off_by, checksum, fault = self._trouble(source)
        rest = 3_000 if upload.length is None else upload.length - len(upload.data)
        may_hang = checksum in {None, Sum.RIGHT} and upload.life is Life.RECEIVING
        body = self._body(source, rest, may_hang=may_hang, may_reset=checksum is None)
        patch = Patch(
            max(0, len(upload.data) + off_by),
            body,
            checksum=checksum,
            fault=fault,
            override=source.random() < 0.2,
        )
        self._patch(upload, patch)

    def _source(self, seed: int) -> random.Random:
        """Another one at every step of every example, also where Hypothesis likes one seed best."""
        self.drawn += 1
        return random.Random(f"{self.seed} {self.drawn} {seed}")

    def _trouble(self, source: random.Random) -> Trouble:
        """A service that knows no checksums refuses them all: there is no point in trying often."""
        off_by, checksum, fault = source.choice(TROUBLES)
        if checksum in {Sum.RIGHT, Sum.WRONG} and "checksum" not in self.model.knows:
            checksum = None
        return off_by, checksum, fault

    def _body(
        self, source: random.Random, rest: int, *, may_hang: bool, may_reset: bool = True
    ) -> Body:
        chunked, end = source.random() < 0.5, source.choice(ENDS)
        sizes = {"all": rest, "none": 0, "one more": rest + 1, "much more": rest + 300_000}
        size = sizes.get(source.choice(SHARES), source.randint(0, rest))
        sent = source.choice([0, size, source.randint(0, size), source.randint(0, size)])
        hangs_no_more = end is End.HANGS and not chunked and sent == size
        if end is End.RESET and not may_reset:
            end = End.FIN
        if hangs_no_more or (end in {End.HANGS, End.RESET} and not may_hang):
            end = End.FIN
        return Body(source.randbytes(size), chunked, end, sent)

    def declare(self, pick: int, more: int, seed: int) -> None:
        """Tell a deferred length, with a body or without."""
        deferred = [each for each in self.model.alive() if each.length is None]
        upload = deferred[pick % len(deferred)]
        declared = max(0, len(upload.data) + more)
        body = self._body(self._source(seed), max(0, min(more, MOST)), may_hang=True)
        self._patch(upload, Patch(len(upload.data), body, declared))

    def declare_again(self, pick: int, other: int) -> None:
        """A length that stands can be told again, and not changed."""
        alive = self.model.alive()
        upload = alive[pick % len(alive)]
        if upload.length is not None:
            self._patch(upload, Patch(len(upload.data), Body(), upload.length + other))

    def _patch(self, upload: ModelUpload, patch: Patch) -> None:
        self.touched = upload
        refusals = self.model.refusals(upload, patch)
        if refusals and patch.body.end is End.HANGS:
            return
        if upload.id in self.unverified:
            self.let_go(upload.id)
        before, body = self.state(), patch.body
        will_be = upload.data if refusals else upload.data + body.arrived

        def has_arrived() -> bool:
            """What is to be seen before a line is reset: a reset may take with it what was sent."""
            if refusals or body.is_whole:
                return self.served.is_quiet
            return (self._stored(upload) or b"") == will_be

        answer, hung = self.served.patch_with(upload.id, patch, has_arrived)
        if upload.id in self.hung:
            # Whether it was preempted, or the newcomer was refused before that: it ends here.
            self.let_go(upload.id)
        if hung is not None:
            self.hung[upload.id] = hung
            start = upload.data
            self.model.after_patch(upload, patch)
            if patch.checksum is not None:
                self.unverified[upload.id] = start + body.arrived
            self._await(upload)
        elif refusals:
            assert patch.body.end is not End.WHOLE or answer.status in refusals, (answer, refusals)
            self._note_refusal(upload, patch, refusals, before)
        else:
            assert patch.body.end is not End.WHOLE or answer.status == 204, answer
            self.model.after_patch(upload, patch)
            if answer.status == 204:
                self._check_taken(upload, answer)

    def _check_taken(self, upload: ModelUpload, answer: Answer) -> None:
        assert answer.headers["upload-offset"] == str(len(upload.data))
        assert (answer.headers.get("tidemill-upload") == upload.id) == upload.is_complete
        assert ("tidemill-batch" in answer.headers) == (upload.is_complete and upload.makes_batch)

    def _note_refusal(
        self, upload: ModelUpload, patch: Patch, refusals: set[int], before: Any
    ) -> None:
        if upload.age is Age.OLD:
            upload.age = Age.UNCERTAIN
        if patch.declared is not None and upload.length is None and self._stands(upload, refusals):
            upload.length = patch.declared  # stored before the body, which then was refused
            upload.settle()
            return
        assert self.state() == before

    def _stands(self, upload: ModelUpload, refusals: set[int]) -> bool:
        return refusals <= {413, 460} and self._told_length(upload) is not None

    def _told_length(self, upload: ModelUpload) -> int | None:
        told = self.head(upload.id).headers.get("upload-length")
        return None if told is None else int(told)

    def let_go(self, upload_id: str) -> None:
        self.served.let_go(self.hung.pop(upload_id))
        self.unverified.pop(upload_id, None)
        self.served.wait_until_quiet()

    def _await(self, upload: ModelUpload) -> None:
        """Wait until what hangs is in the file, which it is very soon."""
        until(lambda: self.served.container.locks.is_held(upload.id), "the lock of what hangs")
        arrived = self.unverified.get(upload.id, upload.data)
        until(lambda: (self._stored(upload) or b"") == arrived, "the bytes that hang")
        until(lambda: self._told_length(upload) == upload.length, "the length that was told")

    # --- the rest ---

    def terminate(self, pick: int, *, override: bool) -> None:
        upload = self.any_upload(pick)
        if upload.id in self.unverified:
            self.let_go(upload.id)
        before = self.state()
        headers = TUS | ({"X-HTTP-Method-Override": "DELETE"} if override else {})
        answer = self.served.ask("POST" if override else "DELETE", f"/files/{upload.id}", headers)
        if upload.id in self.hung:
            self.let_go(upload.id)
        if upload.life is Life.USED:
            assert answer.status in {403, 404, 410}, answer
            assert self.state() == before
        elif upload.life.is_over:
            assert answer.status == gone(upload), answer
            assert self.state() == before
        elif upload.is_complete and upload.makes_batch:
            assert answer.status == 403, answer
            assert self.state() == before
        else:
            assert answer.status == 204, answer
            upload.life = Life.TERMINATED

    def download(self, pick: int, ends: tuple[int, int]) -> None:
        upload = self.any_upload(pick)
        answer = self.served.ask("GET", f"/files/{upload.id}")
        if upload.is_part:
            assert answer.status in {200, 403, 404, 409, 410}, answer
        elif upload.life.is_over:
            assert answer.status == gone(upload), answer
        elif not upload.is_complete:
            assert answer.status == 409, answer
        else:
            assert (answer.status, answer.body) == (200, upload.data)
            if upload.data:
                first, last = sorted(end % len(upload.data) for end in ends)
                part = {"Range": f"bytes={first}-{last}"}
                answer = self.served.ask("GET", f"/files/{upload.id}", part)
                assert (answer.status, answer.body) == (206, upload.data[first : last + 1])

    def options(self, path: str) -> None:
        assert self.served.ask("OPTIONS", path).status == 204

    def grow_old(self, pick: int) -> None:
        """An upload that nothing touched for longer than it lives. Until a sweep came it still does."""
        uploads = self.old_enough()
        upload = uploads[pick % len(uploads)]
        then = self.served.container.clock.now() - AGES_AGO
        self.served.write(
            lambda tx: tx.uploads.touch(
                upload.id, active_at=then, expires_at=then, recorded_offset=0, synced_offset=0
            )
        )
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.folder / upload.id, (then.timestamp(), then.timestamp()))
        upload.age = Age.OLD

    def old_enough(self) -> list[ModelUpload]:
        return [
            each
            for each in self.model.uploads.values()
            if each.life is Life.RECEIVING and each.id not in self.hung
        ]

    def sweep(self, name: str) -> None:
        answer = self.served.ask("POST", f"/api/v1/sweeps/{name}")
        assert answer.status == 200, answer
        if name != "gc_files":
            return
        for upload in self.model.alive():
            if upload.life is not Life.RECEIVING or upload.age is Age.YOUNG:
                continue
            if upload.age is Age.OLD or self.head(upload.id).status == 410:
                upload.life = Life.EXPIRED

    # --- what must always be so ---

    def everything_is_as_the_model_says(self) -> None:
        self.tries[0] += 1
        if self.touched is not None:
            self._check_head(self.touched)
        rows = {row[0]: row[1:] for row in self.state()["uploads"]}
        kept = {each.id: each for each in self.model.alive()}
        assert set(rows) - self._used() == set(kept)
        for upload in kept.values():
            assert rows[upload.id][:2] == (upload.life.value, upload.length)
            stored = self.unverified.get(upload.id, upload.data)
            assert (self._stored(upload) or b"") == stored, "other bytes than were sent"
        with_files = {each.id for each in kept.values() if each.data or each.is_complete}
        found = set(os.listdir(self.folder))  # noqa: PTH208 - names
        assert found - set(self.hung) == with_files - set(self.hung)

    def _used(self) -> set[str]:
        return {each.id for each in self.model.uploads.values() if each.life is Life.USED}

    def _check_head(self, upload: ModelUpload) -> None:
        head = self.head(upload.id)
        if upload.life is Life.USED:
            return
        if upload.life.is_over:
            assert head.status == gone(upload), (upload.life, head)
            return
        assert head.status == 200, head
        assert head.headers["upload-offset"] == str(len(upload.data))
        if upload.length is None:
            assert head.headers["upload-defer-length"] == "1"
        else:
            assert head.headers["upload-length"] == str(upload.length)
        assert ("tidemill-batch" in head.headers) == (upload.is_complete and upload.makes_batch)
        assert ("tidemill-upload" in head.headers) == upload.is_complete
        if upload.is_complete and upload.id in self.hung:
            self.let_go(upload.id)

    # --- looking ---

    def any_upload(self, pick: int) -> ModelUpload:
        """Mostly one that is being sent, sometimes any other, also one that is gone."""
        receiving = [each for each in self.model.alive() if each.life is Life.RECEIVING]
        uploads = receiving if receiving and pick < 9 else list(self.model.uploads.values())
        self.touched = uploads[pick % len(uploads)]
        return self.touched

    def open_session(self) -> str:
        session = self.served.open_session()
        self.sessions.append(session)
        return session

    def head(self, upload_id: str) -> Answer:
        return self.served.ask("HEAD", f"/files/{upload_id}", TUS)

    def state(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row, as far as requests may not change it, and every file with its size."""
        found: dict[str, list[tuple[Any, ...]]] = {
            table: self.rows.execute(f"SELECT {columns} FROM {table} ORDER BY 1").fetchall()  # noqa: S608
            for table, columns in COLUMNS.items()
        }
        found["files"] = sorted(self._sizes())
        return found

    def _sizes(self) -> Iterator[tuple[str, int]]:
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                # An empty file may be no more than a lock.
                if entry.name in self.unverified:
                    continue
                if size := entry.stat().st_size:
                    yield entry.name, size

    def _stored(self, upload: ModelUpload) -> bytes | None:
        try:
            return (self.folder / upload.id).read_bytes()
        except FileNotFoundError:
            return None


def run_example(seed: int, steps: list[tuple[int, int, int]]) -> None:
    example = Example()
    source = random.Random(seed)
    try:
        length = source.choice([5, 9, 40, PIECE + 1])
        example.begin(length, seed, deferred=source.random() < 0.5)
        for step in steps:
            example.step(*step)
    finally:
        example.clean()
    assert os.listdir(example.folder) == []  # noqa: PTH208 - names


def profile(examples: int, *, derandomize: bool) -> settings:
    return settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(profile(45, derandomize=True), id="short", marks=pytest.mark.timeout(600)),
        pytest.param(
            profile(2_000, derandomize=False),
            id="long",
            marks=[pytest.mark.long, pytest.mark.timeout(3600)],
        ),
    ],
)
@pytest.mark.parametrize("way", Way, ids=str)
def test_every_order_of_requests_leaves_what_the_model_says(
    chosen: settings, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings_for(
        tmp_path / "data",
        jobs={"workers": 0},
        data={"fsync": "off"},
        service={"log_level": "error"},
        uploads={"max_upload_bytes": MOST},
    )
    with smallest_lent(way), Counted(config, way) as served:
        extensions = served.ask("OPTIONS", "/files/").headers["tus-extension"]
        tries = [0]
        uri = f"file:{served.data / 'tidemill.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as rows:
            monkeypatch.setattr(Example, "served", served, raising=False)
            monkeypatch.setattr(Example, "rows", rows, raising=False)
            monkeypatch.setattr(Example, "knows", frozenset(extensions.split(",")), raising=False)
            monkeypatch.setattr(Example, "tries", tries, raising=False)
            chosen(given(SEED, STEPS)(run_example))()
        lent = served.lending.count
        sys.stdout.write(f"\n{tries[0]} steps, {served.begun} requests, {lent} of them lent\n")
        assert (lent > tries[0] // 20) == (way is Way.LENT)
        storage = served.http.get("/api/v1/storage").json()
        kept = {each["kind"]: each["size_bytes"] for each in storage["kinds"]}
        assert (kept["uploads"], storage["pending_cleanups"]) == (0, 0)
