"""One writer per upload: flock on its data file, and datagrams that ask a holder to let go.

Every process listens on a socket of its own under ``run/``. A newcomer tells all the sockets it finds
there which upload it wants and since when; the process that holds it tells its request to stop. It
says so again while it waits: a queue may be full, a socket gone for a moment. The lock itself is the
kernel's, so it never survives its process. Nothing blocks: attempts are LOCK_NB, and who waits is
woken by a release in its own process, else looks again every 50 ms.
"""

import asyncio
import fcntl
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self

import structlog

from app.domain.errors import StorageFailed, UploadLocked
from app.domain.layout import UPLOADS
from app.infrastructure.storage.local import translated_errors
from app.infrastructure.storage.lock_messages import LockMessages
from app.infrastructure.storage.paths import DataFolder, upload_name
from app.infrastructure.storage.synced_folder import SyncedFolder

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.05
ASK_SECONDS = 0.25
"""How often who waits says again what it wants."""
# Not blocking: to open a pipe that somebody put there would wait for its other end.
_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LOOK = os.O_RDONLY | _SAFE


class FlockUploadLocks:
    """The locks of one process (see ``ports.UploadLocks`` and ``ports.WriterLocks``).

    Works without ``start`` too (a command beside a running service): it can ask others to let go,
    and only cannot be asked itself.
    """

    def __init__(self, folder: DataFolder) -> None:
        self.folder = SyncedFolder(folder, UPLOADS)
        self._messages = LockMessages(folder, self._on_wish)
        self._holders: dict[str, list[FlockHold]] = {}
        self._waiting: dict[str, list[FlockHold]] = {}

    async def start(self) -> None:
        """Begin to listen to other processes, and clear away what dead ones left."""
        self._messages.start()

    async def close(self) -> None:
        """Stop listening. Holds that are still there end with their requests."""
        self._messages.close()
        self.folder.close()

    def hold(self, upload_id: str, *, wait_seconds: float) -> "FlockHold":
        """Stop a writer and hold the upload; with ``wait_seconds`` 0 a writer is left in peace."""
        return FlockHold(self, upload_id, wait_seconds, writes=False)

    def hold_for_writing(
        self,
        upload_id: str,
        *,
        wait_seconds: float,
        before_asking: Callable[[], Awaitable[None]] | None = None,
    ) -> "FlockHold":
        hold = FlockHold(self, upload_id, wait_seconds, writes=True)
        hold.before_asking = before_asking
        return hold

    def is_held(self, upload_id: str) -> bool:
        if self._holders.get(upload_id):
            return True
        with translated_errors("looking at a lock"):
            try:
                folder, name = self.folder.descriptor(), upload_name(upload_id)
                if _is_strange(folder, name):
                    return False
                fd = os.open(name, _LOOK, dir_fd=folder)
            except FileNotFoundError:
                return False
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(fd)
        return False

    # --- for the holds ---------------------------------------------------------------------------

    def ask(self, hold: "FlockHold") -> None:
        """Tell whoever writes or waits to write that ``hold`` is newer."""
        self._ask_ours(hold.upload_id, hold.since, waiting=False)
        self._messages.tell(hold.upload_id, hold.since)

    def enter(self, hold: "FlockHold") -> None:
        self._holders.setdefault(hold.upload_id, []).append(hold)

    def leave(self, hold: "FlockHold") -> None:
        """Forget a hold, and wake the newest that waits for its upload."""
        _remove(self._holders, hold)
        for waiting in self._waiting.get(hold.upload_id, ()):
            waiting.wake()

    def wait(self, hold: "FlockHold") -> None:
        self._waiting.setdefault(hold.upload_id, []).append(hold)

    def stop_waiting(self, hold: "FlockHold") -> None:
        _remove(self._waiting, hold)

    def is_awaited(self, upload_id: str) -> bool:
        """Whether somebody here waits for an upload to be let go of."""
        return upload_id in self._waiting

    def is_newest(self, hold: "FlockHold") -> bool:
        return self._waiting[hold.upload_id][-1] is hold

    def _ask_ours(self, upload_id: str, since: int, *, waiting: bool) -> None:
        """Ask those to stop that came before ``since``; a later one asks us."""
        asked = [*self._holders.get(upload_id, ())]
        if waiting:
            asked += self._waiting.get(upload_id, ())
        for hold in asked:
            if hold.since < since:
                hold.ask_to_stop()

    def _on_wish(self, upload_id: str, since: int) -> None:
        # Those that wait here come after a newer request elsewhere too.
        self._ask_ours(upload_id, since, waiting=True)


class FlockHold:
    """One wish to hold an upload, and the hold itself while inside ``async with``."""

    before_asking: Callable[[], Awaitable[None]] | None = None

    def __init__(
        self, locks: FlockUploadLocks, upload_id: str, wait_seconds: float, *, writes: bool
    ) -> None:
        self.upload_id = upload_id
        self.since = time.monotonic_ns()
        """When it came: one clock for all processes of the machine."""
        self._locks = locks
        self._wait_seconds = wait_seconds
        self._writes = writes
        self._fd = -1
        self._created = False
        self._asked = False
        self._woken = asyncio.Event()
        self._wait_limit: asyncio.Timeout | None = None

    @property
    def is_asked_to_stop(self) -> bool:
        return self._asked

    def keep_file(self) -> None:
        self._created = False

    @asynccontextmanager
    async def interruptible(self, seconds: float) -> AsyncIterator[None]:
        if self._asked:
            raise TimeoutError
        async with asyncio.timeout(seconds) as limit:
            self._wait_limit = limit
            try:
                yield
            finally:
                self._wait_limit = None

    def ask_to_stop(self) -> None:
        """Make the holder's present and next interruptible wait end; deletions do not listen."""
        if not self._writes:
            return
        self._asked = True
        self.wake()
        if self._wait_limit is not None and not self._wait_limit.expired():
            self._wait_limit.reschedule(asyncio.get_running_loop().time())

    def wake(self) -> None:
        self._woken.set()

    async def __aenter__(self) -> Self:
        if not (await self._try_unasked() or self._try()):
            if self._wait_seconds <= 0:
                raise UploadLocked("Another request writes this upload.")
            await self._wait()
        self._locks.enter(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            self._release()
        finally:
            self._locks.leave(self)

    async def _try_unasked(self) -> bool:
        """Take the lock of a file that is there, past nobody; else ask whether there is more to do."""
        if self.before_asking is None:
            return False
        if not self._locks.is_awaited(self.upload_id) and self._try(creates=False):
            return True
        await self.before_asking()
        return False

    async def _wait(self) -> None:
        self._locks.wait(self)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._contend()
        except TimeoutError as error:
            raise UploadLocked(
                "Another request writes this upload and did not let go in time.",
                retry_after_seconds=1,
            ) from error
        finally:
            self._locks.stop_waiting(self)

    async def _contend(self) -> None:
        """Return once the lock is ours. Raises UploadLocked when a newer request elsewhere wants it."""
        ask_at = 0.0
        while True:
            self._woken.clear()
            if self._asked:
                # It would write nothing, and only keep the newer one waiting.
                raise UploadLocked("A newer request took over this upload.", retry_after_seconds=1)
            if time.monotonic() >= ask_at:
                ask_at = time.monotonic() + ASK_SECONDS
                self._locks.ask(self)
            # Of those that wait here, the newest goes first; the others get their turn.
            if self._locks.is_newest(self) and self._try():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()

    def _try(self, *, creates: bool = True) -> bool:
        """Take the lock if it is free; ``creates`` the file when there is none to lock."""
        name = upload_name(self.upload_id)
        with translated_errors("locking an upload"):
            folder = self._locks.folder.descriptor()
            while True:
                if _is_strange(folder, name):
                    if not creates:
                        return False
                    if self._writes:
                        raise StorageFailed("What lies in the place of an upload is no file.")
                    return True  # nobody can write it, and a deletion must get on with it
                try:
                    fd, created = _open(folder, name, creates=creates)
                except FileNotFoundError:
                    if creates:
                        raise
                    return False
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is_still(fd, folder, name):
                        self._fd, self._created = fd, created
                        return True
                except BlockingIOError:
                    return False
                finally:
                    if self._fd != fd:
                        os.close(fd)
                # Deleted or replaced between open and flock: look again.

    def _release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            found = os.fstat(fd)
            # A file made only to be locked would be one without a reason: no bytes, no file.
            if self._created and found.st_size == 0 and found.st_nlink == 1:
                os.unlink(self.upload_id, dir_fd=self._locks.folder.descriptor())
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("lock.cleanup_failed", upload_id=self.upload_id, error=str(error))
        finally:
            # Said, and not left to the last copy of the descriptor: a child that is just being
            # forked has one until it becomes another program.
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)


def _is_strange(folder: int, name: str) -> bool:
    """Whether something that is no file, a link for instance, lies where an upload's bytes should."""
    try:
        return not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _open(folder: int, name: str, *, creates: bool) -> tuple[int, bool]:
    flags = os.O_RDWR | _SAFE
    while True:
        try:
            return os.open(name, flags, dir_fd=folder), False
        except PermissionError:
            # Marked immutable, for instance: it cannot be written, but well be locked and buried.
            return os.open(name, _LOOK, dir_fd=folder), False
        except FileNotFoundError:
            if not creates:
                raise
            with suppress(FileExistsError):
                return os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder), True


def _is_still(fd: int, folder: int, name: str) -> bool:
    ours = os.fstat(fd)
    if not stat.S_ISREG(ours.st_mode):
        raise StorageFailed("What lies in the place of an upload is no file.")
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _remove(holds: dict[str, list[FlockHold]], hold: FlockHold) -> None:
    left = [other for other in holds.get(hold.upload_id, ()) if other is not hold]
    if left:
        holds[hold.upload_id] = left
    else:
        holds.pop(hold.upload_id, None)
