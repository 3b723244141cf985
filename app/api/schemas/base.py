"""What all models share: strict requests, addresses below root_path, the form of ids."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.domain.errors import (
    AppError,
    BatchNotFound,
    JobNotFound,
    OutputNotFound,
    SessionNotFound,
    UploadNotFound,
)
from app.domain.ids import is_id

EXAMPLE_SESSION = "0f8b1c2d3e4f4a5b8c6d7e8f9a0b1c2d"
EXAMPLE_UPLOAD = "5a1d2c3b4e5f46078192a3b4c5d6e7f8"
EXAMPLE_BATCH = "b7c8d9eaf0a142b3c4d5e6f708192a3b"
EXAMPLE_JOB = "1c2d3e4f5a6b47c8d9eaf0b1a2c3d4e5"
EXAMPLE_OUTPUT = "e4f5a6b7c8d94eafb0c1d2e3f4a5b6c7"
EXAMPLE_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class In(BaseModel):
    """Base of what clients send: what is not known is refused, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = sorted(str(name)[:100] for name in set(data) - set(cls.model_fields))
            if unknown:
                facts = {"unknown": unknown[:20], "allowed": sorted(cls.model_fields)}
                raise PydanticCustomError("unknown_field", "There is no such field.", facts)
        return data


class Out(BaseModel):
    """Base of what clients get."""

    model_config = ConfigDict(frozen=True)


def below(root_path: str, path: str) -> str:
    """Return ``path`` as clients reach it behind ``root_path``."""
    return f"{root_path.rstrip('/')}{path}"


def absolute_below(public_url: str | None, root_path: str, path: str) -> str:
    """Return ``path`` as an address from anywhere, where the service knows its own public one."""
    if public_url is None:
        return below(root_path, path)
    base = public_url.rstrip("/")
    return f"{base}{path}" if urlsplit(base).path else f"{base}{below(root_path, path)}"


def _known(error: type[AppError], thing: str) -> AfterValidator:
    def check(text: str) -> str:
        # Not an id at all is the same to a client as an id of nothing; no query ever sees it.
        if not is_id(text):
            msg = f"There is no {thing} {text[:64]}; ids are 32 lower-case hex digits."
            raise error(msg)
        return text

    return AfterValidator(check)


_FORM = Field(json_schema_extra={"pattern": "^[0-9a-f]{32}$"})

SessionRef = Annotated[
    str, _FORM, _known(SessionNotFound, "session"), Field(examples=[EXAMPLE_SESSION])
]
UploadRef = Annotated[
    str, _FORM, _known(UploadNotFound, "upload"), Field(examples=[EXAMPLE_UPLOAD])
]
BatchRef = Annotated[str, _FORM, _known(BatchNotFound, "batch"), Field(examples=[EXAMPLE_BATCH])]
OutputRef = Annotated[
    str, _FORM, _known(OutputNotFound, "output"), Field(examples=[EXAMPLE_OUTPUT])
]
SessionId = Annotated[
    str, Path(description="The session's id."), _known(SessionNotFound, "session")
]
UploadId = Annotated[
    str,
    Path(description="The upload's id: the last segment of its tus URL."),
    _known(UploadNotFound, "upload"),
]
BatchId = Annotated[str, Path(description="The batch's id."), _known(BatchNotFound, "batch")]
JobId = Annotated[str, Path(description="The job's id."), _known(JobNotFound, "job")]
OutputId = Annotated[str, Path(description="The output's id."), _known(OutputNotFound, "output")]
