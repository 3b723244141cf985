"""Lines that break, fall silent or drip: what arrived is kept, told truly, and resumed to the end."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.fakes.body_ways import OneWay, Way
from tests.fakes.served import TUS, settings_for, wait_for
from tests.fakes.weather import (
    Line,
    assert_resumes,
    chunk,
    chunked_request,
    head_request,
    patch_request,
    stored,
    told_offset,
    wait_for_bytes,
    wait_until_quiet,
)

BODY = os.urandom(400_000)
SENT = 250_001
STALL_SECONDS = 2.0
AS_SERVED = pytest.mark.parametrize("server", [Way.LENT], indirect=True, ids=str)
"""For what has no body, or one that the parser has to see in any case."""
BODIES = pytest.mark.parametrize(
    ("server", "chunked"),
    [(Way.PLAIN, False), (Way.LENT, False), (Way.LENT, True)],
    indirect=["server"],
    ids=["plain", "past the parser", "chunked"],
)


@pytest.fixture(scope="module", params=Way, ids=str)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OneWay]:
    settings = settings_for(
        tmp_path_factory.mktemp("weather") / "data",
        jobs={"workers": 0},
        uploads={"upload_read_timeout_seconds": STALL_SECONDS, "lock_wait_seconds": 1.5},
    )
    with OneWay(settings, request.param) as running:
        yield running


def send_half(server: OneWay, line: Line, upload_id: str, *, chunked: bool = False) -> None:
    """Begin a PATCH on its way, and wait until all that is sent of it is in the file."""
    if chunked:
        line.send(begin(upload_id, chunked=True))
        wait_for_bytes(server, upload_id, SENT)
        return
    with server.lends():
        line.send(begin(upload_id, chunked=False))
        wait_for_bytes(server, upload_id, SENT)


def begin(upload_id: str, *, chunked: bool) -> bytes:
    """A PATCH of all of BODY, of which SENT bytes go out."""
    if not chunked:
        return patch_request(upload_id, 0, BODY[:SENT], len(BODY))
    whole = chunk(BODY[:100_000])
    half = f"{len(BODY) - 100_000:x}\r\n".encode() + BODY[100_000:SENT]
    return chunked_request(upload_id, 0, whole + half)


@BODIES
@pytest.mark.parametrize(
    "end", [Line.close, Line.reset, Line.half_close, Line.vanish], ids=lambda end: end.__name__
)
def test_a_line_that_ends_in_the_middle_of_a_body_costs_nothing_that_arrived(
    server: OneWay, end: Callable[[Line], None], *, chunked: bool
) -> None:
    upload_id = server.create_upload(len(BODY))
    with Line(server.port) as line:
        send_half(server, line, upload_id, chunked=chunked)
        end(line)
        # Who vanished is noticed by the silence, the others at once.
        assert_resumes(server, upload_id, BODY, offset=SENT)


def test_who_comes_back_does_not_wait_until_the_silence_is_noticed(server: OneWay) -> None:
    upload_id = server.create_upload(len(BODY))
    with Line(server.port) as line:
        for attempt in range(3):
            send_half(server, line, upload_id)
            line.vanish()
            began = time.monotonic()
            offset = told_offset(server, upload_id)
            assert server.patch(upload_id, offset, BODY[offset:]).status_code == 204
            if time.monotonic() - began < STALL_SECONDS / 2:
                break
            assert attempt < 2, "the retry waited for the dead line"
            upload_id = server.create_upload(len(BODY))
            line = Line(server.port)  # noqa: PLW2901  each one is gone for ever
    assert stored(server, upload_id) == BODY


def test_a_client_that_says_it_will_send_no_more_is_still_answered(server: OneWay) -> None:
    upload_id = server.create_upload(len(BODY))
    with Line(server.port) as line:
        line.send(patch_request(upload_id, 0, BODY))
        line.half_close()
        answer = line.answer()
        assert answer is not None
        assert (answer.status, answer.headers["upload-offset"]) == (204, str(len(BODY)))
        assert answer.headers["tidemill-batch"]
        assert line.answer() is None
    with Line(server.port) as line:
        line.send(head_request(upload_id))
        line.half_close()
        assert line.status("HEAD") == 200


@AS_SERVED
def test_who_waits_for_a_file_and_is_gone_is_not_waited_for(server: OneWay) -> None:
    upload_id = server.upload(BODY)
    with Line(server.port) as line:
        line.send(f"GET /files/{upload_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        line.close()
    assert server.http.get(f"/files/{upload_id}").content == BODY


def test_a_client_that_drips_is_no_client_that_stalls(server: OneWay) -> None:
    upload_id, drops = server.create_upload(len(BODY)), 24
    at_once = len(BODY) - drops
    with Line(server.port) as line:
        with server.lends():
            line.send(patch_request(upload_id, 0, BODY[:1], len(BODY)))
            wait_for_bytes(server, upload_id, 1)
            line.send(BODY[1:at_once])
        for count, byte in enumerate(BODY[at_once:], 1):
            line.send(bytes([byte]))
            time.sleep(0.1)
            if count == drops // 2:
                # The truth lags behind the line by no more than a moment.
                wait_for(lambda: told_offset(server, upload_id) == at_once + drops // 2)
        assert line.status() == 204
    assert stored(server, upload_id) == BODY


@BODIES
def test_a_body_that_stalls_is_ended_without_an_answer(server: OneWay, *, chunked: bool) -> None:
    upload_id = server.create_upload(len(BODY))
    with Line(server.port) as line:
        send_half(server, line, upload_id, chunked=chunked)
        assert line.answer() is None  # a 408 would make clients give up
    assert_resumes(server, upload_id, BODY, offset=SENT)


@AS_SERVED
def test_a_chunked_body_that_lacks_only_its_end_is_finished_by_whoever_asks(
    server: OneWay,
) -> None:
    upload_id = server.create_upload(len(BODY))
    with Line(server.port) as line:
        line.send(chunked_request(upload_id, 0, chunk(BODY)))
        wait_for_bytes(server, upload_id, len(BODY))
        line.vanish()
        assert_resumes(server, upload_id, BODY, offset=len(BODY))


# --- slow heads ---


class Loris(threading.Thread):
    """Adds a byte to the head of each line every now and then, and counts those that were ended."""

    def __init__(self, lines: list[Line]) -> None:
        super().__init__()
        self._lines = lines
        self.ended = 0

    def run(self) -> None:
        while self._lines:
            time.sleep(0.1)
            for line in list(self._lines):
                line.socket.settimeout(0)
                try:
                    is_over = line.socket.recv(1) == b""
                except BlockingIOError:
                    is_over = not line.push(b"a")
                except ConnectionError:
                    is_over = True
                if is_over:
                    self.ended += 1
                    self._lines.remove(line)


def hang(server: OneWay, count: int, seconds: float) -> None:
    """Let ``count`` heads drip; others upload meanwhile, and all of them are ended in good time."""
    upload_id = server.create_upload(len(BODY))
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(server.port)) for _ in range(count)]
        for number, line in enumerate(lines):
            line.send(
                b"HEAD /files/ HTTP/1.1\r\nHost: localhost\r\nX-A: " if number % 2 else b"HEAD /"
            )
        loris = Loris(lines)
        loris.start()
        size = len(BODY) // 10
        for offset in range(0, len(BODY), size):
            piece = BODY[offset : offset + size]
            assert server.patch(upload_id, offset, piece).status_code == 204
        loris.join(seconds + 30)
        assert not loris.is_alive(), f"{len(lines)} of {count} heads still drip"
        assert loris.ended == count
    assert stored(server, upload_id) == BODY


@AS_SERVED
def test_two_hundred_heads_that_drip_harm_nobody_and_are_ended(
    server: OneWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.server.protocol.HEAD_SECONDS", 2.0)
    hang(server, 200, 2)


@pytest.mark.long
@AS_SERVED
def test_four_hundred_heads_that_drip_are_ended_after_half_a_minute(server: OneWay) -> None:
    hang(server, 400, 30)


@AS_SERVED
@pytest.mark.parametrize("after", ["an answer", "a refused body"])
def test_empty_lines_keep_no_connection_open(
    server: OneWay, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    monkeypatch.setattr("app.server.protocol.HEAD_SECONDS", 1.0)
    upload_id = server.create_upload(10)
    with Line(server.port) as line:
        if after == "an answer":
            line.send(head_request(upload_id))
            assert line.status("HEAD") == 200
            line.send(b"\r\n")
        else:
            line.send(patch_request(upload_id, 3, b"he", 5))
            assert line.status() == 409
            line.send(b"llo")
        assert line.answer() is None


@AS_SERVED
def test_a_head_that_is_slow_to_follow_cuts_off_no_answer_that_is_due(
    server: OneWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.server.protocol.HEAD_SECONDS", 0.5)
    upload_id = server.create_upload(10)
    with server.held(upload_id), Line(server.port) as line:
        # It waits for the one that holds the upload, while the next head has begun.
        line.send(patch_request(upload_id, 0, b"hello") + b"HEAD /fi")
        assert line.status() in {204, 423}
        assert line.answer() is None
    wait_until_quiet(server)


def test_ninety_broken_lines_leave_no_descriptor_behind(server: OneWay) -> None:
    upload_id = server.create_upload(len(BODY))
    break_lines(server, upload_id, 4)  # what a service keeps once it has needed it, is there now
    before = len(held())
    break_lines(server, upload_id, 30)
    wait_for(lambda: len(held()) <= before + 3)
    assert server.http.head(f"/files/{upload_id}", headers=TUS).status_code == 200


def break_lines(server: OneWay, upload_id: str, times: int) -> None:
    """Begin a PATCH so many times for each way in which a line can break, and wait for the last."""
    for end in (Line.close, Line.reset, Line.half_close):
        for _ in range(times):
            with Line(server.port) as line:
                line.send(patch_request(upload_id, 0, b"", len(BODY)))
                end(line)
    wait_until_quiet(server)


def held() -> list[str]:
    """Return what this process has open, but the database: its pool opens more when it is asked more."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the look's own
            links.append(str(descriptor.readlink()))
    return [link for link in links if "tidemill.db" not in link]
