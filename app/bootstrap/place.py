"""The place a process works on: its folder and database, which must belong together."""

from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from alembic.util import CommandError

from app.domain.layout import DATABASE, MARKER
from app.infrastructure.database.migrate import (
    current_revision,
    get_instance_id,
    head_revision,
    set_instance_id,
    upgrade,
)
from app.infrastructure.database.urls import is_sqlite, parse_url, sqlite_url
from app.infrastructure.storage.instance import check_instance, read_marker, startup_lock
from app.infrastructure.storage.paths import DataFolder, StartRefused
from app.settings import Settings

log = structlog.get_logger(__name__)

LOCK_SECONDS = 60.0
"""How long a start waits for another one on the same folder, which may be migrating."""


@dataclass(frozen=True, slots=True)
class Place:
    """An opened folder, the address of its database, and the id that both carry."""

    folder: DataFolder
    database_url: str
    instance_id: str


def database_url(settings: Settings) -> str:
    """Return the address of the database, the one in the data folder unless another is set."""
    root = settings.data.data_dir.expanduser().absolute()
    return settings.data.database_url or sqlite_url(root / DATABASE)


def refuse_cluster(settings: Settings) -> None:
    """Raise ``StartRefused`` for a database that only the cluster will run on."""
    if not is_sqlite(parse_url(database_url(settings))):
        msg = (
            "TIDEMILL_DATABASE_URL names a PostgreSQL database, but this version serves from SQLite "
            "only; running on PostgreSQL comes with the cluster. Unset it to use the database in "
            "the data folder. (`tidemill migrate` works on both.)"
        )
        raise StartRefused(msg)


def prepare_place(settings: Settings) -> Place:
    """Make or open the folder, migrate its database, and tie the two. Blocking; repeatable.

    All under the folder's lock, so that processes which start at once migrate once. Raises
    ``StartRefused``, and database errors.
    """
    url = database_url(settings)
    folder = DataFolder.open(settings.data.data_dir)
    with startup_lock(folder, wait_seconds=LOCK_SECONDS):
        known = get_instance_id(url)
        instance_id = check_instance(folder, known, now=datetime.now(UTC))
        _upgrade(url)
        if known is None:
            set_instance_id(url, instance_id)
    return Place(folder, url, instance_id)


def find_place(settings: Settings) -> Place:
    """Open the folder of an installation that is there; changes nothing. Blocking.

    Raises ``StartRefused`` when there is none, or it has not the schema of this version.
    """
    url = database_url(settings)
    root = settings.data.data_dir.expanduser().absolute()
    if not (root / MARKER).is_file():
        msg = f"There is no Tidemill data folder at {root}: `tidemill serve` makes one."
        raise StartRefused(msg)
    folder = DataFolder.open(root)
    marker, known = read_marker(folder), get_instance_id(url)
    if marker is None or known is None or marker.id != known:
        msg = f"The folder {root} and its database do not belong together: see `tidemill serve`."
        raise StartRefused(msg)
    found = current_revision(url)
    if found != head_revision():
        msg = (
            f"The database is at revision {found}, this version needs {head_revision()}: "
            "run `tidemill migrate`, or use the version that serves."
        )
        raise StartRefused(msg)
    return Place(folder, url, known)


def migrate_database(settings: Settings) -> tuple[str | None, str]:
    """Bring the database to the schema of this version; return its revision before and after.

    For a SQLite database with the checks and the lock of a start. Blocking; repeatable. Raises
    ``StartRefused``, and database errors.
    """
    url = database_url(settings)
    before = current_revision(url)
    if is_sqlite(parse_url(url)):
        prepare_place(settings)
    else:
        _upgrade(url)
    return before, head_revision()


def _upgrade(url: str) -> None:
    before = current_revision(url)
    try:
        upgrade(url)
    except CommandError as error:
        msg = (
            f"The database is at revision {before}, which this version does not know: it was "
            "written by a newer Tidemill. Start that one, or restore a backup of folder and "
            "database from before."
        )
        raise StartRefused(msg) from error
    if before != head_revision():
        log.info("database.migrated", before=before, after=head_revision())
