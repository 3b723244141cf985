"""Datagrams between the processes of one data folder: which upload somebody wants, and since when."""

import asyncio
import os
import secrets
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from app.domain.ids import is_id
from app.domain.layout import RUN
from app.infrastructure.storage.local import translated_errors
from app.infrastructure.storage.paths import DataFolder

log = structlog.get_logger(__name__)

CARE_SECONDS = 0.5
"""How often a process looks whether its socket is still there for others to find."""
_PREFIX, _SUFFIX = "locks-", ".sock"
_MESSAGE_BYTES = 64
_FD_FOLDER = Path("/proc/self/fd")


class LockMessages:
    """One process's socket under ``run/``, and those of the others.

    ``on_wish`` hears the upload that another process wants to write, and the time of its request.
    """

    def __init__(self, folder: DataFolder, on_wish: Callable[[str, int], None]) -> None:
        self._folder = folder
        self._on_wish = on_wish
        self._name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        self._path = folder.root / RUN / self._name
        self._socket: socket.socket | None = None
        self._place: tuple[int, int] | None = None
        self._care: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to listen, and clear away the sockets of processes that are gone."""
        with translated_errors("listening for other processes"):
            self._listen()
        self._send(b"")
        self._care_later()

    def close(self) -> None:
        """Stop listening."""
        if self._care is not None:
            self._care.cancel()
            self._care = None
        if self._socket is not None:
            self._hang_up()
            self._path.unlink(missing_ok=True)

    def tell(self, upload_id: str, since: int) -> None:
        """Tell every other process. Messages can be lost: say it again while it matters."""
        self._send(f"{upload_id} {since}".encode("ascii"))

    # --- listening -------------------------------------------------------------------------------

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            listener.settimeout(0)
            with _run_folder(self._folder) as run:
                listener.bind(f"{run}/{self._name}")
            self._place = self._find_socket()
        except OSError:
            listener.close()
            raise
        self._socket = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._on_datagram)

    def _hang_up(self) -> None:
        listener, self._socket = self._socket, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener.fileno())
            listener.close()

    def _find_socket(self) -> tuple[int, int] | None:
        """Return which file lies where our socket should, None when there is none."""
        try:
            found = self._path.lstat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _on_datagram(self) -> None:
        if self._socket is None:
            return
        with suppress(OSError):
            while True:
                message = self._socket.recv(_MESSAGE_BYTES).decode("ascii", "replace")
                upload_id, _, since = message.partition(" ")
                if is_id(upload_id) and since.isdecimal():
                    self._on_wish(upload_id, int(since))

    def _care_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._care = loop.call_later(CARE_SECONDS, self._take_care)

    def _take_care(self) -> None:
        """Listen anew where the socket was removed, or ``run/`` replaced: nobody would find us."""
        self._care_later()
        found = self._find_socket()
        if self._socket is not None and found is not None and found == self._place:
            return
        self._hang_up()
        try:
            with suppress(FileExistsError):
                self._path.parent.mkdir(0o700)
            self._path.unlink(missing_ok=True)
            self._listen()
        except OSError as error:  # until it is possible again, the others must wait for a release
            log.debug("lock.deaf", error=str(error))
        else:
            log.warning("lock.socket_made_anew", socket=self._name)

    # --- telling ---------------------------------------------------------------------------------

    def _send(self, message: bytes) -> None:
        """Send to every other process; what nobody listens to any more is removed."""
        # A folder or socket that cannot be used leaves the polling, which needs neither.
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
            _run_folder(self._folder) as run,
        ):
            sender.settimeout(0)
            for entry in self._path.parent.iterdir():
                is_ours = entry.name.startswith(_PREFIX) and entry.suffix == _SUFFIX
                # A link would lead the message, and what removes a dead socket, somewhere else.
                if not is_ours or entry.name == self._name or not _is_socket(entry):
                    continue
                try:
                    sender.sendto(message, f"{run}/{entry.name}")
                except ConnectionRefusedError:
                    with suppress(OSError):
                        entry.unlink(missing_ok=True)
                except OSError as error:
                    log.debug("lock.message_lost", socket=entry.name, error=str(error))


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return False


class _run_folder:  # noqa: N801  reads as a function
    """The folder of the sockets by a short name: a socket's address has room for 107 bytes only."""

    def __init__(self, folder: DataFolder) -> None:
        self._path = folder.root / RUN
        self._fd = -1

    def __enter__(self) -> str:
        if not _FD_FOLDER.is_dir():
            return str(self._path)
        self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"{_FD_FOLDER}/{self._fd}"

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
