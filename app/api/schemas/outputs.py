"""An output as its job lists it."""

from datetime import datetime

from pydantic import Field

from app.api.schemas.base import EXAMPLE_OUTPUT, EXAMPLE_SHA256, Out, below
from app.domain.outputs import Output, OutputStatus


class OutputOut(Out):
    """A stored file that a job produced; its bytes are at `url`."""

    id: str = Field(examples=[EXAMPLE_OUTPUT])
    filename: str = Field(examples=["clip-trim.mp4"])
    media_type: str = Field(examples=["video/mp4"])
    size_bytes: int = Field(examples=[1834022])
    sha256: str = Field(examples=[EXAMPLE_SHA256])
    status: OutputStatus
    url: str = Field(examples=[f"/api/v1/outputs/{EXAMPLE_OUTPUT}"])
    expires_at: datetime | None


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
        expires_at=output.expires_at,
    )
