"""Sessions as clients open and see them."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from app.api.schemas.base import EXAMPLE_SESSION, In, Out
from app.api.schemas.uploads import UploadOut, upload_out
from app.domain.sessions import SessionStatus, Then
from app.services.sessions import SessionRequest, SessionView

MOST_FILES = 1000
TUS_ENDPOINT = "/files/"


class ThenIn(In):
    """The operation to start by itself as soon as the batch exists."""

    operation: Annotated[str, Field(max_length=64, examples=["trim"])]
    params: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict,
            description="As the operation's schema says; see GET /api/v1/operations.",
            examples=[{"start": 2, "end": 7}],
        ),
    ]
    timeout_seconds: Annotated[
        float | None, Field(gt=0, description="Limit of one attempt; null: the default.")
    ] = None
    one_time: Annotated[
        bool,
        Field(strict=True, description="Each output goes, after a grace, once it was delivered."),
    ] = False

    def to_domain(self) -> Then:
        return Then(self.operation, self.params, self.timeout_seconds, self.one_time)


KeepInputsHours = Annotated[
    float | None,
    Field(
        strict=True,
        ge=0,
        allow_inf_nan=False,
        description="How long the files stay after the last job that used them has completed, in"
        " hours up to `TIDEMILL_TTL_MAX_HOURS`; null: as the service is set.",
        examples=[48],
    ),
]


class NewSession(In):
    """What a session may be told when it is opened; all of it optional."""

    expected_files: Annotated[
        int | None,
        Field(
            strict=True,
            ge=1,
            le=MOST_FILES,
            description="The session becomes a batch by itself once so many uploads are complete.",
            examples=[1],
        ),
    ] = None
    then: ThenIn | None = None
    keep_inputs_hours: KeepInputsHours = None

    def to_domain(self) -> SessionRequest:
        then = self.then.to_domain() if self.then else None
        return SessionRequest(self.expected_files, then, self.keep_inputs_hours)


class ThenOut(Out):
    operation: str = Field(examples=["trim"])
    params: dict[str, Any] = Field(examples=[{"start": 2, "end": 7}])
    timeout_seconds: float | None
    one_time: bool


class TusOut(Out):
    """What a tus client needs: where to upload, and the metadata that names the session."""

    endpoint: str = Field(examples=[TUS_ENDPOINT])
    metadata: dict[str, str] = Field(examples=[{"session": EXAMPLE_SESSION}])


class SessionOut(Out):
    """One client's visit; groups uploads until they become a batch."""

    session_id: str = Field(examples=[EXAMPLE_SESSION])
    status: SessionStatus
    expected_files: int | None
    then: ThenOut | None
    keep_inputs_hours: float | None = Field(description="Null: as the service is set.")
    uploads: list[UploadOut] = Field(description="Oldest first.")
    batch_id: str | None
    tus: TusOut
    created_at: datetime
    expires_at: datetime = Field(
        description="When it goes if no byte arrives and no request touches it; a batch's own time"
        " once it is one."
    )


def session_out(view: SessionView, tus_endpoint: str) -> SessionOut:
    session, then = view.session, view.session.then
    return SessionOut(
        session_id=session.id,
        status=session.status,
        expected_files=session.expected_files,
        then=ThenOut(
            operation=then.operation,
            params=then.params,
            timeout_seconds=then.timeout_seconds,
            one_time=then.one_time,
        )
        if then
        else None,
        keep_inputs_hours=session.keep_inputs_hours,
        uploads=[upload_out(upload) for upload in view.uploads],
        batch_id=session.batch_id,
        tus=TusOut(endpoint=tus_endpoint, metadata={"session": session.id}),
        created_at=session.created_at,
        expires_at=view.expires_at,
    )
