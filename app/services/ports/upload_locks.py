"""One writer per upload."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, Self


class UploadLocks(Protocol):
    """One writer per upload, across processes; the newest wins."""

    def hold(self, upload_id: str, *, wait_seconds: float) -> "UploadHold":
        """An async context manager: asks a present writer to stop, then holds the upload.

        Raises ``UploadLocked`` when it did not let go within ``wait_seconds``.
        """
        ...

    def is_held(self, upload_id: str) -> bool:
        """Whether some process writes the upload right now. A look, no promise."""
        ...


class UploadHold(Protocol):
    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *exc: object) -> None: ...


class WriterHold(UploadHold, Protocol):
    """The hold of a request that writes: a newer request may ask it to stop."""

    async def __aenter__(self) -> Self: ...

    @property
    def is_asked_to_stop(self) -> bool: ...

    def keep_file(self) -> None:
        """Keep the data file although it is empty (a completed upload of no bytes)."""
        ...

    def interruptible(self, seconds: float) -> AbstractAsyncContextManager[None]:
        """Guard one wait: ``TimeoutError`` after ``seconds``, or at once when asked to stop."""
        ...


class WriterLocks(UploadLocks, Protocol):
    def hold_for_writing(
        self,
        upload_id: str,
        *,
        wait_seconds: float,
        before_asking: Callable[[], Awaitable[None]] | None = None,
    ) -> WriterHold:
        """Like ``hold``, but the newest of several such holders wins.

        ``before_asking`` is for who does not know yet whether it may write, or whether there is such
        an upload: it is awaited before a present writer is asked to stop or a file is made, and not
        at all where the upload's file is there and free. What it raises goes through.
        """
        ...
