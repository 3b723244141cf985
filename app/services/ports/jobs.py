"""What runs jobs, as services see it: the queue and its workers."""

from typing import Protocol


class JobQueue(Protocol):
    """The engine's side that services talk to."""

    async def enqueue(self, job_id: str, attempt: int) -> None:
        """Say that a queued job is there. Losing the call is harmless: the engine polls."""
        ...

    def cancel(self, job_id: str) -> None:
        """Stop a run of this process at once; nothing happens if it is not here."""
        ...


class Workers(Protocol):
    """Which workers are alive on this host. Blocking, but never for long."""

    def is_alive(self, worker: str) -> bool:
        """Whether a process still holds that worker's lock. A look, no promise."""
        ...

    def remove_stale(self) -> list[str]:
        """Remove what dead workers left of their locks; returns their names."""
        ...
