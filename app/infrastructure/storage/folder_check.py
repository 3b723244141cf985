"""Examines a data folder for ``tidemill doctor``: whose it is, and whether its disk can do the work."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.domain.ids import new_id
from app.domain.layout import MARKER, RUN
from app.infrastructure.storage.instance import read_marker
from app.infrastructure.storage.paths import (
    DataFolder,
    StartRefused,
    refuse_foreign,
    refuse_scattered,
)
from app.services.diagnosis import Finding, failure, note, ok, warning

FOLDER, DISK, CLOCK = "folder", "disk", "clock"

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"}
_CLOCK_SECONDS = 60.0
_FEW_INODES = 1000
_RESTORE = "point TIDEMILL_DATA_DIR at the right folder, or restore it with its database"
_TO_DO = {
    errno.EROFS: "the file system is mounted read-only: look into the system's log for why",
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "raise the quota, or make room",
    errno.ENOLCK: "use a file system with locks (a local disk)",
}


def examine_folder(root: Path) -> list[Finding]:
    """Look at the folder and try what the service does there. Leaves nothing behind, makes none."""
    if not root.exists():
        return [_missing(root)]
    try:
        if not (root / MARKER).exists():
            return [_unmarked(root)]
        marker = read_marker(DataFolder(root))
        refuse_scattered(root)
    except (StartRefused, OSError) as error:
        return [failure(FOLDER, _words(error), _RESTORE)]
    name = "" if marker is None else f", instance {marker.id}"
    findings = [ok(FOLDER, f"{root}{name}"), *_examine_owner(root)]
    return [*findings, *_try(root), *_examine_file_system(root)]


def instance_of(root: Path) -> str | None:
    """Return the id in the folder's marker, None where there is no sound one."""
    try:
        marker = read_marker(DataFolder(root))
    except StartRefused:
        return None
    return None if marker is None else marker.id


def examine_space(root: Path, *, reserve_bytes: int, promised_bytes: int) -> list[Finding]:
    """Compare the free space with what is set aside and what open uploads were promised."""
    try:
        found = os.statvfs(root)
    except OSError as error:
        return [failure(DISK, f"its free space cannot be read: {error.strerror}", _RESTORE)]
    free = found.f_bavail * found.f_frsize
    left = free - reserve_bytes - promised_bytes
    facts = (
        f"{_gib(free)} free, {_gib(promised_bytes)} of it promised to open uploads, "
        f"{_gib(reserve_bytes)} kept back"
    )
    findings = [ok(DISK, facts)]
    if left <= 0:
        todo = (
            "make room, or lower TIDEMILL_DISK_RESERVE_BYTES; `tidemill storage` shows what is kept"
        )
        findings = [failure(DISK, f"{facts}: new uploads are refused (507)", todo)]
    if found.f_files and found.f_favail < _FEW_INODES:
        what = f"only {found.f_favail} more files can be made on this file system"
        findings.append(
            warning(DISK, what, "remove files that are not needed, or use a larger disk")
        )
    return findings


def _missing(root: Path) -> Finding:
    above = next(each for each in root.parents if each.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return note(FOLDER, f"there is none at {root} yet", "nothing: `tidemill serve` makes it")
    what = f"there is none at {root}, and {above} does not let this user make it"
    return failure(FOLDER, what, "set TIDEMILL_DATA_DIR to a place that can be written")


def _unmarked(root: Path) -> Finding:
    if not root.is_dir():
        return failure(FOLDER, f"{root} is no folder", "set TIDEMILL_DATA_DIR to a folder")
    try:
        refuse_foreign(root)
    except StartRefused as error:
        return failure(FOLDER, str(error), _RESTORE)
    return note(FOLDER, f"{root} is still empty", "nothing: `tidemill serve` fills it")


def _examine_owner(root: Path) -> list[Finding]:
    found, user = root.stat(), os.geteuid()
    findings = []
    if found.st_uid != user:
        what = f"it belongs to user {found.st_uid}, and this is user {user}: rights may differ"
        findings.append(note(FOLDER, what, "run `tidemill doctor` as the service's own user"))
    if stat.S_IMODE(found.st_mode) & stat.S_IRWXO:
        what = "everybody on this machine may look into it"
        findings.append(note(FOLDER, what, f"unless that is meant: chmod 700 {root}"))
    return findings


def _try(root: Path) -> list[Finding]:
    """Write, lock and hard-link a file of our own below ``run/``, as the service does all day."""
    name = f"doctor-{new_id()}"
    doing = "written"
    try:
        with _our_file(root / RUN / name) as descriptor:
            os.write(descriptor, b"\n")
            os.fsync(descriptor)
            doing = "locked"
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            doing = "hard-linked"
            with _linked(root / RUN / name, root / RUN / f"{name}-2"):
                changed_at = os.fstat(descriptor).st_mtime
    except OSError as error:
        what = f"a file in {root / RUN} cannot be {doing}: {error.strerror}"
        todo = _TO_DO.get(error.errno or 0, "give the service's user the right to write there")
        return [failure(FOLDER, what, todo)]
    ahead = changed_at - time.time()
    if abs(ahead) > _CLOCK_SECONDS:
        what = f"the file system's clock is {ahead:+.0f} s off from this machine's"
        return [warning(CLOCK, what, "set both clocks right: what expires goes by them")]
    return [ok(FOLDER, "files can be written, locked and hard-linked")]


@contextmanager
def _our_file(path: Path) -> Iterator[int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


@contextmanager
def _linked(path: Path, link: Path) -> Iterator[None]:
    link.hardlink_to(path)
    try:
        yield
    finally:
        link.unlink(missing_ok=True)


def _examine_file_system(root: Path) -> list[Finding]:
    kind = _file_system(root)
    if kind in _NETWORK or kind.startswith("fuse."):
        todo = "keep the data on a local disk: SQLite's log and the locks need one"
        return [warning(DISK, f"{root} is on a network file system ({kind})", todo)]
    if kind == "tmpfs":
        what = f"{root} is in memory ({kind}): a restart of the machine loses everything"
        return [warning(DISK, what, "keep the data on a disk")]
    if kind == "overlay":
        what = f"{root} is inside a container's own layer ({kind}) and goes with the container"
        return [warning(DISK, what, "mount a volume there")]
    return [ok(DISK, f"file system {kind}")] if kind else []


def _file_system(root: Path) -> str:
    """Return the type of the file system that ``root`` is on, "" where the system does not tell."""
    device = root.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    best, kind = -1, ""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if fields[2] == wanted and len(fields[4]) > best:
            best, kind = len(fields[4]), after.split(" ")[0]
    return kind


def _words(error: StartRefused | OSError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
