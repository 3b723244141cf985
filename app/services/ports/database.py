"""Transactions, and the repositories that one of them has."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from app.services.ports.job_rows import (
    DeliveryRows,
    JobRows,
    KeptClipRows,
    OutputRows,
    RateRows,
)
from app.services.ports.record_rows import (
    CleanupRows,
    IdempotencyRows,
    LeaseRows,
    RequestRows,
    SweepReportRows,
    TombstoneRows,
)
from app.services.ports.upload_rows import BatchRows, SessionRows, UploadRows

T = TypeVar("T")


class Transaction(Protocol):
    """One open transaction and its repositories. Never kept beyond the function it was given to."""

    @property
    def uploads(self) -> UploadRows: ...

    @property
    def sessions(self) -> SessionRows: ...

    @property
    def batches(self) -> BatchRows: ...

    @property
    def jobs(self) -> JobRows: ...

    @property
    def outputs(self) -> OutputRows: ...

    @property
    def kept_clips(self) -> KeptClipRows: ...

    @property
    def tombstones(self) -> TombstoneRows: ...

    @property
    def deliveries(self) -> DeliveryRows: ...

    @property
    def idempotency(self) -> IdempotencyRows: ...

    @property
    def rates(self) -> RateRows: ...

    @property
    def requests(self) -> RequestRows: ...

    @property
    def leases(self) -> LeaseRows: ...

    @property
    def sweep_reports(self) -> SweepReportRows: ...

    @property
    def cleanup(self) -> CleanupRows: ...


class Database(Protocol):
    """Transactions as whole functions. Errors raised by ``work`` roll back and pass through.

    Raises ``DatabaseBusy`` when the database does not answer within its limit. ``work`` may not be
    retried: it runs at most once.
    """

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` on the one writer, and return once it is committed and durable."""
        ...

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` on a consistent snapshot; it must not write."""
        ...

    async def look(self, work: Callable[[Transaction], T]) -> T:
        """Like ``read``, for ``work`` that finds a few rows by their ids and does nothing else.

        It may run on the event loop's own thread while the database has been answering at once: it
        takes microseconds, and neither lists nor counts anything unbounded. Unlike the work of the
        others it may run again.
        """
        return await self.read(work)

    async def check(self) -> None:
        """Prove that the database answers, for readiness."""
        ...

    async def checkpoint(self) -> None:
        """Give the space of deleted rows back where the database does not do it by itself."""
        ...
