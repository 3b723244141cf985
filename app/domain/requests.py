"""A request whose answer is a file: what it brings and makes is its own, and goes when it ends."""

from dataclasses import dataclass
from datetime import datetime

from app.domain.layout import request_path


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """The row of one request under way. ``worker`` names the process that answers it.

    Written before the first byte of the body is kept, so its ids are those of what may come to be:
    the session its files fill, and its job. ``is_over``: it has ended, but not everything could be
    removed right then; whoever comes by does it.
    """

    id: str
    owner: str
    worker: str
    session_id: str
    job_id: str
    is_over: bool
    created_at: datetime

    @property
    def folder(self) -> str:
        """Where its files arrive."""
        return request_path(self.worker, self.id)
