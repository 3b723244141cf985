"""Reading what sweeps have reported."""

from app.domain.sweeps import SweepName, SweepReport
from app.services.ports import Cursor, Database


async def list_reports(
    db: Database, cursor: Cursor | None, limit: int, sweep: SweepName | None
) -> tuple[list[SweepReport], Cursor | None]:
    """Return a page of reports, newest first, and where the next begins (None: no more).

    ``sweep`` None: of all sweeps.
    """
    found = await db.read(
        lambda tx: tx.sweep_reports.list_latest(limit + 1, cursor=cursor, sweep=sweep)
    )
    page = found[:limit]
    if len(found) <= limit or not page:
        return page, None
    return page, Cursor(page[-1].started_at, page[-1].id)
