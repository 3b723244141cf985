"""Examines a database for ``tidemill doctor``: reads it as it is, and changes nothing."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, func, select

from app.domain.sweeps import PendingCleanup, SweepName
from app.infrastructure.database.connections import open_engine
from app.infrastructure.database.faults import VENDOR_ERRORS, translate
from app.infrastructure.database.link import Link
from app.infrastructure.database.migrate import current_revision, head_revision, knows_revision
from app.infrastructure.database.tables import instance, jobs, sessions, sweep_reports, uploads
from app.infrastructure.database.transaction import SqlTransaction
from app.infrastructure.database.urls import is_sqlite, parse_url
from app.services.disposal import ALARM_AFTER_ATTEMPTS
from app.services.storage_ledger import last_successes

BUSY_SECONDS = 5.0
STUCK_SHOWN = 5
_NEWEST = (
    uploads.c.created_at,
    sessions.c.created_at,
    jobs.c.created_at,
    sweep_reports.c.started_at,
)


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What the rows tell. ``stuck`` are the first few of ``stuck_count``; bytes are promised ones."""

    instance_id: str | None
    pending_count: int
    stuck_count: int
    stuck: tuple[PendingCleanup, ...]
    promised_bytes: int
    newest_at: datetime | None
    last_success: dict[SweepName, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What was found. ``rows`` is None when the schema is not the one of this version."""

    where: str
    exists: bool
    revision: str | None = None
    head: str = ""
    is_known: bool = False
    damage: tuple[str, ...] = ()
    size_bytes: int = 0
    log_bytes: int = 0
    rows: RowFacts | None = None


def look_at_database(url: str) -> DatabaseFacts:
    """Return the facts of the database at ``url``. Blocking; never makes a file.

    Raises ``DatabaseBusy`` or ``StorageFailed`` when it cannot be read, ValueError for an address
    that is not understood.
    """
    parsed = parse_url(url)
    path = Path(parsed.database or "") if is_sqlite(parsed) else None
    where = parsed.render_as_string() if path is None else str(path)
    if path is not None and not path.exists():
        return DatabaseFacts(where, exists=False)
    revision = current_revision(url)
    engine = open_engine(parsed, writer=False, busy_seconds=BUSY_SECONDS)
    try:
        with engine.connect() as connection, connection.begin():
            damage = _damage(connection) if path is not None else ()
            is_current = revision == head_revision()
            rows = _rows(connection) if is_current and not damage else None
    except VENDOR_ERRORS as error:
        raise translate(error) from error
    finally:
        engine.dispose()
    return DatabaseFacts(
        where,
        exists=True,
        revision=revision,
        head=head_revision(),
        is_known=knows_revision(revision),
        damage=damage,
        size_bytes=_size(path),
        log_bytes=_size(path and path.with_name(f"{path.name}-wal")),
        rows=rows,
    )


def _damage(connection: Connection) -> tuple[str, ...]:
    found = connection.exec_driver_sql("PRAGMA quick_check(3)").scalars().all()
    return tuple(str(each) for each in found if each != "ok")


def _rows(connection: Connection) -> RowFacts:
    tx = SqlTransaction(Link(connection))
    newest = [connection.execute(select(func.max(each))).scalar_one() for each in _NEWEST]
    return RowFacts(
        instance_id=connection.execute(select(instance.c.id)).scalar_one_or_none(),
        pending_count=tx.cleanup.count(),
        stuck_count=tx.cleanup.count(least_attempts=ALARM_AFTER_ATTEMPTS),
        stuck=tuple(tx.cleanup.list_stuck(ALARM_AFTER_ATTEMPTS, STUCK_SHOWN)),
        promised_bytes=tx.uploads.unwritten_bytes(),
        newest_at=max((each for each in newest if each is not None), default=None),
        last_success=last_successes(tx),
    )


def _size(path: Path | None) -> int:
    try:
        return path.stat().st_size if path is not None else 0
    except FileNotFoundError:
        return 0
