"""Forms are taken apart the same way however their bytes are cut, and no bytes crash the parser."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from app.api.multipart import FormBody, FormLimits, Part
from app.domain.errors import MalformedRequest, RequestTooLarge

BOUNDARY = "--b0"
"""With dashes of its own, so that pieces of it are easily mistaken."""
LIMITS = FormLimits(max_bytes=2**20, read_timeout_seconds=5)


@dataclass
class Kept:
    """Everything that was passed on."""

    parts: list[tuple[Part, bytes]] = field(default_factory=list)
    open: Part | None = None
    data: bytes = b""

    async def begin(self, part: Part) -> None:
        assert self.open is None
        self.open, self.data = part, b""

    async def write(self, data: bytes) -> None:
        assert self.open is not None
        assert data
        self.data += data

    async def end(self) -> None:
        assert self.open is not None
        self.parts.append((self.open, self.data))
        self.open = None


def read(chunks: Sequence[bytes], limits: FormLimits = LIMITS) -> Kept:
    left = list(chunks)

    async def receive() -> Message:
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    media_type = f"multipart/form-data; boundary={BOUNDARY}".encode()
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", media_type)]}
    kept = Kept()
    asyncio.run(FormBody(Request(scope, receive), limits).read_into(kept))
    return kept


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[a:b] for a, b in pairwise(edges)]


def form(files: Sequence[tuple[str, bytes]]) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        f"Content-Type: video/mp4\r\n\r\n".encode()
        + body
        + b"\r\n"
        for name, body in files
    ]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


ALMOST = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"-", b"--", b"\r\n--", b"\r\n----b", b"\r\n----b1", b"b0", b"x"]
    )
).map(b"".join)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters='"\\%\r\n'), max_size=20)
FILES = st.lists(st.tuples(NAMES, ALMOST | st.binary(max_size=300)), max_size=5)
PLACES = st.lists(st.integers(0, 5000), max_size=30)


def lawful(files: Sequence[tuple[str, bytes]]) -> bool:
    return not any(f"\r\n--{BOUNDARY}".encode() in b"\r\n" + body for _, body in files)


@given(FILES.filter(lawful), PLACES)
@example([("a", b"\r\n----b")], [60, 100, 101, 102, 103, 104, 105, 106, 107])
def test_a_form_is_the_same_however_its_bytes_are_cut(
    files: list[tuple[str, bytes]], places: list[int]
) -> None:
    kept = read(cut(form(files), places))
    assert [(part.filename, body) for part, body in kept.parts] == files
    assert {(part.name, part.media_type) for part, _ in kept.parts} <= {("files", "video/mp4")}


@given(
    FILES,
    PLACES,
    st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=4), st.integers(0, 4)), max_size=4),
)
def test_a_damaged_form_is_read_or_refused_and_crashes_nothing(
    files: list[tuple[str, bytes]],
    places: list[int],
    damage: list[tuple[int, bytes, int]],
) -> None:
    body = form(files)
    for place, more, less in damage:
        at = place % len(body)
        body = body[:at] + more + body[at + less :] or b"-"
    try:
        kept = read(cut(body, places))
    except (MalformedRequest, RequestTooLarge):
        return
    assert kept.open is None


@given(FILES.filter(lawful), st.integers(min_value=0))
def test_a_form_that_is_cut_off_is_refused_wherever_that_is(
    files: list[tuple[str, bytes]], place: int
) -> None:
    whole = form(files).rstrip(b"\r\n")
    with pytest.raises(MalformedRequest):
        read([whole[: place % len(whole)]])


@pytest.mark.parametrize("extra", [0, 1])
def test_the_maximum_is_that_of_the_whole_body(extra: int) -> None:
    body = form([("a", b"x" * 1000)])
    limits = FormLimits(max_bytes=len(body) - extra, read_timeout_seconds=5)
    if extra:
        with pytest.raises(RequestTooLarge):
            read([body], limits)
    else:
        assert read([body], limits).parts[0][1] == b"x" * 1000


@pytest.mark.parametrize("unit", [b"\r\n--", b"\r\n----b", b"\r", b"-" * 61, b"\r\n----b0x"[:-2]])
def test_bytes_that_look_like_a_boundary_cost_no_more_than_others(unit: bytes) -> None:
    large = unit * (2**20 // len(unit))
    limits = FormLimits(max_bytes=2**22, read_timeout_seconds=5)
    body = form([("a", large)])
    kept = read(cut(body, range(0, len(body), 2**16)), limits)
    assert kept.parts[0][1] == large
