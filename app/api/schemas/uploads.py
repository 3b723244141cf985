"""An upload as clients see it."""

from dataclasses import asdict
from datetime import datetime

from pydantic import Field

from app.api.schemas.base import EXAMPLE_SESSION, EXAMPLE_UPLOAD, Out
from app.domain.uploads import UploadStatus
from app.services.uploads import UploadView


class UploadOut(Out):
    """One file that arrives, or has arrived, by tus."""

    id: str = Field(examples=[EXAMPLE_UPLOAD])
    session_id: str | None = Field(
        description="Null for a part of a file, which belongs to no session.",
        examples=[EXAMPLE_SESSION],
    )
    batch_id: str | None
    status: UploadStatus = Field(examples=["receiving"])
    offset: int = Field(description="Bytes that are stored.", examples=[1048576])
    length: int | None = Field(
        description="Bytes in all; null while the client has not said.", examples=[73400320]
    )
    filename: str = Field(description="The client's name for it, else the id.")
    media_type: str = Field(description="What the client says it is.", examples=["video/mp4"])
    metadata: dict[str, str] = Field(
        description="Upload-Metadata, decoded.", examples=[{"filename": "clip.mp4"}]
    )
    sha256: str | None = Field(description="Null until it is known.")
    created_at: datetime
    completed_at: datetime | None
    expires_at: datetime | None = Field(
        description="While receiving: when it goes if nothing more arrives. Completed: its batch's;"
        " null while it waits in its session."
    )


def upload_out(view: UploadView) -> UploadOut:
    return UploadOut.model_validate(asdict(view))
