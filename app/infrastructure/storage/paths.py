"""The data folder: its layout, the one path-safety check and the one deletion."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.domain.errors import StorageFailed
from app.domain.ids import is_id, new_id
from app.domain.layout import CACHE, DATABASE, MARKER, OUTPUTS, RUN, UPLOADS, WORK

LAYOUT = (UPLOADS, WORK, OUTPUTS, CACHE, RUN)
"""The folders that hold what is ours to create and delete."""

_OURS = frozenset(
    {*LAYOUT, MARKER, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal"}
)
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HOIST_DEPTH = 64
"""Folders nested deeper than this are moved up before they are emptied: descriptors are finite."""


class StartRefused(Exception):  # noqa: N818  named for what happens to the start
    """The service must not start on this folder; the message says why and what to do."""


def split_path(relative: str) -> tuple[str, ...]:
    """Return the segments of a path below the data folder.

    Raises ``StorageFailed`` for anything that could lead elsewhere: absolute paths, ``..``, ``.``,
    empty segments, NUL.
    """
    parts = tuple(relative.split("/"))
    if "\0" in relative or any(part in {"", ".", ".."} for part in parts):
        raise StorageFailed("A path does not stay inside the data folder.")
    return parts


def upload_name(upload_id: str) -> str:
    """Return the name of an upload's data file. Raises ``StorageFailed`` for what is no id."""
    if not is_id(upload_id):
        raise StorageFailed("A data file is named by an upload's id.")
    return upload_id


class DataFolder:
    """One data folder. Everything below it is named by relative paths (``app.domain.layout``)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, root: Path) -> "DataFolder":
        """Return the folder at ``root`` with its layout made (0700). A repeat is harmless.

        Raises ``StartRefused`` when the folder holds things that are not ours, is no folder, cannot
        be written, or spreads over several file systems. Nothing is created in a foreign folder.
        """
        root = root.expanduser().absolute()
        try:
            if not root.is_dir():
                root.parent.mkdir(parents=True, exist_ok=True)
                root.mkdir(mode=0o700, exist_ok=True)
            refuse_foreign(root)
            for name in LAYOUT:
                (root / name).mkdir(mode=0o700, exist_ok=True)
            refuse_scattered(root)
        except OSError as error:
            msg = f"The data folder {root} cannot be used: {error.strerror}. Set TIDEMILL_DATA_DIR."
            raise StartRefused(msg) from error
        return cls(root)

    def resolve(self, relative: str) -> Path:
        """Return the absolute path of ``relative``, none of whose parts is a symbolic link.

        Raises ``StorageFailed`` for a path that is unsafe; the thing itself need not exist.
        """
        path = str(self.root)
        for part in split_path(relative):
            path = f"{path}/{part}"
            # As text: to make a path of pathlib's for each costs more than the look.
            if os.path.islink(path):  # noqa: PTH114
                raise StorageFailed("A path inside the data folder is a symbolic link.")
        return Path(path)

    def relative(self, path: Path) -> str:
        """Return the relative form of an absolute path below the folder, checked."""
        try:
            relative = path.relative_to(self.root).as_posix()
        except ValueError as error:
            raise StorageFailed("A path does not stay inside the data folder.") from error
        split_path(relative)
        return relative

    @contextmanager
    def open_parent(self, relative: str) -> Iterator[tuple[int, str]]:
        """Yield a descriptor of the folder that holds ``relative``, and the last segment.

        No link is followed below the root and no other file system entered. Raises
        ``FileNotFoundError`` when a folder on the way is missing.
        """
        *folders, name = split_path(relative)
        current = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            device = os.fstat(current).st_dev
            for folder in folders:
                below = _open_folder(folder, current, device)
                os.close(current)
                current = below
            yield current, name
        finally:
            os.close(current)

    @contextmanager
    def open_folder(self, relative: str) -> Iterator[int]:
        """Yield a descriptor of the folder ``relative``, with the care of ``open_parent``."""
        with self.open_parent(relative) as (parent, name):
            folder = _open_folder(name, parent, os.fstat(parent).st_dev)
        try:
            yield folder
        finally:
            os.close(folder)

    def look(self, relative: str) -> os.stat_result | None:
        """Return the status of ``relative`` itself, None when it is not there. Follows no link.

        Raises ``NotADirectoryError`` when something else lies in the place of a folder on the way.
        """
        try:
            with self.open_parent(relative) as (parent, name):
                return _stat(parent, name)
        except FileNotFoundError:
            return None

    def delete(self, relative: str) -> int:
        """Delete a file or a folder with all it holds; the one deletion there is.

        Works by directory descriptors below the root: links go, their targets stay; other file
        systems are not entered. Something that is not there is a success. One entry that cannot go
        does not keep the others. Returns the bytes that are verified free: a file with another hard
        link frees nothing. Raises ``StorageFailed`` for a path that is not ours to delete, and
        ``OSError`` (or ``StorageFailed``) when something is still there afterwards.
        """
        parts = split_path(relative)
        if len(parts) < 2 or parts[0] not in LAYOUT:  # noqa: PLR2004  folder and name
            raise StorageFailed("Only things inside the folders of the data folder can be deleted.")
        try:
            with self.open_parent(relative) as (parent, name):
                freed = _Deletion(os.fstat(parent).st_dev).remove(parent, name)
        except FileNotFoundError:
            return 0
        if parts[0] == WORK and len(parts) > 2:  # noqa: PLR2004  an attempt: its job's folder too
            self._remove_if_empty("/".join(parts[:-1]))
        return freed

    def _remove_if_empty(self, relative: str) -> None:
        try:
            with self.open_parent(relative) as (parent, name):
                os.rmdir(name, dir_fd=parent)
        except OSError:
            return  # other attempts are inside, or it is gone: both are fine


class _Deletion:
    """One recursive deletion. Counts what it freed; carries on past what cannot go."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._freed = 0
        self._trouble: OSError | StorageFailed | None = None

    def remove(self, parent: int, name: str) -> int:
        """Remove ``name`` from the folder ``parent``, verify, and return the bytes freed."""
        self._remove(parent, name, top=None, depth=0)
        if _stat(parent, name) is not None:
            raise self._trouble or StorageFailed("Something deleted is still there.")
        return self._freed

    def _remove(self, parent: int, name: str, *, top: int | None, depth: int) -> None:
        try:
            found = _stat(parent, name)
            if found is None:
                return
            if not stat.S_ISDIR(found.st_mode):
                os.unlink(name, dir_fd=parent)
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                    self._freed += found.st_size
            elif depth >= _HOIST_DEPTH and top is not None:
                os.rename(name, new_id(), src_dir_fd=parent, dst_dir_fd=top)
            else:
                self._empty(parent, name, top=top, depth=depth)
                os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            return  # somebody else was quicker
        except (OSError, StorageFailed) as error:
            self._trouble = self._trouble or error

    def _empty(self, parent: int, name: str, *, top: int | None, depth: int) -> None:
        folder = _open_folder(name, parent, self._device)
        try:
            seen: set[str] = set()
            # Again until nothing new turns up: deep folders are hoisted into the top one.
            while new := set(os.listdir(folder)) - seen:  # noqa: PTH208  by descriptor, never by path
                seen |= new
                for entry in new:
                    self._remove(folder, entry, top=folder if top is None else top, depth=depth + 1)
        finally:
            os.close(folder)


def _stat(parent: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _open_folder(name: str, parent: int, device: int) -> int:
    descriptor = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    if os.fstat(descriptor).st_dev != device:
        os.close(descriptor)
        raise StorageFailed(
            "A folder inside the data folder is on another file system, see `findmnt`: unmount it."
        )
    return descriptor


def refuse_foreign(root: Path) -> None:
    """Refuse a folder that holds files but not our marker: it is somebody else's."""
    if (root / MARKER).exists():
        return
    strange = {entry.name for entry in root.iterdir()} - _OURS - {"lost+found"}
    inside = [name for name in (UPLOADS, WORK, OUTPUTS, CACHE) if _has_entries(root / name)]
    if strange or inside:
        example = min(strange) if strange else f"{inside[0]}/"
        msg = (
            f"The folder {root} is not empty and is not a Tidemill data folder: it has no {MARKER} "
            f"but holds {example}. Set TIDEMILL_DATA_DIR to an empty folder, or restore {MARKER} "
            "together with the database from the same backup."
        )
        raise StartRefused(msg)


def _has_entries(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def refuse_scattered(root: Path) -> None:
    """Refuse links and mounts in the layout: inputs are hard-linked, so all is one file system."""
    device = root.stat().st_dev
    for name in LAYOUT:
        found = (root / name).lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_dev != device:
            msg = (
                f"{root / name} must be an ordinary folder on the same file system as {root}: "
                "mount or link the whole data folder instead."
            )
            raise StartRefused(msg)
