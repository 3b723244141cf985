"""An output as its job lists it, and what can be changed of one."""

from datetime import datetime

from pydantic import Field

from app.api.schemas.base import EXAMPLE_OUTPUT, EXAMPLE_SHA256, In, Out, below
from app.api.schemas.expiry import Expiry
from app.domain.outputs import Output, OutputStatus


class OutputChange(In):
    """What can be changed of an output."""

    expires_at: Expiry


class OutputOut(Out):
    """A stored file that a job produced; its bytes are at `url`."""

    id: str = Field(examples=[EXAMPLE_OUTPUT])
    filename: str = Field(examples=["clip-trim.mp4"])
    media_type: str = Field(examples=["video/mp4"])
    size_bytes: int = Field(examples=[1834022])
    sha256: str = Field(examples=[EXAMPLE_SHA256])
    status: OutputStatus = Field(
        description="`delivered`: a one-time output that its owner has; it goes after a grace."
    )
    url: str = Field(examples=[f"/api/v1/outputs/{EXAMPLE_OUTPUT}"])
    one_time: bool = Field(description="It goes, after a grace, once all its bytes were delivered.")
    delivered_at: datetime | None
    expires_at: datetime | None = Field(
        description="When it goes at the latest, unless somebody asks for another time."
    )


def output_out(output: Output, root_path: str) -> OutputOut:
    """Return the output with its address below ``root_path``."""
    return OutputOut(
        id=output.id,
        filename=output.filename,
        media_type=output.media_type,
        size_bytes=output.size_bytes,
        sha256=output.sha256,
        status=output.status,
        url=below(root_path, f"/api/v1/outputs/{output.id}"),
        one_time=output.one_time,
        delivered_at=output.delivered_at,
        expires_at=output.expires_at,
    )
