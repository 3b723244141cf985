"""Completion under fire: everybody at the end at once, sweeps beside them, kills between the steps.

One batch, one job for each ``then``, and whoever is answered hears the same. In the logs of all
processes together never two ``upload.completed`` or ``batch.created`` lines of one thing; and exactly
one, unless the process that committed it was killed before it could write the line.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Server, strace, wait_for
from tests.e2e.wire import PATCH_TYPE, TUS, create, encode_metadata, open_session, patch

pytestmark = pytest.mark.timeout(400)

AT_ONCE = 8
BODY = bytes(range(256)) * 40
THEN = {"operation": "trim", "params": {"start": 0.5, "end": 1.5}}
QUICK_SWEEPS = {"WORKERS": 0, "UNCLAIMED_INTERVAL_SECONDS": 0.05}
SLEEPY = {"WORKERS": 0, "UNCLAIMED_INTERVAL_SECONDS": 3600}


@dataclass
class Heard:
    """What clients were told of one upload by anybody at any time."""

    answers: list[tuple[int, str | None, str | None]] = field(default_factory=list)
    cut: int = 0

    def note(self, status: int, headers: Mapping[str, str]) -> None:
        self.answers.append((status, headers.get("tidemill-batch"), headers.get("tidemill-job")))

    def agreed(self, *allowed: int) -> set[tuple[str | None, str | None]]:
        """The batch and the jobs that successes named; everything else must be among ``allowed``."""
        strange = [each for each in self.answers if each[0] not in {200, 201, 204, *allowed}]
        assert not strange, strange
        return {each[1:] for each in self.answers if each[0] in {200, 201, 204}}


def whole_but_receiving(server: Server, path: str, body: bytes) -> None:
    """Put the last bytes in place as a process that was killed right after its last write does."""
    (server.data / "uploads" / path.rpartition("/")[2]).write_bytes(body)


def one_empty_patch(server: Server, path: str, offset: int, heard: Heard) -> None:
    try:
        headers = TUS | PATCH_TYPE | {"Upload-Offset": str(offset)}
        heard.note(*ask(server, "PATCH", path, headers))
    except (OSError, HTTPException):
        heard.cut += 1


def ask(
    server: Server, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
) -> tuple[int, dict[str, str]]:
    """One request on a connection of its own, without the cost of a client."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}


@contextmanager
def fire(servers: list[Server], paths: dict[str, Heard]) -> Iterator[threading.Event]:
    """HEADs of every upload at every server, and the sweep, for as long as the block lasts."""
    done = threading.Event()

    def shoot(server: Server) -> None:
        while not done.wait(0.005):
            with suppress(OSError, HTTPException):
                ask(server, "POST", "/api/v1/sweeps/unclaimed_uploads", {})
                for path, heard in paths.items():
                    status, headers = ask(server, "HEAD", path, TUS)
                    if status != 200 or "tidemill-upload" in headers:
                        heard.note(status, headers)

    threads = [threading.Thread(target=shoot, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        done.set()
        for thread in threads:
            thread.join(60)


def volley(shots: Sequence[Callable[[], None]]) -> None:
    """Run them all at the same moment."""
    start = threading.Barrier(len(shots))

    def run(shot: Callable[[], None]) -> None:
        start.wait(20)
        shot()

    with ThreadPoolExecutor(len(shots)) as pool:
        for future in [pool.submit(run, shot) for shot in shots]:
            future.result(60)


LINES = {"upload.completed": "upload_id", "batch.created": "batch_id"}
"""What is told once of each, and by what it names the thing."""


def lines_of(servers: list[Server]) -> dict[str, Counter[str]]:
    """How often each thing is told of in all logs together."""
    return {
        name: Counter(event[key] for server in servers for event in server.events(name))
        for name, key in LINES.items()
    }


def committed(server: Server) -> dict[str, set[str]]:
    """What is done, by the rows: by the ids that the lines name."""
    uploads = server.rows("SELECT id FROM uploads WHERE status = 'completed'")
    batches = server.rows("SELECT id FROM batches")
    return {
        "upload.completed": {row[0] for row in uploads},
        "batch.created": {row[0] for row in batches},
    }


def lost_lines(server: Server) -> dict[str, set[str]]:
    """What a process that was killed just now had committed and not told any more."""
    told, done = lines_of([server]), committed(server)
    return {name: done[name] - set(told[name]) for name in LINES}


def assert_completed_once(
    servers: list[Server],
    uploads: int,
    batches: int,
    jobs: int,
    lost: Sequence[Mapping[str, set[str]]] = (),
) -> None:
    """As rows, and as lines in the logs of all processes together: one of each thing, and none of
    those whose line was ``lost`` with its process.
    """
    (first, *_) = servers
    assert first.rows("SELECT count(*) FROM uploads WHERE status = 'completed'") == [(uploads,)]
    assert first.rows("SELECT count(*) FROM batches") == [(batches,)]
    assert first.rows("SELECT count(*) FROM jobs") == [(jobs,)]
    done = committed(first)
    for name in LINES:
        untold = {each for one in lost for each in one[name]}
        expected = Counter(dict.fromkeys(done[name] - untold, 1))

        def told(name: str = name, expected: Counter[str] = expected) -> bool:
            # The line follows the commit, and whoever looks at the row may be quicker.
            return lines_of(servers)[name].total() >= expected.total()

        wait_for(told, f"the {name} lines")
        assert lines_of(servers)[name] == expected


def head_batch(server: Server, path: str) -> tuple[str | None, str | None]:
    wait_for(lambda: ask(server, "HEAD", path, TUS)[0] == 200, "an answer to HEAD")
    _, headers = ask(server, "HEAD", path, TUS)
    return headers.get("tidemill-batch"), headers.get("tidemill-job")


@pytest.mark.parametrize("processes", [1, 2])
def test_eight_empty_patches_at_the_end_at_once_make_one_batch(
    make_server: Callable[..., Server], processes: int
) -> None:
    servers = [make_server(SLEEPY) for _ in range(processes)]
    for each in servers:
        each.data = servers[0].data
        each.start()
    rounds = 3
    for _ in range(rounds):
        with servers[0].client() as api:
            session = open_session(api, expected_files=1, then=THEN)
            path = create(api, len(BODY), session=session)
        heard = Heard()
        with fire(servers, {path: heard}):
            # After its start the fire goes on while the last bytes come.
            whole_but_receiving(servers[0], path, BODY)
            shots = [
                partial(one_empty_patch, servers[n % processes], path, len(BODY), heard)
                for n in range(AT_ONCE)
            ]
            volley(shots)
        (told,) = heard.agreed(423)
        assert None not in told
        assert heard.cut == 0
        assert head_batch(servers[-1], path) == told
    assert_completed_once(servers, rounds, rounds, rounds)


@pytest.mark.parametrize("step", ["the sync", "the commit", "after the commit"])
def test_killed_between_the_steps_the_batch_exists_once_and_head_tells_it(
    make_server: Callable[..., Server], tmp_path: Path, step: str
) -> None:
    server = make_server(SLEEPY).start()
    with server.client() as api:
        session = open_session(api, expected_files=1, then=THEN)
        path = create(api, len(BODY), session=session)
        assert patch(api, path, 0, BODY[:-1]).status_code == 204
    stored = server.data / "uploads" / path.rpartition("/")[2]
    wal = server.data / "tidemill.db-wal"
    watched, fault = {
        "the sync": (stored, "inject=fsync,fdatasync:delay_enter=20000000"),
        "the commit": (wal, "inject=pwrite64,write:delay_enter=20000000"),
        "after the commit": (wal, "inject=fsync,fdatasync:delay_exit=20000000"),
    }[step]
    heard = Heard()
    with (
        strace(server.pid, "-P", str(watched), "-e", fault, log=tmp_path / "log") as tracer,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        whole_but_receiving(server, path, BODY)
        for _ in range(AT_ONCE):
            pool.submit(one_empty_patch, server, path, len(BODY), heard)
        wait_for(lambda: _is_within(tracer.pid, server.pid), "the middle of the step")
        # Only now, so that it is the step of a completion; then sweeps and HEADs come beside it.
        with fire([server], {path: heard}):
            time.sleep(0.2)
            server.kill(tracer)
    assert heard.cut == AT_ONCE, heard.answers
    # Nobody has told of anything yet; whether it was done is for the disk to say.
    assert not any(lines_of([server]).values())
    done = committed(server)["upload.completed"]
    assert step == "after the commit" or not done
    lost = lost_lines(server)
    server.start()
    with fire([server], {path: heard}):
        volley([lambda: one_empty_patch(server, path, len(BODY), heard)] * AT_ONCE)
    (told,) = heard.agreed(423)
    assert None not in told
    assert head_batch(server, path) == told
    assert_completed_once([server], 1, 1, 1, [lost])


def _is_within(tracer: int, pid: int) -> bool:
    """Whether a thread of the process stands still under its tracer."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            status = (thread / "status").read_text()
            if "State:\tt (tracing stop)" in status and f"TracerPid:\t{tracer}\n" in status:
                return True
    return False


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param((4, 12), id="two"),
        pytest.param(
            tuple(range(40)), id="forty", marks=[pytest.mark.long, pytest.mark.timeout(1800)]
        ),
    ],
)
def test_kills_at_any_moment_of_a_volley_leave_one_batch_for_each_upload(
    make_server: Callable[..., Server], moments: tuple[int, ...]
) -> None:
    server = make_server(QUICK_SWEEPS).start()
    rounds: list[tuple[str, Heard]] = []
    lost = []
    for milliseconds in moments:
        with server.client() as api:
            session = open_session(api, expected_files=1, then=THEN)
            path = create(api, len(BODY), session=session)
        heard = Heard()
        rounds.append((path, heard))
        whole_but_receiving(server, path, BODY)
        timer = threading.Timer(milliseconds / 1000, os.kill, (server.pid, signal.SIGKILL))

        def shoot(path: str = path, heard: Heard = heard) -> None:
            one_empty_patch(server, path, len(BODY), heard)

        with fire([server], {path: heard}):  # which ends with the server
            volley([timer.start, *[shoot] * AT_ONCE])
            timer.join()
            server.kill()
        lost.append(lost_lines(server))
        server.start()
    for path, heard in rounds:
        batch = head_batch(server, path)
        assert None not in batch
        assert heard.agreed(423) <= {batch}
    assert_completed_once([server], len(rounds), len(rounds), len(rounds), lost)


def creation(server: Server, heard: Heard, body: bytes, session: str) -> None:
    """Create with the whole body at once."""
    headers = TUS | PATCH_TYPE | {"Upload-Length": str(len(body))}
    headers["Upload-Metadata"] = encode_metadata({"session": session})
    heard.note(*ask(server, "POST", "/files/", headers, body))


@pytest.mark.parametrize("body", [BODY, b""], ids=["with bytes", "without a byte"])
def test_creations_that_complete_at_once_race_for_one_place(
    make_server: Callable[..., Server], body: bytes
) -> None:
    """Only one fits: who comes late is told that the session is closed, or that its upload ended."""
    server = make_server(SLEEPY).start()
    with server.client() as api:
        session = open_session(api, expected_files=1, then=THEN)
    heard = Heard()
    with fire([server], {}):
        volley([lambda: creation(server, heard, body, session)] * AT_ONCE)
    (told,) = {each[1:] for each in heard.answers if each[0] == 201}
    assert None not in told
    assert {each[0] for each in heard.answers} <= {201, 410, 422, 423}, heard.answers
    assert_completed_once([server], 1, 1, 1)
    assert len(list((server.data / "uploads").iterdir())) == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_the_files_of_a_session_finish_at_the_same_moment(
    make_server: Callable[..., Server], processes: int
) -> None:
    servers = [make_server(SLEEPY) for _ in range(processes)]
    for each in servers:
        each.data = servers[0].data
        each.start()
    files, rounds = 4, 2
    for _ in range(rounds):
        with servers[0].client() as api:
            session = open_session(api, expected_files=files, then=THEN)
            paths = [create(api, len(BODY), session=session) for _ in range(files)]
        heard = {path: Heard() for path in paths}

        def finish(path: str, server: Server, heard: dict[str, Heard] = heard) -> None:
            headers = TUS | PATCH_TYPE | {"Upload-Offset": "0"}
            heard[path].note(*ask(server, "PATCH", path, headers, BODY))

        with fire(servers, {}):
            volley([partial(finish, path, servers[n % processes]) for n, path in enumerate(paths)])
        answers: list[Any] = [each for one in heard.values() for each in one.answers]
        assert [each[0] for each in answers] == [204] * files
        # Whoever finished the session hears of the batch; before that there was none.
        batches = {each[1] for each in answers if each[1]}
        assert len(batches) == 1
        assert {head_batch(servers[-1], path)[0] for path in paths} == batches
    assert_completed_once(servers, rounds * files, rounds, rounds * files)
