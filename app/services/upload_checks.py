"""Comparing a body with the checksum its client sent, while the body comes."""

import asyncio

from app.domain.checksums import BodyCheck
from app.domain.errors import ChecksumMismatch

HASH_BYTES = 256 * 1024
"""So much is hashed at a time: for less than a millisecond nobody else's request is served."""


def require_right(check: BodyCheck | None, offset: int) -> None:
    """Raise ChecksumMismatch unless what was added to ``check`` is what its client meant."""
    if check is not None and not check.is_right:
        msg = f"The {check.algorithm} of the body is not the one in Upload-Checksum; nothing was kept."
        raise ChecksumMismatch(msg, extra={"offset": offset})


async def add_to(check: BodyCheck, chunk: bytes | memoryview) -> None:
    """Add a chunk, and let others go on between the pieces of a large one."""
    with memoryview(chunk) as whole:
        for begin in range(0, len(chunk), HASH_BYTES):
            if begin:
                await asyncio.sleep(0)
            check.add(whole[begin : begin + HASH_BYTES])
