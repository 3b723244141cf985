"""Measuring finished files: length and SHA-256, read once in a thread."""

import asyncio
import hashlib
import os
import threading
from pathlib import Path

from app.domain.errors import StorageFailed
from app.services.ports import Digest

_PIECE_BYTES = 1 << 20


class FileDigests:
    """Implements ``ports.Digests``. A cancelled call's thread ends with the piece it is at."""

    async def of(self, path: Path) -> Digest:
        is_over = threading.Event()
        try:
            return await asyncio.to_thread(_measure, path, is_over)
        finally:
            is_over.set()


def _measure(path: Path, is_over: threading.Event) -> Digest:
    digest = hashlib.sha256()
    piece = bytearray(_PIECE_BYTES)
    try:
        with path.open("rb", buffering=0) as file:
            while not is_over.is_set() and (count := file.readinto(piece)):
                digest.update(memoryview(piece)[:count])
            return Digest(size_bytes=os.fstat(file.fileno()).st_size, sha256=digest.hexdigest())
    except OSError as error:
        raise StorageFailed("A finished file cannot be read.") from error
