"""Measuring files in a child that yields to everything else on the machine; small ones at once."""

import asyncio
import hashlib
import json
import os
import stat
import sys
from pathlib import Path

import structlog

from app.domain.errors import StorageFailed
from app.infrastructure.media.process_runner import Command, ProcessLimits, ProcessRunner
from app.infrastructure.media.sandbox import python_folders
from app.services.ports import Digest

log = structlog.get_logger(__name__)

SCRIPT = Path(__file__).with_name("digest_child.py")
ANSWER_BYTES = 1024
SMALL_BYTES = 64 * 1024
"""To read and hash so much takes a tenth of a millisecond, to start a child takes many."""


class QuietDigests:
    """Implements ``ports.Digests`` for files that nobody waits for. Cancelling stops the child.

    There is no time limit: a machine that is never idle may take as long as it likes.
    """

    def __init__(self, runner: ProcessRunner) -> None:
        self._runner = runner

    async def of(self, path: Path) -> Digest:
        # The sandbox shows the child what a path leads to: a planted link would be followed.
        small = await asyncio.to_thread(_measure_small, path)
        if small is not None:
            return small
        answer = bytearray()

        def collect(data: bytes) -> None:
            answer.extend(data[: ANSWER_BYTES - len(answer)])

        try:
            async with self._runner.start(_command(path), on_stdout=collect) as child:
                finished = await child.wait()
        except OSError as error:  # no child could be started: no process, memory or descriptor left
            log.warning("digest.not_started", error=str(error))
            raise StorageFailed("The file cannot be read.") from error
        if not finished.succeeded:
            # A file that was deleted meanwhile is nobody's trouble.
            if await asyncio.to_thread(_is_file, path):
                log.warning("digest.failed", stderr=finished.stderr)
            raise StorageFailed("The file cannot be read.")
        try:
            return Digest(**json.loads(answer))
        except (ValueError, TypeError) as error:
            raise StorageFailed("The file cannot be measured.") from error


def _measure_small(path: Path) -> Digest | None:
    """Return the digest of a small file, None of a large one. Raises StorageFailed without a file."""
    if not _is_file(path):
        raise StorageFailed("There is no file to be read.")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            content = file.read(SMALL_BYTES + 1)
    except OSError as error:
        raise StorageFailed("The file cannot be read.") from error
    if len(content) > SMALL_BYTES:
        return None
    return Digest(len(content), hashlib.sha256(content).hexdigest())


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _command(path: Path) -> Command:
    absolute = path.absolute()
    return Command(
        arguments=(sys.executable, "-I", "-S", str(SCRIPT), str(absolute)),
        folder=SCRIPT.parent,
        writable=False,
        readable=(*python_folders(), absolute),
        limits=ProcessLimits(address_space_bytes=512 * 2**20, open_files=64),
    )
