"""Answers that come before a large body has: they are heard, nothing is written, the line is clean."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext

import pytest

from tests.fakes.body_ways import OneWay, Way
from tests.fakes.served import OCTETS, TUS, settings_for
from tests.fakes.weather import (
    Line,
    best_of_three,
    chunk,
    chunked_request,
    file_of,
    patch_request,
    request,
    stored,
    wait_for_bytes,
)

MIB = 1024 * 1024
KEY = "made-up-key-0123456789abcdef0123456789abcdef"
AUTH = {"Authorization": f"Bearer {KEY}"}
BODY = os.urandom(4 * MIB)
"""More than the buffers of a line that is not read."""


@pytest.fixture(scope="module", params=Way, ids=str)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OneWay]:
    folder = tmp_path_factory.mktemp("answers")
    key_file = folder / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    settings = settings_for(
        folder / "data",
        jobs={"workers": 0},
        access={"admin_key_file": key_file},
        uploads={"max_upload_bytes": 64 * MIB},
    )
    with OneWay(settings, request.param, authorization=AUTH["Authorization"]) as running:
        yield running


@pytest.fixture
def upload_id(server: OneWay) -> str:
    return server.create_upload(len(BODY))


def post_request(length: int, body: bytes, **more: str) -> bytes:
    size = {"Upload-Length": str(length), "Content-Length": str(len(BODY))}
    return request("POST", "/files/", TUS | OCTETS | AUTH | size | more, body)


REFUSALS: dict[str, Callable[[str, bytes], bytes]] = {
    "401": lambda upload_id, body: patch_request(upload_id, 0, body, len(BODY)),
    "404": lambda _, body: patch_request("0" * 32, 0, body, len(BODY), **AUTH),
    "409": lambda upload_id, body: patch_request(upload_id, 7, body, len(BODY), **AUTH),
    "412": lambda upload_id, body: request(
        "PATCH", f"/files/{upload_id}", AUTH | {"Content-Length": str(len(BODY))}, body
    ),
    "413": lambda upload_id, body: chunked_request(
        upload_id, 0, chunk(bytes(len(BODY) + 1)) + body, **AUTH
    ),
    "413 at creation": lambda _, body: post_request(10, body),
    "415": lambda upload_id, body: request(
        "PATCH",
        f"/files/{upload_id}",
        TUS | AUTH | {"Upload-Offset": "0", "Content-Length": str(len(BODY))},
        body,
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_who_sends_all_of_a_refused_body_and_then_reads_has_the_answer_and_the_line(
    server: OneWay, name: str
) -> None:
    is_chunked = name == "413"

    def attempt() -> None:
        upload_id = server.create_upload(len(BODY))
        with Line(server.port) as line:
            line.send(REFUSALS[name](upload_id, b"" if is_chunked else BODY))
            if is_chunked:
                line.send(b"0\r\n\r\n")
            assert line.status() == int(name[:3])
            line.send(patch_request(upload_id, 0, b"hello", **AUTH))
            answer = line.answer()
            assert answer is not None
            assert (answer.status, answer.headers["upload-offset"]) == (204, "5")
        assert stored(server, upload_id) == b"hello"

    best_of_three(attempt)


def test_who_reads_while_sending_hears_it_early_and_is_hung_up_on_if_the_body_does_not_end(
    server: OneWay,
) -> None:
    uploads = {name: server.create_upload(len(BODY)) for name in REFUSALS}
    with ExitStack() as stack:
        lines = {name: stack.enter_context(Line(server.port)) for name in REFUSALS}
        for name, line in lines.items():
            line.send(REFUSALS[name](uploads[name], b"" if name == "413" else BODY[:1000]))
            assert line.status() == int(name[:3])
        began = time.monotonic()
        for line in lines.values():
            assert line.answer() is None
        assert time.monotonic() - began < 10
    for upload_id in uploads.values():
        assert stored(server, upload_id) == b""
        assert server.patch(upload_id, 0, BODY).status_code == 204
        assert stored(server, upload_id) == BODY


@pytest.mark.parametrize("how", ["Connection: close", "HTTP/1.0", "Expect: 100-continue"])
def test_an_answer_that_ends_the_line_is_no_reset_for_who_still_sends(
    server: OneWay, upload_id: str, how: str
) -> None:
    headers = TUS | OCTETS | AUTH | {"Upload-Offset": "7", "Content-Length": str(len(BODY))}
    if how != "HTTP/1.0":
        name, _, value = how.partition(": ")
        headers[name] = value
    version = "1.0" if how == "HTTP/1.0" else "1.1"

    def attempt() -> None:
        with Line(server.port) as line:
            line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
            # It is refused with the head; all that follows comes to a server that is done with it.
            path = f"/files/{upload_id}"
            line.send(request("PATCH", path, headers, BODY[:1000], version=version))
            time.sleep(0.3)
            assert line.push(BODY[1000:]), "the line was reset"
            answer = line.answer()
            assert answer is not None
            assert (answer.status, answer.headers["connection"]) == (409, "close")
            assert line.answer() is None

    best_of_three(attempt)
    assert not file_of(server, upload_id).exists()


# --- Expect: 100-continue ---


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "not waiting"])
@pytest.mark.parametrize("size", [5, len(BODY)])
def test_who_asks_whether_to_send_is_told_to(server: OneWay, *, waits: bool, size: int) -> None:
    body = BODY[:size]
    upload_id = server.create_upload(size)
    with Line(server.port) as line:
        asked = {"Expect": "100-continue", **AUTH}
        line.send(patch_request(upload_id, 0, b"" if waits else body, size, **asked))
        status = line.status()
        if waits:
            assert status == 100
            with server.lends() if size > 5 else nullcontext():
                line.send(body)
                wait_for_bytes(server, upload_id, size)
        if status == 100:
            status = line.status()
        assert status == 204
    assert stored(server, upload_id) == body


def test_who_waits_to_send_a_body_that_is_refused_is_told_so_and_hung_up_on(
    server: OneWay, upload_id: str
) -> None:
    with Line(server.port) as line:
        line.send(patch_request(upload_id, 7, b"", len(BODY), Expect="100-continue", **AUTH))
        answer = line.answer()
        assert answer is not None
        # What it sends next on this line could be the body or not: nobody could tell.
        assert (answer.status, answer.headers["connection"]) == (409, "close")
        line.half_close()
        assert line.answer() is None
    assert not file_of(server, upload_id).exists()


def test_who_asks_and_never_sends_keeps_nothing_but_its_turn(
    server: OneWay, upload_id: str
) -> None:
    with Line(server.port) as line:
        line.send(patch_request(upload_id, 0, b"", len(BODY), Expect="100-continue", **AUTH))
        assert line.status() == 100
        assert server.patch(upload_id, 0, BODY).status_code == 204  # the newest wins
        assert line.status() == 423
    assert stored(server, upload_id) == BODY


def test_a_client_of_http_1_0_is_never_told_to_continue(server: OneWay) -> None:
    upload_id = server.create_upload(10)
    headers = TUS | OCTETS | AUTH | {"Upload-Offset": "0", "Expect": "100-continue"}
    path = f"/files/{upload_id}"
    with Line(server.port) as line:
        sized = headers | {"Content-Length": "5"}
        line.send(request("PATCH", path, sized, b"", version="1.0"))
        time.sleep(0.2)
        line.send(b"hello")
        assert line.status() == 204
        assert line.answer() is None
    assert stored(server, upload_id) == b"hello"


def test_a_refused_creation_leaves_neither_rows_nor_files(server: OneWay) -> None:
    before = server.state()
    for sent in (
        post_request(10, BODY),
        post_request(len(BODY), BODY, **{"Content-Type": "text/plain"}),
        post_request(65 * MIB, BODY),
    ):
        with Line(server.port) as line:
            line.send(sent)
            assert line.status("POST") in {413, 415}
    assert server.state() == before
