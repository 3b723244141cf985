"""Reading what sweeps have reported."""

from app.domain.sweeps import SweepReport
from app.services.ports import Database


async def latest_reports(db: Database, limit: int) -> list[SweepReport]:
    """Return the latest reports of all sweeps, newest first."""
    return await db.read(lambda tx: tx.sweep_reports.list_latest(limit))
