"""Liveness and readiness as seen from outside."""

from pydantic import Field

from app.api.schemas.base import Out
from app.services.readiness import PartState


class LiveOut(Out):
    status: str = Field(examples=["ok"])


class PartOut(Out):
    name: str = Field(examples=["database"])
    state: PartState
    detail: str


class ReadyOut(Out):
    """`parts` is for admins and the machine itself; others get an empty list."""

    status: PartState
    parts: list[PartOut]
