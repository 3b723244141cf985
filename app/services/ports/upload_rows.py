"""The rows of uploads, sessions and batches."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from app.domain.batches import Batch
from app.domain.sessions import Session, SessionStatus
from app.domain.uploads import Upload, UploadStatus
from app.services.ports.cursor import Cursor


class UploadRows(Protocol):
    def insert(self, upload: Upload) -> None: ...

    def find(self, upload_id: str) -> Upload | None: ...

    def find_final(self, owner: str, parts: Sequence[str]) -> Upload | None:
        """Return the final that the owner had made of exactly these parts, in this order."""
        ...

    def list_by_session(self, session_id: str, status: UploadStatus | None = None) -> list[Upload]:
        """Oldest first; ``status`` None means any."""
        ...

    def count_completed(self, session_id: str) -> int:
        """How many uploads of the session are completed."""
        ...

    def put_in_batch(self, session_id: str, batch_id: str) -> None:
        """Make all completed uploads of the session the batch's."""
        ...

    def list_by_batch(self, batch_id: str) -> list[Upload]:
        """In the order of the batch: metadata ``order``, else creation."""
        ...

    def update(self, upload: Upload, *, expected: UploadStatus) -> None:
        """Write the row where its status is still ``expected``: all but what an upload keeps for life,
        its id, session, kind, parts and metadata.
        """
        ...

    def touch(
        self,
        upload_id: str,
        *,
        active_at: datetime,
        expires_at: datetime,
        recorded_offset: int,
        synced_offset: int,
    ) -> None:
        """Record activity of a receiving upload."""
        ...

    def set_verified(self, upload_id: str, offset: int | None) -> None:
        """Note up to where a receiving upload's bytes are right, None when all are."""
        ...

    def set_media(self, upload_id: str, media: dict[str, Any]) -> None: ...

    def set_spent(self, upload_id: str, spent_at: datetime) -> None:
        """Move ``spent_at`` to the later of its value and ``spent_at``."""
        ...

    def delete(self, upload_id: str) -> bool: ...

    def unwritten_bytes(self) -> int:
        """Sum of length minus recorded offset over receiving uploads of known length; and, of parts,
        their length once more: their final is made beside them, and needs no promise of its own.
        """
        ...

    def list_receiving(self, *, after_id: str, limit: int) -> list[Upload]:
        """By id, those after ``after_id`` ("" for the first page)."""
        ...

    def list_expired(self, now: datetime, limit: int) -> list[Upload]:
        """Receiving, with ``expires_at`` before ``now``."""
        ...

    def list_spent(self, now: datetime, limit: int) -> list[Upload]:
        """Completed, ``spent_at`` reached, and no queued or processing job reads them."""
        ...

    def list_without_digest(self, limit: int) -> list[Upload]:
        """Completed and without ``sha256``, oldest completion first."""
        ...

    def set_sha256(self, upload_id: str, sha256: str) -> bool:
        """Keep the digest of a completed upload; False when it is gone."""
        ...

    def plan_spent(self, upload_id: str, spent_at: datetime | None) -> None:
        """Set ``spent_at`` to exactly that, for a hold that was moved or taken up again."""
        ...

    def totals(self) -> dict[UploadStatus, tuple[int, int]]:
        """Count and bytes (recorded offset) by status."""
        ...


class SessionRows(Protocol):
    def insert(self, session: Session) -> None: ...

    def find(self, session_id: str) -> Session | None: ...

    def update(self, session: Session, *, expected: SessionStatus) -> None: ...

    def touch(self, session_id: str, active_at: datetime) -> None: ...

    def delete(self, session_id: str) -> bool: ...

    def list_idle(self, before: datetime, limit: int) -> list[Session]:
        """Open, and neither they nor any of their uploads active since ``before``."""
        ...


class BatchRows(Protocol):
    def insert(self, batch: Batch) -> None: ...

    def find(self, batch_id: str) -> Batch | None: ...

    def list_page(self, owner: str, cursor: Cursor | None, limit: int) -> list[Batch]: ...

    def touch(self, batch_id: str, expires_at: datetime) -> None:
        """Move the expiry on; never back."""
        ...

    def update(self, batch: Batch) -> None:
        """Write ``expires_at``, ``slides`` and ``keep_inputs_hours``, forward or back."""
        ...

    def delete(self, batch_id: str) -> bool: ...

    def list_expired(self, now: datetime, limit: int) -> list[Batch]:
        """Past their expiry, and no active job belongs to them or reads their files."""
        ...
