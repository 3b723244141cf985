"""The digest of a small file that comes in one body: its bytes pass by here anyway."""

import hashlib

SMALL_BYTES = 64 * 1024
"""To hash so much takes a fraction of a millisecond: less than to come back to the file later."""


class EarlyDigest:
    """Sees a body on its way into a file of ``length`` bytes, of which ``start`` are there already."""

    def __init__(self, start: int, length: int | None) -> None:
        is_small = start == 0 and length is not None and length <= SMALL_BYTES
        self._length = length
        self._seen = 0
        self._hash = hashlib.sha256() if is_small else None

    def add(self, chunk: bytes | memoryview) -> None:
        """Take note of the next bytes of the body."""
        if self._hash is not None:
            self._hash.update(chunk)
            self._seen += len(chunk)

    @property
    def sha256(self) -> str | None:
        """The digest in hex, None unless every byte of the file was seen."""
        if self._hash is None or self._seen != self._length:
            return None
        return self._hash.hexdigest()
