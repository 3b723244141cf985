"""Requests cut, joined and framed in every way: each is what it says, or is refused and harms none."""

import os
import random
import time
from collections.abc import Iterator

import pytest

from tests.fakes.body_ways import OneWay, Way, smallest_lent
from tests.fakes.served import settings_for
from tests.fakes.weather import (
    LAST_CHUNK,
    Answer,
    Line,
    assert_resumes,
    chunk,
    chunked_request,
    file_of,
    head_request,
    patch_request,
    request,
    stored,
    told_offset,
    wait_for_bytes,
    wait_until_quiet,
)

BODY = b"hello, world"
UPGRADE = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}


@pytest.fixture(scope="module", params=Way, ids=str)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OneWay]:
    data, way = tmp_path_factory.mktemp("framing") / "data", request.param
    with smallest_lent(way), OneWay(settings_for(data, jobs={"workers": 0}), way) as running:
        yield running


@pytest.fixture
def upload_id(server: OneWay) -> str:
    return server.create_upload(len(BODY))


def identity(upload_id: str, offset: int, body: bytes, **more: str) -> bytes:
    return patch_request(upload_id, offset, body, **more)


def chunked(upload_id: str, offset: int, body: bytes, **more: str) -> bytes:
    return chunked_request(upload_id, offset, chunk(body) + LAST_CHUNK, **more)


def read_three(line: Line) -> list[tuple[int, str]]:
    """Read the answers to PATCH, PATCH, HEAD."""
    answers = [line.answer(), line.answer(), line.answer("HEAD")]
    return [(a.status, a.headers["upload-offset"]) for a in answers if isinstance(a, Answer)]


IN_ORDER = [(204, "5"), (204, str(len(BODY))), (200, str(len(BODY)))]


def three(upload_id: str, form: str, **more: str) -> bytes:
    forms = {"identity": (identity, identity), "chunked": (chunked, chunked)}
    first, second = forms.get(form, (chunked, identity))
    return (
        first(upload_id, 0, BODY[:5], **more)
        + second(upload_id, 5, BODY[5:], **more)
        + head_request(upload_id)
    )


# --- joined and cut ---


@pytest.mark.parametrize("form", ["identity", "chunked", "mixed"])
@pytest.mark.parametrize("end", ["stays", "half-closes"])
def test_requests_in_one_packet_are_answered_in_their_order(
    server: OneWay, upload_id: str, form: str, end: str
) -> None:
    with Line(server.port) as line:
        line.send(three(upload_id, form))
        if end == "half-closes":
            line.half_close()
        assert read_three(line) == IN_ORDER
        if end == "half-closes":
            assert line.answer() is None
    assert stored(server, upload_id) == BODY


def test_large_bodies_in_one_go_are_answered_in_their_order(server: OneWay) -> None:
    body = os.urandom(3_000_000)
    upload_id, size = server.create_upload(len(body)), 300_000
    parts = [
        (chunked if number % 2 else identity)(upload_id, offset, body[offset : offset + size])
        for number, offset in enumerate(range(0, len(body), size))
    ]
    with server.lends(), Line(server.port) as line:
        line.send(b"".join(parts))
        offsets = []
        for _ in parts:
            answer = line.answer()
            assert answer is not None
            assert answer.status == 204
            offsets.append(int(answer.headers["upload-offset"]))
        assert offsets == list(range(size, len(body) + 1, size))
    assert stored(server, upload_id) == body


@pytest.mark.parametrize("form", ["identity", "chunked"])
def test_requests_that_come_byte_by_byte_are_understood(
    server: OneWay, upload_id: str, form: str
) -> None:
    with Line(server.port) as line:
        for byte in three(upload_id, form):
            line.send(bytes([byte]))
            time.sleep(0.0005)  # else the kernel would join them again
        assert read_three(line) == IN_ORDER
    assert stored(server, upload_id) == BODY


def split_everywhere(server: OneWay, form: str, step: int) -> None:
    for at in range(1, len(three("0" * 32, form)), step):
        upload_id = server.create_upload(len(BODY))
        data = three(upload_id, form)
        with Line(server.port) as line:
            line.send(data[:at])
            time.sleep(0.002)
            line.send(data[at:])
            assert read_three(line) == IN_ORDER, f"cut at {at}"
        assert stored(server, upload_id) == BODY


@pytest.mark.parametrize("form", ["identity", "chunked", "mixed"])
def test_requests_in_two_pieces_are_understood_wherever_the_cut_is(
    server: OneWay, form: str
) -> None:
    split_everywhere(server, form, 29)


@pytest.mark.long
@pytest.mark.parametrize("form", ["identity", "chunked", "mixed"])
def test_requests_in_two_pieces_are_understood_at_every_single_cut(
    server: OneWay, form: str
) -> None:
    split_everywhere(server, form, 1)


def test_head_tells_in_the_middle_of_a_body_what_is_there(server: OneWay, upload_id: str) -> None:
    with server.lends(), Line(server.port) as line:
        line.send(patch_request(upload_id, 0, BODY[:4], len(BODY)))
        wait_for_bytes(server, upload_id, 4)
        assert told_offset(server, upload_id) == 4
        # On the same line it is a part of the body, or would be an answer to nothing.
        line.send(BODY[4:] + head_request(upload_id))
        assert line.status() == 204
        assert line.status("HEAD") == 200
    assert stored(server, upload_id) == BODY


def test_a_request_behind_one_that_ends_the_line_is_not_begun(
    server: OneWay, upload_id: str
) -> None:
    last = patch_request(upload_id, 0, BODY[:5], Connection="close")
    with Line(server.port) as line:
        line.send(last + patch_request(upload_id, 5, BODY[5:]))
        answer = line.answer()
        assert answer is not None
        assert (answer.status, answer.headers["connection"]) == (204, "close")
        assert line.answer() is None
    assert_resumes(server, upload_id, BODY, offset=5)


def test_what_is_no_request_takes_no_answer_away_from_the_one_before(
    server: OneWay, upload_id: str
) -> None:
    with Line(server.port) as line:
        line.send(patch_request(upload_id, 0, BODY[:5]) + b"\x16\x03\x01 what is this\r\n\r\n")
        assert line.status() == 204
        assert line.answer() is None
    with Line(server.port) as line:
        line.send(b"\x16\x03\x01 what is this\r\n\r\n")
        assert line.status() == 400
        assert line.answer() is None
    assert_resumes(server, upload_id, BODY, offset=5)


def test_a_body_that_breaks_behind_a_whole_request_takes_no_answer_away_either(
    server: OneWay, upload_id: str
) -> None:
    broken = chunked_request(upload_id, 5, chunk(BODY[5:8]) + b"zz\r\n")
    with Line(server.port) as line:
        line.send(patch_request(upload_id, 0, BODY[:5]) + broken)
        assert line.status() == 204
        assert line.answer() is None
    wait_until_quiet(server)
    offset = told_offset(server, upload_id)
    assert offset in {5, 8}
    assert_resumes(server, upload_id, BODY, offset=offset)


# --- chunks ---


@pytest.mark.parametrize("seed", range(3))
def test_chunks_of_any_size_with_extensions_and_trailers_are_the_body(
    server: OneWay, seed: int
) -> None:
    chance = random.Random(seed)
    sizes = [1, 7, 15, 16, 17, 4095, 4097, 65_537, 262_145]
    body = os.urandom(sum(sizes))
    chance.shuffle(sizes)
    raw, offset = b"", 0
    for size in sizes:
        extension = chance.choice(["", ";a", ";a=b", ';name="quoted; \\" thing"'])
        raw += chunk(body[offset : offset + size], extension)
        offset += size
    raw += b"000;last\r\nX-Trailer: 1\r\nUpload-Offset: 77\r\n\r\n"
    upload_id = server.create_upload(len(body))
    with Line(server.port) as line:
        line.send(chunked_request(upload_id, 0, raw) + head_request(upload_id))
        assert (line.status(), line.status("HEAD")) == (204, 200)
    assert stored(server, upload_id) == body


MALFORMED = {
    "no size": (chunk(b"hello") + b"zz\r\n", 5),
    "no end": (b"5\r\nhelloXX", 5),
    "a huge size": (chunk(b"hello") + b"f" * 17 + b"\r\n", 5),
    "a negative size": (b"-5\r\nhello\r\n", 0),
    "bare line feeds": (b"5\nhello\n0\n\n", 0),
    "a space before the size": (b" 5\r\nhello\r\n0\r\n\r\n", 0),
    "a space behind the size": (b"5 \r\nhello\r\n0\r\n\r\n", 0),
    "an empty size": (b"\r\nhello", 0),
    "a size with a prefix": (b"0x5\r\nhello\r\n0\r\n\r\n", 0),
    "a trailer that is none": (chunk(b"hello") + b"0\r\nno trailer\r\n\r\n", 5),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_body_that_is_no_body_is_never_a_success_and_keeps_a_true_prefix(
    server: OneWay, upload_id: str, name: str
) -> None:
    raw, most = MALFORMED[name]
    with Line(server.port) as line:
        line.send(chunked_request(upload_id, 0, raw))
        assert line.status() in {0, 400}
        assert line.answer() is None
    wait_until_quiet(server)
    offset = told_offset(server, upload_id)
    assert offset <= most
    assert_resumes(server, upload_id, BODY, offset=offset)


# --- lengths that contradict each other, and other ways to say two things at once ---

LENGTHS = {
    "twice": ["Content-Length: 5", "Content-Length: 5"],
    "twice, differing": ["Content-Length: 5", "Content-Length: 6"],
    "a list": ["Content-Length: 5, 5"],
    "negative": ["Content-Length: -5"],
    "with a sign": ["Content-Length: +5"],
    "hexadecimal": ["Content-Length: 0x5"],
    "empty": ["Content-Length: "],
    "over 64 bits": ["Content-Length: 99999999999999999999999"],
    "64 bits": ["Content-Length: 18446744073709551615"],
    "over 63 bits": ["Content-Length: 9223372036854775808"],
    "both": ["Content-Length: 5", "Transfer-Encoding: chunked"],
    "both, the other way round": ["Transfer-Encoding: chunked", "Content-Length: 5"],
    "chunked twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "chunked not last": ["Transfer-Encoding: chunked, gzip"],
    "packed": ["Transfer-Encoding: gzip, chunked"],
    "packed only": ["Transfer-Encoding: gzip"],
    "a coding nobody knows": ["Transfer-Encoding: xchunked"],
    "a folded header": ["Content-Length:", " 5"],
    "a space in a name": ["Content-Length : 5"],
}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_length_that_cannot_be_trusted_is_refused_and_nothing_is_written(
    server: OneWay, upload_id: str, name: str
) -> None:
    head = request("PATCH", f"/files/{upload_id}", {}).rstrip(b"\r\n").decode()
    more = ["Tus-Resumable: 1.0.0", "Content-Type: application/offset+octet-stream"]
    lines = [head, *more, "Upload-Offset: 0", *LENGTHS[name]]
    with Line(server.port) as line:
        line.send("\r\n".join(lines).encode() + b"\r\n\r\n" + chunk(b"hello") + LAST_CHUNK)
        assert line.status() in {400, 413}
    wait_until_quiet(server)
    assert not file_of(server, upload_id).exists()
    assert told_offset(server, upload_id) == 0


@pytest.mark.parametrize("form", ["identity", "chunked"])
def test_a_client_that_would_rather_speak_http_2_is_served_in_http_1(
    server: OneWay, upload_id: str, form: str
) -> None:
    data = three(upload_id, form, **UPGRADE)
    with Line(server.port) as line:
        # Once in one go, once with the body in a packet of its own.
        line.send(data)
        assert read_three(line) == IN_ORDER
    assert stored(server, upload_id) == BODY
    another = server.create_upload(len(BODY))
    head, _, body = identity(another, 0, BODY, **UPGRADE).partition(b"\r\n\r\n")
    with Line(server.port) as line:
        line.send(head + b"\r\n\r\n")
        time.sleep(0.02)
        line.send(body)
        assert line.status() == 204
    assert stored(server, another) == BODY


def test_nobody_is_connected_through_the_service(server: OneWay) -> None:
    with Line(server.port) as line:
        line.send(b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert line.status() in {400, 405}
