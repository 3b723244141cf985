"""Measuring finished files: length and SHA-256, read once in a thread."""

import asyncio
import hashlib
import os
from pathlib import Path

from app.domain.errors import StorageFailed
from app.services.ports import Digest

_PIECE_BYTES = 1 << 20


class FileDigests:
    """Implements ``ports.Digests``. A cancelled call leaves a thread that only reads."""

    async def of(self, path: Path) -> Digest:
        return await asyncio.to_thread(_measure, path)


def _measure(path: Path) -> Digest:
    digest = hashlib.sha256()
    piece = bytearray(_PIECE_BYTES)
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(piece):
                digest.update(memoryview(piece)[:count])
            return Digest(size_bytes=os.fstat(file.fileno()).st_size, sha256=digest.hexdigest())
    except OSError as error:
        raise StorageFailed("A finished file cannot be read.") from error
