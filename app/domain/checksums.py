"""Checksums that a client may send with a body (tus 1.0.0, "Checksum"): the names, and comparing."""

import hashlib
import hmac
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

Bytes = bytes | bytearray | memoryview


class Hashing(Protocol):
    """A digest in the making."""

    def update(self, data: Bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class Crc32:
    """CRC-32 as zip and PNG have it; its digest is the number in four bytes, the highest first."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


# Not for security: they find bytes that were damaged on their way, also where a policy of the
# machine forbids the old ones.
ALGORITHMS: Mapping[str, Callable[[], Hashing]] = {
    "sha1": partial(hashlib.sha1, usedforsecurity=False),
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
    "md5": partial(hashlib.md5, usedforsecurity=False),
    "crc32": Crc32,
}
"""By the names that tus gives them: lower case, sha1 first since every server has that one."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a body must come to. ``algorithm`` is one of ``ALGORITHMS``, ``digest`` of its length."""

    algorithm: str
    digest: bytes

    def begin(self) -> "BodyCheck":
        """Return a check of one body, of which nothing has come yet."""
        return BodyCheck(self)


class BodyCheck:
    """Hashes one body piece by piece; memory does not grow with it."""

    def __init__(self, checksum: Checksum) -> None:
        self._checksum = checksum
        self._hashing = ALGORITHMS[checksum.algorithm]()

    @property
    def algorithm(self) -> str:
        return self._checksum.algorithm

    def add(self, data: Bytes) -> None:
        self._hashing.update(data)

    @property
    def is_right(self) -> bool:
        """Whether what was added so far is the whole body that the client meant."""
        return hmac.compare_digest(self._hashing.digest(), self._checksum.digest)


def digest_bytes(algorithm: str) -> int:
    """Return how long a digest of the algorithm is."""
    return len(ALGORITHMS[algorithm]().digest())
