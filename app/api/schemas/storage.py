"""What the data folder holds, as clients see it."""

from dataclasses import asdict
from datetime import datetime

from pydantic import Field

from app.api.schemas.base import Out
from app.services.storage_ledger import StorageReport


class RowTotalOut(Out):
    state: str
    count: int
    size_bytes: int


class KindOut(Out):
    """One kind of bytes: what lies on the disk, and what the rows say of it."""

    kind: str = Field(examples=["uploads"])
    count: int = Field(description="Files on disk.")
    size_bytes: int = Field(description="Bytes on disk.")
    rows: list[RowTotalOut]


class StorageOut(Out):
    """Bytes by kind, from the disk and from the rows side by side, moments apart."""

    measured_at: datetime
    kinds: list[KindOut]
    total_bytes: int
    reserved_bytes: int = Field(description="Promised to open uploads and not there yet.")
    free_bytes: int = Field(description="Free on the file system of the data folder.")
    pending_cleanups: int = Field(description="Files and folders that are still to be deleted.")


def storage_out(report: StorageReport) -> StorageOut:
    return StorageOut.model_validate({**asdict(report), "total_bytes": report.total_bytes})
