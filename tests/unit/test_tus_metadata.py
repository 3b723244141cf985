"""Upload-Metadata and the other headers of tus, read strictly."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.api.tus.headers import body_size, declared_length, whole_number
from app.api.tus.metadata import parse_metadata
from app.domain.errors import InvalidHeader, InvalidMetadata

KEYS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1
)


@given(st.dictionaries(KEYS, st.binary(max_size=50), max_size=8))
def test_every_well_formed_header_is_kept_as_it_came(fields: dict[str, bytes]) -> None:
    header = ",".join(
        f"{key} {base64.b64encode(value).decode()}".rstrip() for key, value in fields.items()
    )
    found = parse_metadata(header, 100_000)
    assert found.raw == header
    known = dict(found.fields)
    for key, value in fields.items():
        try:
            text = value.decode()
        except UnicodeDecodeError:
            assert key not in known
        else:
            assert known.get(key, text) == text
            assert ("\0" in text) == (key not in known)


@given(st.text(max_size=60))
def test_whatever_comes_is_understood_or_refused(header: str) -> None:
    try:
        found = parse_metadata(header, 1000)
    except InvalidMetadata:
        return
    assert found.raw == header


def test_the_limit_counts_the_whole_header() -> None:
    assert parse_metadata("a YQ==", 6).fields == (("a", "a"),)
    with pytest.raises(InvalidMetadata):
        parse_metadata("a YQ==", 5)


@pytest.mark.parametrize(
    ("order", "found"), [("7", 7), ("0", 0), ("-1", None), ("1.5", None), ("1" * 10, None)]
)
def test_an_order_is_a_small_whole_number_or_none(order: str, found: int | None) -> None:
    header = f"order {base64.b64encode(order.encode()).decode()}"
    assert parse_metadata(header, 100).order == found


@pytest.mark.parametrize("kind", ["video/mp4\r\nx: y", "video", "text/html;charset=utf-8", "a/b/c"])
def test_a_strange_media_type_is_not_believed(kind: str) -> None:
    header = f"filetype {base64.b64encode(kind.encode()).decode()}"
    assert parse_metadata(header, 200).media_type is None


@pytest.mark.parametrize("value", ["", "-1", "+1", "1_0", "1.0", "0x1", " 1", "٣", "1" * 41, "nan"])
def test_only_plain_digits_are_a_number(value: str) -> None:
    headers = Headers(raw=[(b"upload-length", value.encode())])
    with pytest.raises(InvalidHeader):
        whole_number(headers, "Upload-Length")


def test_a_header_sent_twice_is_refused() -> None:
    headers = Headers(raw=[(b"upload-length", b"1"), (b"upload-length", b"1")])
    with pytest.raises(InvalidHeader):
        declared_length(headers)


def test_a_chunked_body_has_no_size() -> None:
    assert body_size(Headers({"transfer-encoding": "chunked"})) is None
    assert body_size(Headers({"content-length": "7"})) == 7
    assert body_size(Headers({})) == 0
