"""One open transaction: the repositories on its link."""

from app.infrastructure.database.batches import SqlBatches
from app.infrastructure.database.cleanup import SqlCleanup
from app.infrastructure.database.deliveries import SqlDeliveries
from app.infrastructure.database.idempotency import SqlIdempotency
from app.infrastructure.database.jobs import SqlJobs
from app.infrastructure.database.kept_clips import SqlKeptClips
from app.infrastructure.database.leases import SqlLeases
from app.infrastructure.database.link import Link
from app.infrastructure.database.outputs import SqlOutputs
from app.infrastructure.database.rates import SqlRates
from app.infrastructure.database.requests import SqlRequests
from app.infrastructure.database.sessions import SqlSessions
from app.infrastructure.database.sweep_reports import SqlSweepReports
from app.infrastructure.database.tombstones import SqlTombstones
from app.infrastructure.database.uploads import SqlUploads


class SqlTransaction:
    """Implements ``ports.Transaction``. A repository is made when it is asked for: most need two."""

    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def uploads(self) -> SqlUploads:
        return SqlUploads(self._link)

    @property
    def sessions(self) -> SqlSessions:
        return SqlSessions(self._link)

    @property
    def batches(self) -> SqlBatches:
        return SqlBatches(self._link)

    @property
    def jobs(self) -> SqlJobs:
        return SqlJobs(self._link)

    @property
    def outputs(self) -> SqlOutputs:
        return SqlOutputs(self._link)

    @property
    def kept_clips(self) -> SqlKeptClips:
        return SqlKeptClips(self._link)

    @property
    def tombstones(self) -> SqlTombstones:
        return SqlTombstones(self._link)

    @property
    def requests(self) -> SqlRequests:
        return SqlRequests(self._link)

    @property
    def leases(self) -> SqlLeases:
        return SqlLeases(self._link)

    @property
    def sweep_reports(self) -> SqlSweepReports:
        return SqlSweepReports(self._link)

    @property
    def cleanup(self) -> SqlCleanup:
        return SqlCleanup(self._link)

    @property
    def deliveries(self) -> SqlDeliveries:
        return SqlDeliveries(self._link)

    @property
    def idempotency(self) -> SqlIdempotency:
        return SqlIdempotency(self._link)

    @property
    def rates(self) -> SqlRates:
        return SqlRates(self._link)
