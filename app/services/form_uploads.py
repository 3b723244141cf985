"""Files that come in a form: received whole below work/, then uploads of one session all at once."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from app.domain.errors import (
    AppError,
    NotReady,
    SessionClosed,
    UploadGone,
    UploadNotFound,
    UploadTooLarge,
)
from app.domain.ids import new_id
from app.domain.layout import request_path, upload_path
from app.domain.sessions import Session, SessionStatus
from app.domain.tombstones import Reason
from app.domain.uploads import FsyncMode, Upload, UploadMetadata, UploadPolicy, UploadStatus
from app.services.cancellation import uninterrupted
from app.services.completion import Completion, CompletionService
from app.services.disposal import Disposal
from app.services.input_holds import check_keep_inputs
from app.services.job_endings import pending
from app.services.ports import (
    Clock,
    Database,
    Files,
    Metrics,
    Transaction,
    UploadBytes,
    UploadWriter,
    WorkFiles,
)
from app.services.sessions import (
    SessionRequest,
    SessionService,
    SessionView,
    find_session,
    should_touch,
)
from app.services.upload_space import Space, SpaceKeeper

log = structlog.get_logger(__name__)

ROOM_EVERY_BYTES = 64 * 1024 * 1024
"""After so many bytes of a form it is looked again whether they take from what others were promised."""


@dataclass(frozen=True, slots=True)
class ArrivedFile:
    """A whole file of a form, still below ``work/``."""

    path: str
    metadata: UploadMetadata
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Filled:
    """A session with what a form brought into it, and what the last file of the form became."""

    view: SessionView
    upload_ids: tuple[str, ...]
    completion: Completion


class Arrival:
    """The files of one form on their way in. One is written at a time; memory is bounded.

    Every method may raise NoSpace or StorageFailed.
    """

    def __init__(self, forms: "FormUploads", folder: str, session: Session | None) -> None:
        self._forms = forms
        self._session = session
        self._writer: UploadWriter | None = None
        self._metadata = UploadMetadata()
        self._room_at = ROOM_EVERY_BYTES
        self._received = 0
        self.folder = folder
        self.has_folder = False
        self.files: list[ArrivedFile] = []

    async def begin_file(self, metadata: UploadMetadata) -> None:
        """Begin the next file; the one before it has ended."""
        self._metadata = metadata
        self.has_folder = True
        self._writer = await self._forms.work.open(self.folder, str(len(self.files)))

    async def write(self, data: bytes) -> None:
        """Take the file's next bytes. Raises UploadTooLarge past the largest upload."""
        writer = self._present
        maximum = self._forms.uploads.max_upload_bytes
        if writer.position + len(data) > maximum:
            msg = f"An upload may have at most {maximum} bytes."
            raise UploadTooLarge(msg, extra={"maximum": maximum})
        await writer.write(data)
        self._received += len(data)
        if self._received >= self._room_at:
            self._room_at = self._received + ROOM_EVERY_BYTES
            await self._forms.check_room(0)
        if self._session is not None:
            await self._keep_alive(self._session)

    async def end_file(self) -> None:
        """Say that the file is whole."""
        writer = self._present
        await writer.settle()
        path = f"{self.folder}/{len(self.files)}"
        self.files.append(ArrivedFile(path, self._metadata, writer.written))
        await self.close()

    async def close(self) -> None:
        """Let go of the file that is being written; a repeat is harmless."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    async def _keep_alive(self, session: Session) -> None:
        """Tell the session that bytes arrive for it: until they are all there, no row does."""
        now = self._forms.clock.now()
        if should_touch(session.active_at, now, self._forms.sessions.policy.max_age):
            self._session = replace(session, active_at=now)
            await self._forms.sessions.touch(session.id)

    @property
    def _present(self) -> UploadWriter:
        if self._writer is None:
            msg = "no file of the form is being written"
            raise RuntimeError(msg)
        return self._writer


@dataclass(frozen=True, slots=True, kw_only=True)
class FormUploads:
    """Use cases of forms with files. ``worker`` names this process; ``max_bytes`` is for a whole form.

    A form is all or nothing: until it has come whole and is known to be right, no row tells of it,
    and its folder below ``work/`` goes with the request, however that ends. A process that dies
    leaves the folder to the next start (``Recovery``): its name is not a living worker's.
    """

    db: Database
    files: Files
    work: WorkFiles
    store: UploadBytes
    clock: Clock
    metrics: Metrics
    disposal: Disposal
    completion: CompletionService
    sessions: SessionService
    uploads: UploadPolicy
    worker: str
    max_bytes: int

    # --- before and while it comes ---------------------------------------------------------------

    async def check_room(self, size_bytes: int) -> None:
        """Raise NoSpace unless so many more bytes fit beside what is promised to others."""

        def look(tx: Transaction, space: Space) -> None:
            space.require(tx, size_bytes)

        keeper = SpaceKeeper(self.db, self.files, self.uploads.reserve_bytes)
        await keeper.write(look)

    async def find_open(self, owner: str, session_id: str) -> Session:
        """Return a session that takes at least one more file.

        Raises SessionNotFound, SessionGone, SessionClosed.
        """
        return await self.db.read(lambda tx: _find_open(tx, owner, session_id, 1))

    def check_wishes(self, wishes: SessionRequest, n_files: int) -> None:
        """Check what is known of a session to be opened, for a refusal as early as can be.

        Raises SessionClosed for more files than it will take, and what ``SessionService.create``
        raises.
        """
        check_keep_inputs(wishes.keep_inputs_hours, self.sessions.retention)
        if wishes.expected_files is not None:
            _refuse_too_many(wishes.expected_files, n_files, None)
        then = wishes.then
        if then is not None:
            self.sessions.operations.check_new(
                then.operation, then.params, wishes.expected_files, then.timeout_seconds
            )

    @asynccontextmanager
    async def receiving(
        self, session: Session | None, folder: str | None = None
    ) -> AsyncIterator[Arrival]:
        """Receive one form's files; those that did not become uploads in the block go with it.

        ``session``: the one they are for, None for a new one. ``folder``: where they arrive, if
        somebody has written that down.
        """
        arrival = Arrival(self, folder or request_path(self.worker, new_id()), session)
        try:
            yield arrival
        finally:
            await uninterrupted(self.clear(arrival))

    async def clear(self, arrival: Arrival) -> None:
        """Remove what is left of a form that has become uploads, or will not; repeats are harmless."""
        await arrival.close()
        if arrival.has_folder:
            await self.disposal.settle([arrival.folder])
            arrival.has_folder = False

    # --- once it has come ------------------------------------------------------------------------

    async def open_session(self, owner: str, wishes: SessionRequest, arrival: Arrival) -> Filled:
        """Open a session with the files that came.

        Raises what ``SessionService.create`` raises, and SessionClosed for more files than it was to
        expect; nothing is visible then.
        """
        self.check_wishes(wishes, len(arrival.files))
        await self.work.sync([file.path for file in arrival.files])
        return await uninterrupted(self._open(owner, wishes, arrival.files))

    async def _open(
        self, owner: str, wishes: SessionRequest, files: Sequence[ArrivedFile]
    ) -> Filled:
        made = await self.sessions.create(owner, wishes)
        session_id = made.view.session.id
        # A crash here leaves an empty session, which the sweep stale_sessions removes.
        try:
            uploads = await self._admit(owner, session_id, files)
        except AppError:
            await self.db.write(lambda tx: tx.sessions.delete(session_id))
            raise
        return await self._complete(owner, session_id, uploads)

    async def fill(self, session: Session, arrival: Arrival) -> tuple[str, ...]:
        """Make the files that came the uploads of a new ``session``, which expects just these, and it
        a batch; returns the uploads' ids in the files' order.

        Raises NotReady when their completion failed, and what that raises; whoever wrote the
        session's id down before removes what there is then.
        """
        await self.work.sync([file.path for file in arrival.files])
        return await uninterrupted(self._fill(session, arrival.files))

    async def _fill(self, session: Session, files: Sequence[ArrivedFile]) -> tuple[str, ...]:
        await self.db.write(lambda tx: tx.sessions.insert(session))
        uploads = await self._admit(session.owner, session.id, files)
        done = await self.completion.complete_together(uploads)
        if done.batch_id is None:
            raise NotReady("The files were stored, but could not be put together.")
        return tuple(upload.id for upload in uploads)

    async def add(self, owner: str, session_id: str, arrival: Arrival) -> Filled:
        """Put the files that came into an open session.

        Raises SessionNotFound, SessionGone, SessionClosed for a session that is a batch or has fewer
        places left, UploadGone when it is deleted at the very same moment; nothing is visible then.
        """
        await self.work.sync([file.path for file in arrival.files])
        return await uninterrupted(self._add(owner, session_id, arrival.files))

    async def _add(self, owner: str, session_id: str, files: Sequence[ArrivedFile]) -> Filled:
        uploads = await self._admit(owner, session_id, files)
        return await self._complete(owner, session_id, uploads)

    async def _admit(
        self, owner: str, session_id: str, files: Sequence[ArrivedFile]
    ) -> list[Upload]:
        """Write the rows of all files in one transaction, then move the bytes to their places.

        A crash in between leaves rows without bytes, which expire (sweeps gc_files, stale_sessions),
        and one after it whole bytes without a completion, which unclaimed_uploads makes up for.
        """
        uploads = self._uploads_of(owner, session_id, files)
        await self.db.write(lambda tx: _insert(tx, owner, session_id, uploads))
        try:
            moves = zip(files, uploads, strict=True)
            await self.work.move({file.path: upload.id for file, upload in moves})
        except AppError:
            await self._take_back(uploads)
            raise
        self.metrics.count("upload_created_total", len(uploads))
        self.metrics.count("upload_bytes_received_total", sum(f.size_bytes for f in files))
        for upload in uploads:
            log.info(
                "upload.created", upload_id=upload.id, session_id=session_id, length=upload.length
            )
        return uploads

    def _uploads_of(
        self, owner: str, session_id: str, files: Sequence[ArrivedFile]
    ) -> list[Upload]:
        now = self.clock.now()
        is_synced = self.store.fsync is not FsyncMode.OFF
        # Made at the same moment, uploads are listed in the order of their ids: the form's order.
        upload_ids = sorted(new_id() for _ in files)
        return [
            Upload(
                id=upload_id,
                owner=owner,
                session_id=session_id,
                batch_id=None,
                status=UploadStatus.RECEIVING,
                length=file.size_bytes,
                # The bytes lie on the disk already: nobody has to promise room for them.
                recorded_offset=file.size_bytes,
                synced_offset=file.size_bytes if is_synced else 0,
                boot_id=self.store.boot_id,
                metadata=file.metadata,
                media=None,
                sha256=None,
                created_at=now,
                active_at=now,
                completed_at=None,
                expires_at=now + self.uploads.expires_after,
                spent_at=None,
            )
            for upload_id, file in zip(upload_ids, files, strict=True)
        ]

    async def _take_back(self, uploads: Sequence[Upload]) -> None:
        """Undo rows that are not completed: the client is told that nothing was kept.

        Bytes without a row go too: the row may have ended, and its bytes been deleted, before they
        came to their place.
        """

        def remove(tx: Transaction) -> list[str]:
            now, paths = self.clock.now(), []
            for upload in uploads:
                found = tx.uploads.find(upload.id)
                if found is not None and found.status is UploadStatus.COMPLETED:
                    continue
                path = upload_path(upload.id)
                tx.uploads.delete(upload.id)
                tx.cleanup.put(pending(path, owner=upload.owner, reason="never_stored", now=now))
                paths.append(path)
            return paths

        await self.disposal.settle(await self.db.write(remove))

    async def _complete(self, owner: str, session_id: str, uploads: Sequence[Upload]) -> Filled:
        last = Completion(uploads[-1].id, None, ())
        try:
            last = await self.completion.complete_together(uploads)
        except (UploadGone, UploadNotFound) as error:
            # The session was deleted, or filled by others, while the bytes moved.
            await self._take_back(uploads)
            if error.extra.get("reason") == Reason.SUPERSEDED.value:
                msg = "Other uploads filled the session at the same moment."
                raise SessionClosed(msg, extra={"session_id": session_id}) from error
            raise
        except AppError as error:
            # All bytes are in place: the sweep unclaimed_uploads does it again.
            log.warning("form.completion_failed", session_id=session_id, code=error.code)
        view = await self.sessions.get(owner, session_id)
        return Filled(view, tuple(upload.id for upload in uploads), last)


def _insert(tx: Transaction, owner: str, session_id: str, uploads: Sequence[Upload]) -> None:
    _find_open(tx, owner, session_id, len(uploads))
    tx.sessions.touch(session_id, uploads[0].created_at)
    for upload in uploads:
        tx.uploads.insert(upload)


def _find_open(tx: Transaction, owner: str, session_id: str, n_files: int) -> Session:
    session = find_session(tx, owner, session_id)
    if session.status is not SessionStatus.OPEN:
        raise SessionClosed(
            "The session takes no more uploads: it is a batch.",
            extra={"session_id": session.id, "batch_id": session.batch_id},
        )
    if session.expected_files is not None:
        uploads = tx.uploads.list_by_session(session.id)
        completed = sum(upload.status is UploadStatus.COMPLETED for upload in uploads)
        _refuse_too_many(session.expected_files - completed, n_files, session.id)
    return session


def _refuse_too_many(places: int, n_files: int, session_id: str | None) -> None:
    if n_files > places:
        msg = f"The session has places for {places} more, and {n_files} came."
        raise SessionClosed(msg, extra={"session_id": session_id, "places": places})
