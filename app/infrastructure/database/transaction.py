"""One open transaction: the repositories on its connection."""

from sqlalchemy import Connection

from app.infrastructure.database.batches import SqlBatches
from app.infrastructure.database.cleanup import SqlCleanup
from app.infrastructure.database.deliveries import SqlDeliveries
from app.infrastructure.database.idempotency import SqlIdempotency
from app.infrastructure.database.jobs import SqlJobs
from app.infrastructure.database.leases import SqlLeases
from app.infrastructure.database.outputs import SqlOutputs
from app.infrastructure.database.rates import SqlRates
from app.infrastructure.database.sessions import SqlSessions
from app.infrastructure.database.sweep_reports import SqlSweepReports
from app.infrastructure.database.tombstones import SqlTombstones
from app.infrastructure.database.uploads import SqlUploads


class SqlTransaction:
    """Implements ``ports.Transaction``."""

    __slots__ = (
        "batches",
        "cleanup",
        "deliveries",
        "idempotency",
        "jobs",
        "leases",
        "outputs",
        "rates",
        "sessions",
        "sweep_reports",
        "tombstones",
        "uploads",
    )

    def __init__(self, connection: Connection) -> None:
        self.uploads = SqlUploads(connection)
        self.sessions = SqlSessions(connection)
        self.batches = SqlBatches(connection)
        self.jobs = SqlJobs(connection)
        self.outputs = SqlOutputs(connection)
        self.tombstones = SqlTombstones(connection)
        self.leases = SqlLeases(connection)
        self.sweep_reports = SqlSweepReports(connection)
        self.cleanup = SqlCleanup(connection)
        self.deliveries = SqlDeliveries(connection)
        self.idempotency = SqlIdempotency(connection)
        self.rates = SqlRates(connection)
