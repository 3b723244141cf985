"""Ranges, validators and names of downloads, and that no file stays open."""

import asyncio
import base64
import dataclasses
import hashlib
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.api.file_response import (
    PIECE_BYTES,
    FileResponse,
    StoredFile,
    content_disposition,
    etag_of,
)
from app.api.ranges import may_use_range, parse_range
from app.domain.errors import OutputGone, RangeNotSatisfiable, StorageFailed

MADE = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
DATE = format_datetime(MADE, usegmt=True)


class Client:
    """A bare ASGI client: gathers what is sent, can hang up after so many pieces."""

    def __init__(self, method: str = "GET", leave_after: int | None = None, **headers: str) -> None:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": "/",
            "headers": [(n.encode(), v.encode()) for n, v in names.items()],
            "state": {"request_id": "r1"},
        }
        self.status = 0
        self.headers = Headers()
        self.pieces: list[bytes] = []
        self.is_complete = False
        self._leave_after = leave_after
        self._gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = Headers(raw=message["headers"])
            return
        self.pieces.append(message.get("body", b""))
        self.is_complete = not message.get("more_body", False)
        if self._leave_after is not None and len(self.pieces) >= self._leave_after:
            self._gone.set()
            await asyncio.sleep(0)

    async def get(self, response: FileResponse) -> bytes:
        await response(self.scope, self.receive, self.send)
        return b"".join(self.pieces)


def make_file(tmp_path: Path, data: bytes) -> StoredFile:
    path = tmp_path / "stored"
    path.write_bytes(data)
    return StoredFile(path, "clip.mp4", "video/mp4", MADE, hashlib.sha256(data).hexdigest())


async def test_a_file_of_another_length_than_its_row_is_no_answer(tmp_path: Path) -> None:
    file = dataclasses.replace(make_file(tmp_path, b"x" * 100), size_bytes=100)
    assert await Client().get(respond(file)) == b"x" * 100
    file.path.write_bytes(b"x" * 10)
    client = Client()
    with pytest.raises(StorageFailed, match="has 10 bytes, but should have 100"):
        await client.get(respond(file))
    assert client.pieces == []


async def test_the_tag_of_an_upload_stays_when_its_digest_becomes_known(tmp_path: Path) -> None:
    known = make_file(tmp_path, b"x")
    unknown = dataclasses.replace(known, sha256=None, etag_seed="a" * 32)
    assert etag_of(unknown) == etag_of(dataclasses.replace(known, etag_seed="a" * 32))


def respond(file: StoredFile) -> FileResponse:
    return FileResponse(file, missing=OutputGone())


def open_files() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.add(str(entry.readlink()))
    return found


async def test_the_whole_file_comes_with_everything_a_client_needs_to_trust_it(
    tmp_path: Path,
) -> None:
    data = os.urandom(PIECE_BYTES * 2 + 17)
    client = Client()
    assert await client.get(respond(make_file(tmp_path, data))) == data
    assert client.status == 200
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert dict(client.headers) | {} == {
        "content-type": "video/mp4",
        "content-length": str(len(data)),
        "content-disposition": 'attachment; filename="clip.mp4"',
        "accept-ranges": "bytes",
        "etag": f'"{hashlib.sha256(data).hexdigest()}"',
        "last-modified": DATE,
        "repr-digest": f"sha-256=:{digest}:",
        "cache-control": "private, no-cache",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
        "cross-origin-resource-policy": "cross-origin",
    }
    assert max(len(piece) for piece in client.pieces) <= PIECE_BYTES


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=990-", 990, 1000),
        ("bytes=-10", 990, 1000),
        ("bytes=-5000", 0, 1000),
        ("bytes=500-99999", 500, 1000),
        ("BYTES = 1 - 2", 1, 3),
    ],
)
async def test_a_part_is_exactly_the_bytes_asked_for(
    tmp_path: Path, asked: str, start: int, end: int
) -> None:
    data = os.urandom(1000)
    client = Client(range=asked)
    assert await client.get(respond(make_file(tmp_path, data))) == data[start:end]
    assert client.status == 206
    assert client.headers["content-range"] == f"bytes {start}-{end - 1}/1000"
    assert client.headers["content-length"] == str(end - start)


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,5-6", "items=0-1", "bytes=9-1", "bytes=-", "bytes=a-b", "bytes", ""]
)
async def test_a_range_that_means_nothing_here_brings_the_whole_file(
    tmp_path: Path, asked: str
) -> None:
    client = Client(range=asked)
    assert await client.get(respond(make_file(tmp_path, b"abc"))) == b"abc"
    assert client.status == 200


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=5000-6000", "bytes=-0"])
async def test_a_range_behind_the_end_says_how_long_the_file_is(tmp_path: Path, asked: str) -> None:
    client = Client(range=asked)
    await client.get(respond(make_file(tmp_path, bytes(1000))))
    assert client.status == 416
    assert client.headers["content-range"] == "bytes */1000"
    assert client.headers["content-type"] == "application/problem+json"


async def test_any_range_of_an_empty_file_cannot_be_had(tmp_path: Path) -> None:
    client = Client(range="bytes=0-")
    await client.get(respond(make_file(tmp_path, b"")))
    assert client.status == 416
    whole = Client()
    assert await whole.get(respond(make_file(tmp_path, b""))) == b""
    assert whole.is_complete


async def test_if_range_with_another_tag_brings_the_whole_new_file(tmp_path: Path) -> None:
    file = make_file(tmp_path, bytes(100))
    for condition, status in [
        (f'"{file.sha256}"', 206),
        (f'W/"{file.sha256}"', 200),
        ('"other"', 200),
        (DATE, 206),
        (format_datetime(MADE + timedelta(seconds=1), usegmt=True), 200),
        ("nonsense", 200),
    ]:
        client = Client(range="bytes=0-9", if_range=condition)
        await client.get(respond(file))
        assert client.status == status, condition


async def test_a_client_that_has_the_file_gets_no_bytes(tmp_path: Path) -> None:
    file = make_file(tmp_path, bytes(100))
    cases: list[tuple[dict[str, Any], int]] = [
        ({"if_none_match": f'"{file.sha256}"'}, 304),
        ({"if_none_match": f'"x", W/"{file.sha256}"'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"x"'}, 200),
        ({"if_modified_since": DATE}, 304),
        ({"if_modified_since": "Sat, 21 Nov 2020 12:00:00 GMT"}, 200),
        ({"if_modified_since": "yesterday"}, 200),
        # The tag decides where both are there (RFC 9110, 13.2.2).
        ({"if_none_match": '"x"', "if_modified_since": DATE}, 200),
    ]
    for headers, status in cases:
        client = Client(**headers)
        body = await client.get(respond(file))
        assert client.status == status, headers
        assert (body == b"") == (status == 304)


async def test_head_has_the_headers_of_get_and_ignores_range(tmp_path: Path) -> None:
    client = Client("HEAD", range="bytes=0-1")
    assert await client.get(respond(make_file(tmp_path, bytes(100)))) == b""
    assert client.status == 200
    assert client.headers["content-length"] == "100"


async def test_a_file_that_is_gone_answers_what_was_given_for_that(tmp_path: Path) -> None:
    file = make_file(tmp_path, b"x")
    file.path.unlink()
    client = Client()
    await client.get(respond(file))
    assert client.status == 410


async def test_a_client_that_leaves_ends_the_reading_and_closes_the_file(tmp_path: Path) -> None:
    file = make_file(tmp_path, bytes(PIECE_BYTES * 64))
    client = Client(leave_after=2)
    await client.get(respond(file))
    assert len(client.pieces) < 8
    assert not client.is_complete
    assert str(file.path) not in open_files()


async def test_a_cancelled_download_closes_the_file(tmp_path: Path) -> None:
    file = make_file(tmp_path, bytes(PIECE_BYTES * 4))
    began = asyncio.Event()

    class Slow(Client):
        async def send(self, message: Any) -> None:
            began.set()
            await asyncio.sleep(60)

    client = Slow()
    download = asyncio.ensure_future(client.get(respond(file)))
    await began.wait()
    assert str(file.path) in open_files()
    download.cancel()
    with pytest.raises(asyncio.CancelledError):
        await download
    assert str(file.path) not in open_files()


async def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    file = make_file(tmp_path, b"secret")
    target = file.path.rename(tmp_path / "elsewhere")
    file.path.symlink_to(target)
    with pytest.raises(Exception, match="cannot be opened"):
        await Client().get(respond(file))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("clip.mp4", "clip.mp4"),
        ('a"b.mp4', "a_b.mp4"),
        ("a\r\nSet-Cookie: x=1.mp4", "aSet-Cookie: x=1.mp4"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\x.mp4", "C:_x.mp4"),
        ("100%.mp4", "100_.mp4"),
        ("übung.mp4", "_bung.mp4"),
        ("", "download"),
        ("...", "download"),
        ("\u202egpj.exe", "gpj.exe"),
    ],
)
def test_a_file_name_cannot_break_out_of_its_header(name: str, plain: str) -> None:
    assert content_disposition(name).startswith(f'attachment; filename="{plain}"')


def test_a_name_with_other_letters_comes_whole_beside_its_plain_form() -> None:
    header = content_disposition("Größe 5€.mp4")
    assert header == (
        "attachment; filename=\"Gr__e 5_.mp4\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%205%E2%82%AC.mp4"
    )


def test_a_long_name_keeps_its_ending() -> None:
    header = content_disposition("a" * 500 + ".mp4")
    assert header.endswith('.mp4"')
    assert len(header) < 260


@given(st.text(max_size=300))
def test_whatever_the_name_the_header_is_one_line_of_ascii(name: str) -> None:
    header = content_disposition(name)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2
    if "filename*=" in header:
        assert unquote(header.partition("''")[2]).isprintable()


@given(st.text(alphabet="bytes=-,0123456789 ", max_size=40), st.integers(0, 2000))
def test_whatever_is_asked_a_span_lies_inside_the_file(text: str, size: int) -> None:
    try:
        span = parse_range(text, size)
    except RangeNotSatisfiable:
        return
    assert span is None or 0 <= span.start < span.end <= size


def test_a_date_of_another_zone_is_no_condition() -> None:
    headers = Headers({"if-range": "Sat, 21 Nov 2026 13:00:00 +0100"})
    assert not may_use_range(headers, '"x"', MADE)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"if_match": '"x"'}, 412),
        ({"if_match": 'W/"{tag}"'}, 412),
        ({"if_match": '"x", "{tag}"'}, 200),
        ({"if_match": "*"}, 200),
        ({"if_match": '"x"', "if_none_match": '"{tag}"'}, 412),
        ({"if_match": '"{tag}"', "if_none_match": '"{tag}"'}, 304),
        ({"if_match": '"x"', "range": "bytes=0-3"}, 412),
        ({"if_match": '"{tag}"', "range": "bytes=0-3"}, 206),
        ({"if_match": '"{tag}"', "if_unmodified_since": "Sat, 21 Nov 2026 11:59:59 GMT"}, 200),
        ({"if_unmodified_since": "Sat, 21 Nov 2026 11:59:59 GMT"}, 412),
        ({"if_unmodified_since": DATE}, 200),
        ({"if_unmodified_since": "no date"}, 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_wants_that_file_and_no_other_is_told_412_when_it_is_another(
    tmp_path: Path, method: str, asked: dict[str, str], status: int
) -> None:
    file = make_file(tmp_path, b"0123456789")
    tag = (etag_of(file) or "").strip('"')
    told = {name: value.replace("{tag}", tag) for name, value in asked.items()}
    client = Client(method, None, **told)
    await respond(file)(client.scope, client.receive, client.send)
    assert client.status == (200 if (method, status) == ("HEAD", 206) else status)
