"""Upload-Checksum: read strictly, and compared without holding up anybody."""

import asyncio
import base64
import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.api.tus.headers import body_checksum
from app.domain.checksums import ALGORITHMS, Checksum, digest_bytes
from app.domain.errors import ChecksumAlgorithmUnsupported, ChecksumMismatch, InvalidHeader
from app.services.upload_checks import HASH_BYTES, add_to, require_right


def read(value: str) -> Checksum | None:
    return body_checksum(Headers({"Upload-Checksum": value}))


@given(st.sampled_from(sorted(ALGORITHMS)), st.data())
def test_every_digest_of_the_right_length_is_understood(
    algorithm: str, data: st.DataObject
) -> None:
    size = digest_bytes(algorithm)
    digest = data.draw(st.binary(min_size=size, max_size=size))
    value = f"{algorithm} {base64.b64encode(digest).decode()}"
    assert read(value) == Checksum(algorithm, digest)


@given(
    st.one_of(
        st.text(st.characters(max_codepoint=255), max_size=60),
        st.builds(
            "{} {}".format,
            st.sampled_from(sorted(ALGORITHMS)),
            st.text(string.ascii_letters + string.digits + "+/= ", max_size=100),
        ),
    )
)
def test_whatever_comes_is_a_checksum_or_refused(value: str) -> None:
    try:
        found = read(value)
    except (InvalidHeader, ChecksumAlgorithmUnsupported):
        return
    assert found is not None
    assert len(found.digest) == digest_bytes(found.algorithm)
    assert value.startswith(f"{found.algorithm} ")


def test_without_the_header_nothing_is_compared() -> None:
    assert body_checksum(Headers({})) is None
    require_right(None, 5)


async def test_others_go_on_while_a_large_piece_is_hashed() -> None:
    piece = bytes(16 * HASH_BYTES)
    check = Checksum("sha256", hashlib.sha256(piece).digest()).begin()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(others())
    await add_to(check, memoryview(piece))
    running.cancel()
    assert turns >= 15
    assert check.is_right
    check.add(b"!")
    with pytest.raises(ChecksumMismatch) as caught:
        require_right(check, 7)
    assert caught.value.extra == {"offset": 7}
