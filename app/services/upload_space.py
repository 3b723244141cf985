"""Room for uploads: what is free, less what was promised to others and has not arrived yet."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from app.domain.errors import NoSpace
from app.domain.layout import upload_path
from app.domain.uploads import UploadKind
from app.services.ports import Database, Files, Transaction

T = TypeVar("T")

_PAGE = 200


@dataclass(frozen=True, slots=True)
class Space:
    """What is free on the disk, and how much of it nobody may be promised.

    ``untold_bytes`` have arrived since the rows were told: they lie on the disk already, and the
    rows still promise them.
    """

    free_bytes: int
    reserve_bytes: int
    untold_bytes: int = 0

    def require(self, tx: Transaction, length: int) -> None:
        """Raise NoSpace, with the figures, unless ``length`` more bytes fit beside the promised."""
        promised = max(0, tx.uploads.unwritten_bytes() - self.untold_bytes)
        available = self.free_bytes - promised - self.reserve_bytes
        if available < length:
            msg = f"{length} bytes do not fit: {max(available, 0)} are available."
            raise NoSpace(
                msg,
                extra={
                    "required_bytes": length,
                    "available_bytes": max(available, 0),
                    "free_bytes": self.free_bytes,
                    "promised_bytes": promised,
                    "reserve_bytes": self.reserve_bytes,
                },
            )


@dataclass(frozen=True, slots=True)
class SpaceKeeper:
    """Runs what promises space in the transaction that looks whether there is any."""

    db: Database
    files: Files
    reserve_bytes: int

    async def write(self, work: Callable[[Transaction, Space], T]) -> T:
        """Run ``work`` in a write transaction with the space there is.

        Rows lag behind their files by up to a minute. Only when it does not fit by the rows, the
        files are looked at too and ``work`` runs once more. Raises NoSpace.
        """
        space = Space(self.files.free_bytes(), self.reserve_bytes)
        try:
            return await self.db.write(lambda tx: work(tx, space))
        except NoSpace:
            untold = await self._untold_bytes()
            if untold == 0:
                raise
        exact = Space(self.files.free_bytes(), self.reserve_bytes, untold)
        return await self.db.write(lambda tx: work(tx, exact))

    async def _untold_bytes(self) -> int:
        untold, after = 0, ""
        while page := await self._page(after):
            after = page[-1][0]
            for upload_id, length, told in page:
                if length is not None:
                    # Something else in the place of a file has none of the upload's bytes.
                    size = self.files.size(upload_path(upload_id)) or 0
                    untold += max(0, min(size, length) - told)
        return untold

    async def _page(self, after: str) -> list[tuple[str, int | None, int]]:
        found = await self.db.read(
            lambda tx: tx.uploads.list_receiving(after_id=after, limit=_PAGE)
        )
        return [(upload.id, upload.length, upload.recorded_offset) for upload in found]


def room_for(kind: UploadKind, length: int, offset: int = 0) -> int:
    """Return the bytes to promise to an upload of which ``offset`` are there: a part needs its place
    and its place in the final, which is made beside it and so is promised none of its own.
    """
    if kind is UploadKind.FINAL:
        return 0
    return length - offset + (length if kind is UploadKind.PARTIAL else 0)
