"""What every sweep is made of: one run with its limit and tally, and how an entry may fail."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Protocol

import structlog

from app.domain.errors import AppError, ConflictingUpdate, UploadLocked
from app.domain.sweeps import SweepName, SweepTally, Victim
from app.services.disposal import Settled

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class SweepRun:
    """One run: what it may do and what it has counted. ``limit`` bounds the victims of a run.

    ``cutoff`` is set by the sweep: what is older than it goes.
    """

    name: SweepName
    now: datetime
    limit: int
    dry_run: bool = False
    cutoff: datetime | None = None
    tally: SweepTally = field(default_factory=SweepTally)

    @contextmanager
    def entry(self, kind: str, thing_id: str) -> Iterator[None]:
        """Examine one thing: trouble with it is counted and logged and does not stop the run."""
        self.tally.examined += 1
        try:
            yield
        except UploadLocked:
            self.skip("being_written")
        except ConflictingUpdate:
            self.skip("changed")
        except (AppError, OSError) as error:
            what = error.code if isinstance(error, AppError) else type(error).__name__
            self.tally.errors.append(f"{kind} {thing_id}: {what}")
            log.warning(
                "sweep.entry_failed",
                sweep=self.name.value,
                kind=kind,
                id=thing_id,
                code=what,
                error=str(error),
            )

    def skip(self, reason: str) -> None:
        """Count the present entry as left alone for ``reason``."""
        self.tally.skip(reason)

    def claim(self, victim: Victim) -> bool:
        """Note a victim; False means that this is a dry run and it must be left alone."""
        self.tally.victims.append(victim)
        return not self.dry_run

    def count_repaired(self) -> None:
        """Count one thing that was put right."""
        self.tally.removed += 1

    def count_removed(self, settled: list[Settled]) -> None:
        """Count one thing that is gone with its bytes; bytes that stayed are errors instead."""
        self.count_bytes(settled)
        if all(result.error is None for result in settled):
            self.tally.removed += 1

    def count_bytes(self, settled: list[Settled]) -> None:
        """Count verified bytes, and an error for each path that could not be deleted."""
        for result in settled:
            self.tally.bytes_freed += result.freed_bytes
            if result.error is not None:
                self.tally.errors.append(f"cleanup {result.path}: {result.error}")


class Sweep(Protocol):
    """One sweep. A run is bounded by ``SweepRun.limit``, and repeating it is harmless.

    Every victim is looked at again just before it goes, under its lock or in the transaction that
    buries it. In a dry run nothing changes.
    """

    name: ClassVar[SweepName]

    async def run(self, run: SweepRun) -> None: ...
