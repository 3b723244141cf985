"""Following jobs and batches by Server-Sent Events: what comes, when, and what is left behind."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from app.domain.errors import DatabaseBusy
from app.domain.jobs import Job, JobPolicy, JobStatus, finish
from app.domain.tombstones import Reason, ThingKind
from app.services.burial import bury_upload
from app.services.draining import Drain
from app.services.job_watch import POLL_SECONDS, JobWatch, Subject
from app.services.ports import Database, Transaction
from tests.factories import insert_all, make_fence, make_job, make_processing_job
from tests.fakes.described import Described
from tests.fakes.event_source import Event, EventSource
from tests.fakes.served import Served, wait_for

T = TypeVar("T")
Changed = Callable[[Job], Job]

SOON_SECONDS = 3.0


@pytest.fixture
def batch(served: Served) -> dict[str, Any]:
    """A batch of two files that are no clips, which nobody here minds, with their digests."""
    made = served.make_batch(b"one", b"two")
    path = f"/api/v1/batches/{made['id']}"
    wait_for(lambda: all(each["sha256"] for each in served.http.get(path).json()["files"]))
    found: dict[str, Any] = served.http.get(path).json()
    return found


def put(served: Served, job: Job) -> Job:
    served.write(lambda tx: insert_all(tx, job))
    return job


def queued(served: Served, **overrides: Any) -> Job:
    return put(served, make_job(inputs=(), **overrides))


def processing(served: Served, **overrides: Any) -> Job:
    return put(served, make_processing_job(inputs=(), **overrides))


def change(served: Served, job: Job, how: Changed) -> None:
    """Write a change of the row as whoever may do so does."""

    def work(tx: Transaction) -> None:
        row = tx.jobs.find(job.id)
        assert row is not None
        tx.jobs.update(how(row), expected=row.status, attempt=row.attempt)

    served.write(work)


def beat(served: Served, job: Job, progress: float) -> None:
    now = served.container.clock.now()
    fence = make_fence(job)
    assert served.write(lambda tx: tx.jobs.beat(fence, now=now, progress=progress, stage="cut"))


def end(served: Served, job: Job, status: JobStatus = JobStatus.COMPLETED) -> None:
    now, policy = served.container.clock.now(), _policy(served)
    change(served, job, lambda row: finish(row, status, now, policy))


def _policy(served: Served) -> JobPolicy:
    return served.container.jobs.rules.jobs


def follow(served: Served, job: Job, **headers: str) -> EventSource:
    return EventSource(served.port, path_of(job), headers=headers)


def path_of(job: Job) -> str:
    return f"/api/v1/jobs/{job.id}/events"


def version(served: Served, job: Job) -> int:
    return served.read(lambda tx: tx.jobs.list_versions([job.id]))[job.id]


@contextmanager
def watched_by(
    served: Served, *, db: Any = None, heartbeat_seconds: float = 15.0
) -> Iterator[JobWatch]:
    """Serve with another watch, and a drain of its own, for the length of the block."""
    container = served.container
    watch = JobWatch(db or container.db, heartbeat_seconds=heartbeat_seconds)
    with served.exchanged(replace(container, watch=watch, drain=Drain())):
        yield watch
        served.call(watch.close())


def await_nobody(served: Served) -> None:
    watch = served.container.watch
    wait_for(lambda: watch.subscriptions == 0, 5)


def test_a_stream_begins_with_the_present_state_and_its_headers_forbid_buffering(
    served: Served,
) -> None:
    job = queued(served)
    begun = time.monotonic()
    with follow(served, job).open() as stream:
        event = stream.next()
        assert event.at - begun < SOON_SECONDS
    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["cache-control"] == "no-store"
    assert stream.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in stream.headers
    assert "content-length" not in stream.headers
    assert len(stream.headers["x-request-id"]) == 32
    assert stream.retry_ms == [3000]
    assert (event.name, event.last_event_id) == ("state", "1")
    assert json.loads(event.data) == served.http.get(f"/api/v1/jobs/{job.id}").json()


def test_every_change_comes_soon_and_the_end_closes_the_stream(served: Served) -> None:
    job = processing(served)
    seen: list[Event] = []
    with follow(served, job).open() as stream:
        stream.next()
        for progress in (10.0, 60.5):
            beat(served, job, progress)
            changed = time.monotonic()
            seen.append(stream.next())
            assert seen[-1].at - changed < SOON_SECONDS
            assert json.loads(seen[-1].data)["progress"] == progress
        end(served, job)
        seen += stream.events()
    assert [event.name for event in seen] == ["state", "state", "end"]
    ids = [int(event.last_event_id) for event in seen]
    assert ids == sorted(set(ids))
    assert ids[-1] == version(served, job)
    last = json.loads(seen[-1].data)
    assert last == served.http.get(f"/api/v1/jobs/{job.id}").json()
    assert last["status"] == "completed"
    await_nobody(served)


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_every_way_to_end_is_an_end(served: Served, status: JobStatus) -> None:
    job = processing(served)
    with follow(served, job).open() as stream:
        stream.next()
        end(served, job, status)
        (event,) = stream.events()
    assert (event.name, json.loads(event.data)["status"]) == ("end", status)


def test_many_changes_at_once_are_few_events_of_which_the_last_is_the_newest(
    served: Served,
) -> None:
    job = processing(served)
    with follow(served, job).open() as stream:
        stream.next()
        begun = time.monotonic()
        for percent in range(1, 101):
            beat(served, job, percent / 2)
        took = time.monotonic() - begun
        seen = [stream.next()]
        while json.loads(seen[-1].data)["progress"] < 50:
            seen.append(stream.next())
        assert len(seen) <= took / 0.25 + 2
        assert seen[-1].last_event_id == str(version(served, job))


def test_who_comes_after_the_end_gets_the_end_and_who_knows_it_is_told_not_to_come_back(
    served: Served,
) -> None:
    job = processing(served)
    end(served, job)
    for known in ("", "1", "not-an-id", "2 ", "-2", "99999999999999999999999999"):
        with follow(served, job).open(known) as stream:
            (event,) = stream.events()
        assert (event.name, event.last_event_id) == ("end", "2")
        assert json.loads(event.data)["status"] == "completed"
    with follow(served, job).open("2") as stream:
        assert stream.status == 204
        assert stream.body() == b""
        assert stream.headers["cache-control"] == "no-store"
        assert "content-type" not in stream.headers


def test_an_ended_stream_leaves_its_connection_for_the_next_request(served: Served) -> None:
    job = processing(served)
    end(served, job)
    with follow(served, job) as stream:
        for known in ("", "1", "2"):
            stream.open(known)
            if stream.status == 200:
                assert stream.headers["transfer-encoding"] == "chunked"
                assert [event.name for event in stream.events()] == ["end"]
            else:
                stream.body()
            assert "close" not in stream.headers.get("connection", "")
        assert stream.status == 204


def test_a_client_that_has_the_present_state_gets_only_what_is_new(served: Served) -> None:
    job = processing(served)
    with follow(served, job).open("1") as stream:
        time.sleep(0.6)
        beat(served, job, 12)
        event = stream.next()
    assert (event.name, event.last_event_id) == ("state", "2")
    assert json.loads(event.data)["progress"] == 12
    assert stream.retry_ms == [3000]


@pytest.mark.parametrize(
    "known", ["", "0", "01", "1.0", "one", '"1"', "1\t2", "2", "\xff", "x" * 9000]
)
def test_an_id_that_is_not_the_present_one_is_as_good_as_none(served: Served, known: str) -> None:
    job = queued(served)
    with follow(served, job).open(known) as stream:
        assert stream.next().last_event_id == "1"


def test_silence_is_broken_by_comments_also_while_only_what_nobody_sees_changes(
    served: Served,
) -> None:
    job = processing(served)
    with (
        watched_by(served, heartbeat_seconds=0.4) as watch,
        follow(served, job).open("1") as stream,
    ):
        beat(served, job, 1)
        assert json.loads(stream.next().data)["progress"] == 1
        told, begun = stream.comments, time.monotonic()
        stopped = threading.Event()

        def keep_beating() -> None:
            while not stopped.wait(0.1):
                beat(served, job, 1)

        beating = threading.Thread(target=keep_beating)
        beating.start()
        try:
            lines = stream._lines()
            while stream.comments < told + 3:
                line = next(lines)
                assert line in {"", ": still here"}, "a heartbeat of the worker is no change"
                stream.comments += bool(line)
        finally:
            stopped.set()
            beating.join()
        assert time.monotonic() - begun > 0.8
        beat(served, job, 2)
        assert json.loads(stream.next().data)["progress"] == 2
        assert watch.subscriptions == 1


def test_a_job_that_is_deleted_meanwhile_says_so_as_a_get_would(served: Served) -> None:
    job = queued(served)
    with follow(served, job).open() as stream:
        stream.next()
        assert served.http.delete(f"/api/v1/jobs/{job.id}?cancel=true").status_code == 204
        seen = list(stream.events())
        assert [event.name for event in seen[:-1]] in ([], ["end"])
    if seen[-1].name == "end":
        return  # the cancellation that comes first was seen by itself, and was the end
    gone, answer = json.loads(seen[-1].data), served.http.get(f"/api/v1/jobs/{job.id}").json()
    assert (seen[-1].name, gone["reason"], gone["status"]) == ("gone", "job_deleted", 410)
    assert gone.pop("request_id") == stream.headers["x-request-id"]
    answer.pop("request_id")
    assert gone == answer


def test_a_job_whose_row_goes_in_one_step_is_gone_and_so_is_the_address_afterwards(
    served: Served, described: Described
) -> None:
    job = queued(served)
    with follow(served, job).open() as stream:
        stream.next()
        served.write(lambda tx: tx.jobs.delete(job.id))
        (event,) = stream.events()
    told = json.loads(event.data)
    assert (event.name, told["code"], event.last_event_id) == ("gone", "job_not_found", "1")
    described.check(served.http.get(path_of(job)))
    await_nobody(served)


def test_what_is_not_there_is_a_problem_before_any_event(
    served: Served, described: Described
) -> None:
    job = queued(served)
    assert served.http.delete(f"/api/v1/jobs/{job.id}?cancel=true").status_code == 204
    for path, code in [
        (path_of(job), "job_gone"),
        (f"/api/v1/jobs/{'0' * 32}/events", "job_not_found"),
        ("/api/v1/jobs/x/events", "job_not_found"),
        (f"/api/v1/batches/{'0' * 32}/events", "batch_not_found"),
        (f"{path_of(job)}?lastEventId=3", "invalid_request"),
    ]:
        assert described.check(served.http.get(path))["code"] == code
        head = served.http.head(path)
        assert head.status_code == served.http.get(path).status_code
        assert not head.content


def test_head_tells_status_and_headers_and_follows_nothing(
    served: Served, described: Described
) -> None:
    job = processing(served)
    for known, status in [("", 200), ("1", 200)]:
        response = served.http.head(path_of(job), headers={"Last-Event-ID": known})
        described.check(response)
        assert response.status_code == status
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-accel-buffering"] == "no"
    end(served, job)
    response = served.http.head(path_of(job), headers={"Last-Event-ID": "2"})
    described.check(response)
    assert response.status_code == 204
    await_nobody(served)


def test_pages_of_other_origins_may_follow_when_they_may_at_all(served: Served) -> None:
    job = queued(served)
    page = "http://localhost:5173"
    asked = {
        "Origin": page,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "last-event-id,authorization,cache-control",
    }
    allowed = served.http.options(path_of(job), headers=asked).headers
    assert allowed["access-control-allow-origin"] == page
    names = {name.strip().lower() for name in allowed["access-control-allow-headers"].split(",")}
    assert {"last-event-id", "authorization", "cache-control"} <= names
    with follow(served, job, Origin=page).open() as stream:
        assert stream.next().name == "state"
        assert stream.headers["access-control-allow-origin"] == page
        assert stream.headers["vary"] == "Origin"
    with follow(served, job, Origin="https://strange.example").open() as stream:
        assert (stream.status, json.loads(stream.body())["code"]) == (403, "origin_not_allowed")


def test_where_a_key_is_asked_for_a_stream_asks_for_it_too(keyed: Served) -> None:
    job = queued(keyed)
    with follow(keyed, job).open() as stream:
        assert stream.status == 401
    key = keyed.http.headers["authorization"]
    with follow(keyed, job, Authorization=key).open() as stream:
        assert stream.next().name == "state"


def test_a_stopping_service_ends_its_streams_at_once_and_asks_to_come_back(
    served: Served,
) -> None:
    jobs = [queued(served), processing(served)]
    with watched_by(served) as watch, ExitStack() as stack:
        streams = [stack.enter_context(follow(served, job).open()) for job in jobs]
        for stream in streams:
            stream.next()
        drain = served.container.drain
        begun = time.monotonic()

        async def begin() -> None:
            drain.begin()

        served.call(begin())
        for stream in streams:
            assert list(stream.events()) == []
            assert stream.retry_ms == [3000, 2000]
        assert time.monotonic() - begun < SOON_SECONDS
        wait_for(lambda: watch.subscriptions == 0)
        # Not refused: at any other status than 200 an EventSource never comes back.
        with follow(served, jobs[0]).open() as stream:
            assert [event.name for event in stream.events()] == ["state"]
            assert stream.retry_ms == [3000, 2000]


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_is_followed_from_its_first_job_to_the_end_of_its_last(
    served: Served, batch: dict[str, Any]
) -> None:
    path = f"/api/v1/batches/{batch['id']}"
    with EventSource(served.port, f"{path}/events").open() as stream:
        first = stream.next()
        assert (first.name, json.loads(first.data)) == ("state", served.http.get(path).json())
        one = processing(served, batch_id=batch["id"])
        assert json.loads(stream.next().data)["status"] == "processing"
        other = processing(served, batch_id=batch["id"])
        assert len(json.loads(stream.next().data)["jobs"]) == 2
        changed = time.monotonic()
        end(served, one)
        event = stream.next()
        assert event.at - changed < SOON_SECONDS
        assert event.name == "state"
        end(served, other, JobStatus.FAILED)
        (last,) = stream.events()
    assert last.name == "end"
    body = json.loads(last.data)
    assert body == served.http.get(path).json()
    assert (
        body["status"],
        len({first.last_event_id, event.last_event_id, last.last_event_id}),
    ) == (
        "partially_failed",
        3,
    )
    with EventSource(served.port, f"{path}/events") as stream:
        assert stream.open(first.last_event_id).status == 200
        assert [event.name for event in stream.events()] == ["end"]
        assert stream.open(last.last_event_id).status == 204
        stream.body()
        # Once more to do: the stream is there again, and who knows the old end is told of the new.
        job = processing(served, batch_id=batch["id"])
        assert stream.open(last.last_event_id).status == 200
        assert stream.next().name == "state"
        end(served, job)
        assert [event.name for event in stream.events()] == ["end"]


def test_a_batch_whose_only_job_was_cancelled_has_ended(
    served: Served, batch: dict[str, Any]
) -> None:
    job = queued(served, batch_id=batch["id"])
    with EventSource(served.port, f"/api/v1/batches/{batch['id']}/events").open() as stream:
        stream.next()
        assert served.http.post(f"/api/v1/jobs/{job.id}/cancel").status_code == 200
        (event,) = stream.events()
    assert (event.name, json.loads(event.data)["status"]) == ("end", "ready")


def test_a_batch_of_which_nothing_is_left_keeps_nobody_waiting(
    served: Served, batch: dict[str, Any]
) -> None:
    now = served.container.clock.now()

    def spend(tx: Transaction) -> None:
        for upload in tx.uploads.list_by_batch(batch["id"]):
            bury_upload(tx, upload, reason=Reason.SPENT, sweep=None, now=now)

    with EventSource(served.port, f"/api/v1/batches/{batch['id']}/events").open() as stream:
        assert stream.next().name == "state"
        served.write(spend)
        (event,) = stream.events()
    assert (event.name, json.loads(event.data)["status"]) == ("end", "spent")


def test_a_batch_without_a_job_stays_open_and_tells_of_its_files(
    served: Served, batch: dict[str, Any]
) -> None:
    file_id = batch["files"][0]["id"]
    with (
        watched_by(served, heartbeat_seconds=0.3),
        EventSource(served.port, f"/api/v1/batches/{batch['id']}/events").open() as stream,
    ):
        known = stream.next().last_event_id
        wait_for(lambda: served.container.watch.subscriptions == 1)
        served.write(lambda tx: tx.uploads.set_media(file_id, {"made": "up"}))
        event = stream.next()
        assert json.loads(event.data)["files"][0]["media"] == {"made": "up"}
        assert (event.name, event.last_event_id != known) == ("state", True)
        time.sleep(0.7)
        assert served.http.delete(f"/api/v1/batches/{batch['id']}").status_code == 204
        (gone,) = stream.events()
        assert stream.comments >= 1
    assert (gone.name, json.loads(gone.data)["reason"]) == ("gone", "batch_deleted")


def test_a_client_that_has_the_batch_as_it_is_gets_only_what_is_new(
    served: Served, batch: dict[str, Any]
) -> None:
    job = processing(served, batch_id=batch["id"])
    path = f"/api/v1/batches/{batch['id']}/events"
    with EventSource(served.port, path) as first:
        known = first.open().next().last_event_id
    with EventSource(served.port, path).open(known) as stream:
        beat(served, job, 50)  # of no consequence to what a batch shows
        time.sleep(0.8)
        end(served, job)
        (event,) = stream.events()
    assert event.name == "end"


# --- the watch behind it -------------------------------------------------------------------------


class Troubled:
    """The service's own database, which can be made to refuse reads, and counts them."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.trouble: Exception | None = None
        self.reads = 0

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return await self._db.write(work)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        self.reads += 1
        if self.trouble is not None:
            raise self.trouble
        return await self._db.read(work)


def test_the_database_is_looked_at_once_per_tick_for_all_and_never_for_nobody(
    served: Served,
) -> None:
    jobs = [queued(served) for _ in range(40)]
    db = Troubled(served.container.db)
    with watched_by(served, db=db) as watch:
        time.sleep(0.6)
        assert db.reads == 0
        with ExitStack() as stack:
            for job in jobs:
                stack.enter_context(follow(served, job).open()).next()
            assert watch.subscriptions == 40
            db.reads, begun = 0, time.monotonic()
            time.sleep(1.5)
            assert 2 <= db.reads <= (time.monotonic() - begun) / POLL_SECONDS + 1
        wait_for(lambda: watch.subscriptions == 0, 5)
        time.sleep(0.5)
        db.reads = 0
        time.sleep(0.6)
        assert db.reads == 0


@pytest.mark.parametrize("is_troubled_from_the_start", [True, False])
def test_the_watch_outlives_trouble_with_the_database(
    served: Served, is_troubled_from_the_start: bool
) -> None:
    job = processing(served)
    db = Troubled(served.container.db)
    with watched_by(served, db=db), follow(served, job) as stream:
        if is_troubled_from_the_start:
            db.trouble = DatabaseBusy()
        stream.open().next()
        time.sleep(0.3)
        db.trouble = DatabaseBusy()
        beat(served, job, 30)
        time.sleep(0.6)
        db.trouble = None
        assert json.loads(stream.next().data)["progress"] == 30


def test_who_joins_others_is_told_to_look_at_once(served: Served) -> None:
    job = queued(served)
    subject = Subject(ThingKind.JOB, job.id)

    async def join() -> list[bool]:
        # What was read before the subscription may be old: the others were told of it already.
        watch = JobWatch(served.container.db, poll_seconds=0.05)
        with watch.subscribe(subject) as first:
            told = [await first.wait(5), await first.wait(0.3)]
            with watch.subscribe(subject) as second:
                told += [await second.wait(0), await second.wait(0.3)]
        await watch.close()
        return [*told, watch.subscriptions == 0]

    assert served.call(join()) == [True, False, True, False, True]


def test_a_stream_outlives_a_read_that_fails(served: Served) -> None:
    job = processing(served)
    db: Any = Troubled(served.container.db)
    container = served.container
    with (
        served.exchanged(replace(container, jobs=replace(container.jobs, db=db))),
        follow(served, job).open() as stream,
    ):
        stream.next()
        time.sleep(0.5)
        db.trouble = DatabaseBusy()
        end(served, job)
        wait_for(lambda: db.reads >= 3, 5)
        db.trouble = None
        assert [event.name for event in stream.events()] == ["end"]


def test_streams_are_dropped_when_the_watch_dies_and_the_next_one_works(served: Served) -> None:
    job = processing(served)
    db = Troubled(served.container.db)
    with watched_by(served, db=db) as watch, follow(served, job) as stream:
        stream.open().next()
        db.trouble = ZeroDivisionError("a bug")
        with pytest.raises(ConnectionError):
            list(stream.events())
        wait_for(lambda: watch.subscriptions == 0, 5)
        db.trouble = None
        with follow(served, job).open() as again:
            again.next()
            end(served, job)
            assert [event.name for event in again.events()] == ["end"]


def test_two_hundred_streams_that_are_cut_leave_nothing(served: Served) -> None:
    jobs = [queued(served) for _ in range(4)]
    streams = [follow(served, jobs[n % 4]).open() for n in range(200)]
    watch = served.container.watch
    try:
        for stream in streams:
            stream.next()
        assert watch.subscriptions == 200
    finally:
        for n, stream in enumerate(streams):
            if n % 2:
                # As a line that is lost: a reset, not an orderly end.
                found = stream._connection.sock
                if found is not None:
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            stream.close()
    await_nobody(served)
    assert watch._watched == {}
    wait_for(lambda: watch._task is None, 5)


def test_slow_readers_cost_a_socket_buffer_each_and_get_the_newest_state_next(
    served: Served,
) -> None:
    job = processing(served)
    large = "x" * 2 * 10**6  # more than the kernel takes, a few times
    rounds = 12

    def grow(n: int) -> None:
        change(served, job, lambda row: replace(row, warnings=(f"change {n}", large)))

    with ExitStack() as stack:
        slow = [stack.enter_context(_slow_reader(served, job)) for _ in range(3)]
        wait_for(lambda: served.container.watch.subscriptions == len(slow))
        for n in range(rounds):
            grow(n)
            time.sleep(0.3)
        # Others are not held up by them.
        with follow(served, job).open() as other:
            assert f"change {rounds - 1}" in other.next().data
            grow(rounds)
            assert f"change {rounds}" in other.next().data
        end(served, job)
        for sock in slow:
            received = bytearray()
            while not received.endswith(b"\r\n0\r\n\r\n"):
                data = sock.recv(2**20)
                assert data
                received += data
            assert received.count(b"event: state\n") <= rounds / 2
            assert received.count(b"event: end\n") == 1
    await_nobody(served)


@contextmanager
def _slow_reader(served: Served, job: Job) -> Iterator[socket.socket]:
    """A client that has asked, and reads nothing until the test does."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", served.port))
        sock.sendall(f"GET {path_of(job)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield sock
