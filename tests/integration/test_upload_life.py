"""How long an unfinished upload lives: a day after each PATCH, a week at most, and never shorter than
its writer needs.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from app.domain.sweeps import SweepName, SweepReport, Trigger
from app.domain.tombstones import Reason, ThingKind
from app.domain.uploads import UploadStatus
from app.services.ports import UploadLocks
from app.services.sweeps import SweepService
from app.services.sweeps.uploads import ExpiredUploads, UploadWatch
from tests.fakes.clock import FakeClock
from tests.fakes.late_locks import LateLocks
from tests.fakes.tus_client import TusClient, raw_patch, until
from tests.fakes.tus_server import DAY, TusConfig, TusServer, tus_server

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
BODY = os.urandom(20_000)
PIECE = 1_000


@dataclass(frozen=True)
class Life:
    """An upload of ``BODY`` on a server whose time is the test's."""

    server: TusServer
    tus: TusClient
    clock: FakeClock
    upload_id: str
    born: datetime

    @property
    def file(self) -> Path:
        return self.server.file(self.upload_id)

    def send(self, count: int = PIECE) -> datetime:
        """Send the next bytes, and return what the answer says of the upload's end."""
        offset = self.tus.offset(self.upload_id)
        answer = self.tus.patch(self.upload_id, offset, BODY[offset : offset + count])
        assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(offset + count))
        self.was_written()
        return parsedate_to_datetime(answer.headers["upload-expires"])

    def was_written(self) -> None:
        """Have the file system say the test's time too."""
        now = self.clock.now().timestamp()
        os.utime(self.file, (now, now))

    def told(self) -> datetime:
        """What HEAD says of the upload's end."""
        return parsedate_to_datetime(self.tus.head(self.upload_id).headers["upload-expires"])

    def sweep(self, locks: UploadLocks | None = None) -> SweepReport:
        parts = self.server.parts
        gc_files = ExpiredUploads(
            parts.db,
            UploadWatch(parts.files, parts.store),
            locks or parts.locks,
            parts.uploads.disposal,
            parts.metrics,
            parts.uploads.policy,
        )
        service = SweepService(parts.db, self.clock, parts.metrics, [gc_files], leader="tests")
        report: SweepReport
        report, _ = self.server.do(service.run(SweepName.GC_FILES, Trigger.INTERVAL))
        assert report.errors == ()
        return report

    def assert_alive(self, offset: int) -> None:
        assert self.tus.offset(self.upload_id) == offset
        assert self.file.read_bytes() == BODY[:offset]

    def assert_ended(self, size: int) -> None:
        assert self.tus.head(self.upload_id).status_code == 410
        answer = self.tus.patch(self.upload_id, size, BODY[size:])
        assert (answer.status_code, answer.json()["reason"]) == (410, "expired")
        assert not self.file.exists()
        tombstone = self.server.read(
            lambda tx: tx.tombstones.find(ThingKind.UPLOAD, self.upload_id)
        )
        assert (tombstone.reason, tombstone.sweep) == (Reason.EXPIRED, "gc_files")
        assert tombstone.size_bytes == size

    def finish(self) -> None:
        offset = self.tus.offset(self.upload_id)
        if offset < len(BODY):
            answer = self.tus.patch(self.upload_id, offset, BODY[offset:])
            assert answer.status_code == 204
        row = self.server.read(lambda tx: tx.uploads.find(self.upload_id))
        assert row.status is UploadStatus.COMPLETED
        assert self.file.read_bytes() == BODY


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TusServer, FakeClock]]:
    # To the second, which is how exactly a header tells it.
    clock = FakeClock(datetime.now(UTC).replace(microsecond=0))
    config = TusConfig(clock=clock, expires_after=DAY)
    with tus_server(tmp_path_factory.mktemp("life") / "data", config) as server:
        yield server, clock


@pytest.fixture
def life(served: tuple[TusServer, FakeClock]) -> Iterator[Life]:
    """The only upload that can expire at its time."""
    server, clock = served
    with TusClient(server.url) as tus:
        upload_id = tus.new(len(BODY))
        yield Life(server, tus, clock, upload_id, clock.now())
        tus.delete(upload_id)


def test_each_patch_of_many_days_moves_the_end_a_day_on_up_to_seven(life: Life) -> None:
    cap = life.born + 7 * DAY
    offset = 0
    for _ in range(8):  # seven days of PATCHes that come 20 hours after one another
        life.clock.advance(20 * HOUR)
        assert life.sweep().removed == 0
        now = life.clock.now()
        assert life.send() == min(now + DAY, cap)
        offset += PIECE
        assert life.told() == min(now + DAY, cap)
        life.assert_alive(offset)
    assert life.told() == cap, "it was to slide until it could not"
    # Its last hours: a PATCH is taken as before, and moves nothing any more.
    life.clock.set(cap - SECOND)
    assert life.send() == cap
    offset += PIECE
    life.clock.set(cap)
    assert life.sweep().removed == 0
    life.assert_alive(offset)
    # It is gone when a sweep has ended it, and not before.
    life.clock.set(cap + SECOND)
    life.assert_alive(offset)
    assert life.send() == cap
    offset += PIECE
    assert life.sweep().removed == 1
    life.assert_ended(offset)


def test_a_day_without_a_patch_ends_it_whatever_came_before(life: Life) -> None:
    for _ in range(2):
        life.clock.advance(23 * HOUR)
        life.send()
    life.clock.advance(DAY)
    assert life.sweep().removed == 0
    life.assert_alive(2 * PIECE)
    life.clock.advance(SECOND)
    assert life.sweep().removed == 1
    life.assert_ended(2 * PIECE)


def test_a_whole_upload_of_many_days_completes(life: Life) -> None:
    for _ in range(7):
        life.clock.advance(23 * HOUR)
        assert life.sweep().removed == 0
        life.send()
    life.clock.advance(5 * HOUR)
    life.finish()
    life.clock.advance(30 * DAY)
    report = life.sweep()
    assert (report.examined, report.removed) == (0, 0)
    assert life.file.read_bytes() == BODY


@pytest.mark.parametrize("days", [2, 8], ids=["past its end", "past its last possible end"])
def test_it_never_ends_while_a_writer_writes(life: Life, days: int) -> None:
    with raw_patch(life.server.port, life.upload_id, 0, len(BODY)) as writer:
        writer.send(BODY[:PIECE])
        until(lambda: life.file.exists() and life.file.stat().st_size == PIECE)
        life.was_written()
        life.clock.advance(days * DAY)
        for _ in range(3):
            report = life.sweep()
            assert (report.removed, report.skipped) == (0, {"being_written": 1})
        life.assert_alive(PIECE)
        writer.send(BODY[PIECE:])
        assert writer.answer()[0] == 204
    life.finish()


@pytest.mark.parametrize("what", ["a PATCH", "bytes of a PATCH that was killed", "the last bytes"])
def test_what_comes_between_the_look_and_the_lock_saves_it(life: Life, what: str) -> None:
    life.send()
    life.clock.advance(DAY + HOUR)
    size = {"a PATCH": 2 * PIECE, "the last bytes": len(BODY)}.get(what, 3 * PIECE)

    async def meanwhile() -> None:
        if what == "a PATCH":
            await parts.db.write(
                lambda tx: tx.uploads.touch(
                    life.upload_id,
                    active_at=life.clock.now(),
                    expires_at=life.clock.now() + DAY,
                    recorded_offset=size,
                    synced_offset=0,
                )
            )
        life.file.write_bytes(BODY[:size])
        if what == "bytes of a PATCH that was killed":
            life.was_written()
        else:  # the file system's times are worth nothing: the row and the length have to tell
            os.utime(life.file, (0, 0))

    parts = life.server.parts
    report = life.sweep(LateLocks(parts.locks, meanwhile))
    assert (report.removed, report.skipped) == (0, {"changed": 1})
    assert life.file.read_bytes() == BODY[:size]
    if what != "the last bytes":
        life.assert_alive(size)
    life.finish()


def test_a_writer_that_comes_between_the_look_and_the_lock_is_left_in_peace(life: Life) -> None:
    life.send()
    life.clock.advance(DAY + HOUR)
    parts = life.server.parts
    holds = []

    async def meanwhile() -> None:
        holds.append(parts.locks.hold_for_writing(life.upload_id, wait_seconds=0))
        await holds[0].__aenter__()

    report = life.sweep(LateLocks(parts.locks, meanwhile))
    assert report.removed == 0
    assert not holds[0].is_asked_to_stop
    life.server.do(holds[0].__aexit__(None, None, None))
    life.assert_alive(PIECE)
    life.finish()
