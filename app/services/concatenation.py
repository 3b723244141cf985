"""Finals: uploads put together of parts that came by themselves (tus 1.0.0, "Concatenation")."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from app.domain.errors import (
    AppError,
    ConflictingUpdate,
    InvalidParts,
    UploadGone,
    UploadLocked,
    UploadNotFound,
)
from app.domain.ids import new_id
from app.domain.layout import upload_path
from app.domain.tombstones import Reason, ThingKind, Tombstone
from app.domain.uploads import Upload, UploadKind, UploadMetadata, UploadStatus, slide_expiry
from app.services.completion import Completion
from app.services.ports import Transaction, WriterHold
from app.services.upload_space import Space
from app.services.upload_states import NewUpload
from app.services.uploads import UploadService

log = structlog.get_logger(__name__)

_TRIES = 5
"""How often it is looked again for the same final, when somebody else made or ended it meanwhile."""
FINALS_AT_ONCE = 4
"""How many finals of a process hold their parts at a time: that takes a descriptor for each of up to
100 parts, and fewer are copied at once anyway."""


@dataclass(frozen=True, slots=True)
class NamedPart:
    """A part as a client names it; ``upload_id`` None: its address is no upload's."""

    url: str
    upload_id: str | None


@dataclass(frozen=True, slots=True)
class NewFinal:
    """What a creation of a final asks for. ``concat`` is the header as it came."""

    owner: str
    metadata: UploadMetadata
    concat: str
    parts: tuple[NamedPart, ...]

    @property
    def part_ids(self) -> tuple[str, ...]:
        return tuple(part.upload_id or "" for part in self.parts)


class Concatenation:
    """Makes finals, over the uploads of one service. ``turns`` are those of its process.

    A final holds its own lock and those of its parts until it is complete, so nobody ends or expires
    them meanwhile. Its row is there before its first byte: who asks for the same again waits for it.
    One transaction completes it and buries its parts; until then they are as they were.
    """

    def __init__(self, uploads: UploadService, turns: asyncio.Semaphore) -> None:
        self._uploads = uploads
        self._turns = turns

    async def make(self, wish: NewFinal) -> Completion:
        """Put the parts together and complete the final; the same wish again returns the same.

        Raises InvalidParts, UploadTooLarge, NoSpace, StorageFailed, SessionNotFound, SessionGone,
        SessionClosed: then the parts are as they were. UploadLocked: it is being made, or too many
        others are; ask again.
        """
        clock, wait = self._uploads.clock, self._uploads.policy.lock_wait_seconds
        until = clock.monotonic() + wait
        for _ in range(_TRIES):
            found = await self._find_made(wish)
            if isinstance(found, str):
                return await self._completion_of_gone(wish, found)
            try:
                if found is None:
                    await self._require_whole(wish)
                made = await self._make_held(wish, found, until)
            except InvalidParts:
                if found is None and await self._find_made(wish) is not None:
                    continue  # somebody else completed it meanwhile, and the parts went into it
                raise
            if made is not None:
                return made
        raise UploadLocked("The same final is being made.", retry_after_seconds=1)

    async def _find_made(self, wish: NewFinal) -> Upload | str | None:
        """Return the final that was made of exactly these parts, its id when retention took it."""
        return await self._uploads.db.read(
            lambda tx: tx.uploads.find_final(wish.owner, wish.part_ids) or _find_gone(tx, wish)
        )

    async def _completion_of_gone(self, wish: NewFinal, final_id: str) -> Completion:
        """Return what a final became whose bytes retention took, for as long as HEAD tells of it."""
        with suppress(UploadGone, UploadNotFound):
            state = await self._uploads.head(wish.owner, final_id)
            if state.completion is not None:
                return state.completion
        raise _used(wish.parts[0], final_id)

    async def _make_held(
        self, wish: NewFinal, found: Upload | None, until: float
    ) -> Completion | None:
        """Make the final under its lock, or find it made; None when it has to be looked again."""
        uploads = self._uploads
        final_id = new_id() if found is None else found.id
        hold = uploads.locks.hold_for_writing(final_id, wait_seconds=self._left(until))
        async with hold as held:
            row = None
            if found is not None:
                row = await self._find_left(final_id)
                if row is None:
                    return None
                if row.status is UploadStatus.COMPLETED:
                    return await uploads.completion.find(row)
            async with self._turn(until), self._parts_held(wish, until):
                parts = await self._parts_of(wish, row)
                if row is None:
                    row = await self._insert(wish, final_id, parts)
                return None if row is None else await self._fill(wish, row, parts, held)

    async def _find_left(self, final_id: str) -> Upload | None:
        """Return the row of a final whose lock was waited for, as this boot's; None when it is gone."""
        uploads = self._uploads
        # Only now is it certain what the row says: its maker has let go.
        row = await uploads.db.read(lambda tx: tx.uploads.find(final_id))
        if row is None or not uploads.recovery.is_left_behind(row):
            return row
        try:
            return await uploads.recovery.adopt(row)
        except ConflictingUpdate:  # its session became a batch just now
            return None

    @asynccontextmanager
    async def _turn(self, until: float) -> AsyncIterator[None]:
        """Wait for a turn. With the final held, so that the same wish again waits for that, and with
        no part held. Raises UploadLocked.
        """
        try:
            async with asyncio.timeout(self._left(until)):
                await self._turns.acquire()
        except TimeoutError as error:
            msg = "Other uploads are being put together of their parts."
            raise UploadLocked(msg, retry_after_seconds=1) from error
        try:
            yield
        finally:
            self._turns.release()

    @asynccontextmanager
    async def _parts_held(self, wish: NewFinal, until: float) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for part_id in sorted(
                set(wish.part_ids)
            ):  # in one order for all: nobody waits in a ring
                hold = self._uploads.locks.hold(part_id, wait_seconds=self._left(until))
                await stack.enter_async_context(hold)
            yield

    def _left(self, until: float) -> float:
        return max(0.0, until - self._uploads.clock.monotonic())

    # --- the parts -------------------------------------------------------------------------------

    async def _parts_of(self, wish: NewFinal, row: Upload | None) -> list[Upload]:
        try:
            return await self._require_whole(wish)
        except InvalidParts:
            if row is not None:
                # What a dead process left can never be finished.
                with suppress(AppError):
                    await self._uploads.withdraw_held(wish.owner, row.id)
            raise

    async def _require_whole(self, wish: NewFinal) -> list[Upload]:
        """Return the rows of the parts in their order. Raises InvalidParts, UploadTooLarge."""
        parts = await self._uploads.db.read(
            lambda tx: [_find_part(tx, wish.owner, part) for part in wish.parts]
        )
        for named, part in zip(wish.parts, parts, strict=True):
            offset = self._uploads.offset_of(part)
            if part.length != offset:
                of = "an unknown number of" if part.length is None else part.length
                raise _invalid(named, "unfinished", f"has {offset} of {of} bytes")
        self._uploads.check_length(_total(parts))
        return parts

    # --- the final -------------------------------------------------------------------------------

    async def _insert(
        self, wish: NewFinal, final_id: str, parts: Sequence[Upload]
    ) -> Upload | None:
        """Insert the row, None when somebody else did while the locks were waited for."""
        uploads, ids, total = self._uploads, wish.part_ids, _total(parts)
        once = {part.id: part for part in parts}.values()
        kind = UploadKind.FINAL
        new = NewUpload(wish.owner, total, wish.metadata, kind, wish.concat, ids)

        def insert(tx: Transaction, space: Space) -> Upload | None:
            if tx.uploads.find_final(wish.owner, ids) is not None:
                return None
            if total > _total(once):
                # The parts have promised the room of each of them, but not of one that comes twice.
                # No row promises that either: it is there now, and a creation during the copy may
                # take it. Then the copy meets a full disk, and the final ends with its parts intact.
                space.require(tx, total - _total(once))
            now = uploads.clock.now()
            for part in once:
                tx.uploads.touch(
                    part.id,
                    active_at=now,
                    expires_at=slide_expiry(part, now, uploads.policy),
                    recorded_offset=part.recorded_offset,
                    synced_offset=part.synced_offset,
                )
            return uploads.insert(tx, final_id, new, space)

        row = await uploads.space.write(insert)
        if row is not None:
            uploads.tell_created(row)
        return row

    async def _fill(
        self, wish: NewFinal, row: Upload, parts: Sequence[Upload], held: WriterHold
    ) -> Completion | None:
        """Make the final whole and complete it; None when its row ended meanwhile.

        That of a session that became a batch does, and its file with it, whoever holds it. Looked
        for again, it is refused for the reason that whoever asks later is told.
        """
        uploads = self._uploads
        was_whole = is_whole = uploads.offset_of(row) == row.length
        try:
            if not is_whole:
                await self._copy(row, parts)
                is_whole = True
            if row.length == 0:
                held.keep_file()
            return await uploads.completion.complete(row.id, held=row, synced=not was_whole)
        except AppError as error:
            if await uploads.db.read(lambda tx: tx.uploads.find(row.id)) is None:
                log.info("upload.concatenation_overtaken", upload_id=row.id, code=error.code)
                await uploads.disposal.settle([upload_path(row.id)])
                return None
            if not is_whole:
                await self._give_up(wish, row, error)
            raise

    async def _give_up(self, wish: NewFinal, row: Upload, error: AppError) -> None:
        log.warning("upload.concatenation_failed", upload_id=row.id, code=error.code)
        with suppress(AppError):  # else it goes when it expires
            await self._uploads.withdraw_held(wish.owner, row.id)
        # A sweep may have completed what a dead process left: then the parts are in that.
        await self._require_whole(wish)

    async def _copy(self, row: Upload, parts: Sequence[Upload]) -> None:
        uploads = self._uploads
        began = uploads.clock.monotonic()
        await uploads.copier.copy(row.id, [(part.id, part.length or 0) for part in parts])
        log.info(
            "upload.concatenated",
            upload_id=row.id,
            parts=len(parts),
            length=row.length,
            seconds=round(uploads.clock.monotonic() - began, 3),
        )


def _total(parts: Iterable[Upload]) -> int:
    return sum(part.length or 0 for part in parts)


def _find_gone(tx: Transaction, wish: NewFinal) -> str | None:
    """Return the id of a final that is gone and that had all of these parts and no other.

    Of a final that is gone, the order of its parts is not kept.
    """
    ids = wish.part_ids
    found = [tx.tombstones.find(ThingKind.UPLOAD, part_id) for part_id in dict.fromkeys(ids)]
    buried = {each.id: each for each in found if each is not None and _is_used(each, wish.owner)}
    finals = {each.parent_id for each in buried.values()}
    if len(buried) < len(found) or len(finals) != 1:
        return None
    final_id = finals.pop() or ""
    final = tx.tombstones.find(ThingKind.UPLOAD, final_id)
    known = {each.id for each in tx.tombstones.list_by_parent(ThingKind.UPLOAD, final_id)}
    size = sum(buried[part_id].size_bytes for part_id in ids)
    is_same = final is not None and known == set(ids) and size == final.size_bytes
    return final_id if is_same else None


def _is_used(tombstone: Tombstone, owner: str) -> bool:
    return tombstone.owner == owner and tombstone.reason is Reason.CONCATENATED


def _find_part(tx: Transaction, owner: str, named: NamedPart) -> Upload:
    """Return the row of a part that is there. Raises InvalidParts."""
    part_id = named.upload_id or ""
    part = tx.uploads.find(part_id)
    if part is not None and part.owner == owner:
        if part.kind is not UploadKind.PARTIAL:
            raise _invalid(named, "not_partial", "was not created with Upload-Concat: partial")
        return part
    tombstone = tx.tombstones.find(ThingKind.UPLOAD, part_id)
    if tombstone is None or tombstone.owner != owner or tombstone.reason is Reason.TERMINATED:
        raise _invalid(named, "unknown", "is no upload that is there")
    if _is_used(tombstone, owner):
        raise _used(named, tombstone.parent_id)
    raise _invalid(named, "deleted", f"was deleted: {tombstone.reason}")


def _used(named: NamedPart, final_id: str | None) -> InvalidParts:
    error = _invalid(named, "used", "went into another final already")
    error.extra["final_id"] = final_id
    return error


def _invalid(named: NamedPart, reason: str, what: str) -> InvalidParts:
    url = named.url[:200]
    return InvalidParts(f"The part {url} {what}.", extra={"url": url, "reason": reason})
