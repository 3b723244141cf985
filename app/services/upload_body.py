"""The body of a request that writes, as those who store it see it."""

from collections.abc import Awaitable
from enum import Enum
from typing import Protocol


class ReadBody(Protocol):
    def __call__(self) -> Awaitable[bytes | memoryview | None]:
        """Return the next bytes of a body, None at its end. Raises BodyInterrupted.

        A memoryview is valid until the next call only.
        """
        ...


class Interruption(Enum):
    CLIENT_GONE = "client_gone"
    STALLED = "stalled"


class BodyInterrupted(Exception):  # noqa: N818  named for what happened to the body
    """The body will not come to its end, and nobody waits for an answer; what came was kept."""

    def __init__(self, why: Interruption) -> None:
        self.why = why
        super().__init__(why.value)
