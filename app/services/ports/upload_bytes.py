"""The bytes of uploads on their way into their files."""

from collections.abc import Sequence
from typing import Protocol

from app.domain.uploads import FsyncMode


class UploadWriter(Protocol):
    """The bytes of one request on their way into an upload's file. Its upload's lock is held.

    Every method may raise ``NoSpace`` or ``StorageFailed``; the file then ends where ``written``
    says.
    """

    @property
    def position(self) -> int:
        """The offset after everything accepted so far."""
        ...

    @property
    def written(self) -> int:
        """The offset after everything that is in the file."""
        ...

    async def write(self, chunk: bytes | memoryview) -> None:
        """Accept the next bytes; they are in the file shortly after, in large pieces. Those of a
        memoryview are in it at once: what it shows may change afterwards.
        """
        ...

    async def settle(self) -> None:
        """Put what is accepted into the file."""
        ...

    async def sync(self) -> int:
        """Settle, make file and directory entry durable, and return the offset that now is."""
        ...

    async def cut_back(self, offset: int) -> None:
        """Forget what is not written yet and end the file at ``offset``."""
        ...

    async def close(self) -> None:
        """Settle and let go of the file; never raises, a repeat is harmless."""
        ...


class UploadBytes(Protocol):
    """The data files of uploads: ``uploads/<id>``, whose length is the offset."""

    @property
    def boot_id(self) -> str:
        """Changes whenever the machine boots."""
        ...

    @property
    def fsync(self) -> FsyncMode: ...

    def size(self, upload_id: str) -> int:
        """The file's length, 0 when it is not there."""
        ...

    async def open(self, upload_id: str, offset: int) -> UploadWriter:
        """Open the file for writing at ``offset``, creating it, and cut off what lies behind."""
        ...


class PartCopier(Protocol):
    """Puts data files of uploads together, by the kernel where it can."""

    async def copy(self, final_id: str, parts: Sequence[tuple[str, int]]) -> None:
        """Make the file of ``final_id`` the bytes of ``parts`` (id and length in bytes), in their
        order, and durable unless nothing ever is (``FsyncMode.OFF``). The caller holds them all,
        so that the file is there.

        What the file had is overwritten, and it grows from its beginning to its end: one that has
        the length of all parts is whole. Raises ``NoSpace`` and ``StorageFailed`` and leaves no
        bytes then; cancelled, it ends within one piece and leaves none either.
        """
        ...
