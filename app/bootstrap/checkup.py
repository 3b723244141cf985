"""Examines an installation part by part for ``tidemill doctor``, beside a service or without one."""

import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.bootstrap.place import database_url, refuse_cluster
from app.bootstrap.policies import sweep_intervals
from app.domain.errors import AppError
from app.domain.layout import RUN
from app.infrastructure.database.database_check import (
    DatabaseFacts,
    RowFacts,
    look_at_database,
)
from app.infrastructure.drawing.font_check import examine_fonts
from app.infrastructure.key_file import inspect_key
from app.infrastructure.media.media_check import examine_media
from app.infrastructure.scheduler.cleanup_scheduler import (
    LATE_AFTER_INTERVALS,
    LATE_AFTER_SECONDS,
)
from app.infrastructure.storage.folder_check import examine_folder, examine_space, instance_of
from app.infrastructure.storage.paths import StartRefused
from app.infrastructure.worker.worker_lock import WorkerLocks
from app.services.diagnosis import Finding, failure, note, ok, warning
from app.settings import Settings

KEY, DATABASE, CLEANUP, SWEEPS, CLOCK = "key", "database", "cleanup", "sweeps", "clock"
LARGE_LOG_BYTES = 256 * 2**20
FUTURE = timedelta(minutes=1)
_RESTORE = (
    "stop every Tidemill process, then restore the data folder and the database from one backup"
)


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found, and since when services have worked on the folder: empty for none."""

    findings: tuple[Finding, ...]
    living: dict[str, datetime]


def examine(settings: Settings) -> Examination:
    """Look at everything that settings, folder, database and media have. Blocking; a few seconds.

    Changes nothing: migrates nothing, makes no folder, and removes only the file of its own that it
    tries the disk with.
    """
    root = settings.data.data_dir.expanduser().absolute()
    living = WorkerLocks(root / RUN).living()
    facts, findings = _look(settings)
    rows = None if facts is None else facts.rows
    space = (
        examine_space(
            root,
            reserve_bytes=settings.disk.disk_reserve_bytes,
            promised_bytes=0 if rows is None else rows.promised_bytes,
        )
        if root.is_dir()
        else []
    )
    found = [*_examine_key(settings), *examine_folder(root), *space, *findings]
    if facts is not None:
        found += _examine_database(facts, instance_of(root))
    if rows is not None:
        now = datetime.now(UTC)
        found += [_examine_clock(rows, now), *_examine_cleanup(rows)]
        found += _examine_sweeps(settings, rows, living, now)
    found += examine_media(settings.media.ffmpeg_path, settings.media.sandbox)
    found += examine_fonts()
    return Examination(tuple(found), living)


def _examine_key(settings: Settings) -> list[Finding]:
    path = settings.access.admin_key_file
    if path is None and settings.is_open:
        return [ok(KEY, "none is needed: the service is for this machine only")]
    if path is None:
        what = "TIDEMILL_HOST, TIDEMILL_PUBLIC_URL or TIDEMILL_TRUSTED_PROXIES let others in"
        todo = "put a key into a file and name it in TIDEMILL_ADMIN_KEY_FILE, or bind to 127.0.0.1"
        return [failure(KEY, f"{what}, and there is no key", todo)]
    try:
        _, mode = inspect_key(path)
    except StartRefused as error:
        return [failure(KEY, str(error), f"correct {path}, then chmod 600 {path}")]
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        what = f"{path} can be read by other users of this machine (mode {mode:04o})"
        return [warning(KEY, what, f"chmod 600 {path}, unless an orchestrator mounts it so")]
    return [ok(KEY, f"{path} holds one and is for its owner only")]


def _look(settings: Settings) -> tuple[DatabaseFacts | None, list[Finding]]:
    try:
        refuse_cluster(settings)
        return look_at_database(database_url(settings)), []
    except (StartRefused, ValueError) as error:
        return None, [failure(DATABASE, str(error), "correct TIDEMILL_DATABASE_URL, or unset it")]
    except AppError as error:
        what = f"it cannot be read: {error.detail}"
        return None, [failure(DATABASE, what, f"if it stays so: {_RESTORE}")]


def _examine_database(facts: DatabaseFacts, marker: str | None) -> list[Finding]:
    if not facts.exists and marker is None:
        return [note(DATABASE, "there is none yet", "nothing: `tidemill serve` makes it")]
    is_empty = facts.revision is None and marker is not None and not facts.damage
    if not facts.exists or is_empty:
        how = "empty" if facts.exists else "gone"
        return [failure(DATABASE, f"{facts.where} is {how}, but the folder is in use", _RESTORE)]
    if facts.damage:
        return [failure(DATABASE, f"it is damaged: {facts.damage[0]}", _RESTORE)]
    if not facts.is_known:
        what = f"it is at revision {facts.revision}: a newer Tidemill wrote it"
        return [failure(DATABASE, what, f"start that version; or {_RESTORE}")]
    if facts.revision != facts.head:
        what = f"it is at revision {facts.revision}, this version needs {facts.head}"
        return [
            warning(DATABASE, what, "`tidemill migrate`, or the next `tidemill serve`, does it")
        ]
    findings = [
        ok(
            DATABASE,
            f"sound, at revision {facts.revision}, {_mib(facts.size_bytes)} "
            f"and a log of {_mib(facts.log_bytes)}",
        )
    ]
    if facts.log_bytes > LARGE_LOG_BYTES:
        what = f"its write-ahead log has grown to {_mib(facts.log_bytes)}"
        findings.append(warning(DATABASE, what, "end programs that read it for long, then restart"))
    known = None if facts.rows is None else facts.rows.instance_id
    if marker != known:
        what = f"it belongs to instance {known}, the folder to {marker}"
        findings.append(failure(DATABASE, what, _RESTORE))
    return findings


def _examine_clock(rows: RowFacts, now: datetime) -> Finding:
    ahead = timedelta(0) if rows.newest_at is None else rows.newest_at - now
    if ahead > FUTURE:
        what = f"the newest row lies {_span(ahead)} in the future: the clock was set back"
        return warning(CLOCK, what, "set the clock right; until then what expires stays longer")
    return ok(CLOCK, f"{now:%Y-%m-%d %H:%M:%S} UTC, and no row lies in the future")


def _examine_cleanup(rows: RowFacts) -> list[Finding]:
    todo = "remove what holds it; it is then deleted by itself, or at once by {command}"
    command = "`tidemill sweep spent_inputs`"
    findings = [
        warning(
            CLEANUP,
            f"{each.path} could not be deleted in {each.attempts} attempts: {each.last_error}",
            todo.format(command=command),
        )
        for each in rows.stuck
    ]
    if rows.stuck_count > len(rows.stuck):
        what = f"and {rows.stuck_count - len(rows.stuck)} more cannot be deleted"
        findings.append(warning(CLEANUP, what, "see to those above first"))
    return findings or [ok(CLEANUP, f"{rows.pending_count} files and folders wait to be deleted")]


def _examine_sweeps(
    settings: Settings, rows: RowFacts, living: dict[str, datetime], now: datetime
) -> list[Finding]:
    """Compare each sweep's last success with its interval; time without a service does not count."""
    late = []
    since = min(living.values(), default=None)
    for name, seconds in sweep_intervals(settings).items():
        last = rows.last_success.get(name)
        begun = max((each for each in (last, since) if each is not None), default=None)
        limit = timedelta(seconds=max(LATE_AFTER_INTERVALS * seconds, LATE_AFTER_SECONDS))
        if begun is not None and now - begun > limit:
            told = "never" if last is None else f"{_span(now - last)} ago"
            late.append((name.value, f"{name.value} is late: its last success was {told}"))
    if not late:
        return [ok(SWEEPS, "none is late")]
    if not living:
        names = ", ".join(name for name, _ in late)
        what = f"no service runs here, so that these are late: {names}"
        return [note(SWEEPS, what, "start the service: they are done soon after its start")]
    todo = "look for sweep.failed in the service's log; `tidemill sweep {name}` runs it now"
    return [failure(SWEEPS, what, todo.format(name=name)) for name, what in late]


def _span(length: timedelta) -> str:
    seconds = round(length.total_seconds())
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"
