"""Jobs and operations as clients ask for and see them."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from app.api.schemas.base import (
    EXAMPLE_BATCH,
    EXAMPLE_JOB,
    EXAMPLE_UPLOAD,
    BatchRef,
    In,
    Out,
    OutputRef,
    UploadRef,
)
from app.api.schemas.expiry import Expiry
from app.api.schemas.outputs import OutputOut, output_out
from app.domain.jobs import InputRole, JobInput, JobStatus
from app.services.job_requests import PRIORITY_LIMIT, JobRequest
from app.services.job_views import JobView
from app.services.jobs import OperationView

MOST_INPUTS = 1000


class JobInputIn(In):
    """One input: exactly one of `upload_id` and `output_id`."""

    upload_id: UploadRef | None = None
    output_id: OutputRef | None = None
    role: Annotated[
        InputRole | None,
        Field(description="Left out: what the operation works on, such as its clip or its log."),
    ] = None
    order: Annotated[
        int | None,
        Field(
            strict=True, ge=0, le=10**6, description="Place among the inputs; default: as listed."
        ),
    ] = None

    def to_domain(self, position: int, main_role: InputRole) -> JobInput:
        order = position if self.order is None else self.order
        return JobInput(self.role or main_role, self.upload_id, self.output_id, order)


class NewJobIn(In):
    """An operation on inputs; `batch_id` alone is short for all its files."""

    operation: Annotated[str, Field(max_length=64, examples=["trim"])]
    inputs: Annotated[
        list[JobInputIn],
        Field(
            default_factory=list,
            max_length=MOST_INPUTS,
            examples=[[{"upload_id": EXAMPLE_UPLOAD, "role": "clip"}]],
        ),
    ]
    batch_id: BatchRef | None = None
    file_ids: Annotated[
        list[UploadRef] | None,
        Field(max_length=MOST_INPUTS, description="Some files of `batch_id` instead of all."),
    ] = None
    params: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict,
            description="As the operation's schema says; see GET /api/v1/operations.",
            examples=[{"start": 2, "end": 7}],
        ),
    ]
    priority: Annotated[
        int,
        Field(
            strict=True,
            ge=-PRIORITY_LIMIT,
            le=PRIORITY_LIMIT,
            description="Higher goes first among those that wait.",
        ),
    ] = 0
    timeout_seconds: Annotated[
        float | None, Field(gt=0, description="Limit of one attempt; null: the default.")
    ] = None
    one_time: Annotated[
        bool,
        Field(
            strict=True,
            description="Each output goes, after a grace, once all its bytes were delivered.",
        ),
    ] = False

    def to_domain(self, main_role: InputRole) -> JobRequest:
        """Return the request; inputs without a role have ``main_role``."""
        return JobRequest(
            operation=self.operation,
            params=self.params,
            inputs=tuple(item.to_domain(n, main_role) for n, item in enumerate(self.inputs)),
            batch_id=self.batch_id,
            file_ids=tuple(self.file_ids) if self.file_ids is not None else None,
            priority=self.priority,
            timeout_seconds=self.timeout_seconds,
            one_time=self.one_time,
        )


class JobChange(In):
    """What can be changed of a job that has ended."""

    expires_at: Expiry


class JobInputOut(Out):
    upload_id: str | None = Field(examples=[EXAMPLE_UPLOAD])
    output_id: str | None
    role: InputRole
    order: int


class JobErrorOut(Out):
    """Why the job failed; `code` is one of /docs/errors, `detail` what that code adds."""

    code: str = Field(examples=["trim_out_of_range"])
    message: str
    detail: dict[str, Any] | None


class JobOut(Out):
    """One operation on named inputs, now: poll it until its status is no longer active."""

    id: str = Field(examples=[EXAMPLE_JOB])
    operation: str = Field(examples=["trim"])
    batch_id: str | None = Field(examples=[EXAMPLE_BATCH])
    inputs: list[JobInputOut]
    status: JobStatus
    progress: float = Field(description="0 to 100.", examples=[42.5])
    stage: str | None = Field(description="The step that runs.")
    params: dict[str, Any] = Field(examples=[{"start": 2, "end": 7}])
    priority: int
    timeout_seconds: float
    attempt: int
    max_attempts: int
    cancel_requested: bool
    one_time: bool = Field(description="Its outputs go once they were delivered.")
    error: JobErrorOut | None
    result: dict[str, Any] | None = Field(description="What the operation tells of its result.")
    warnings: list[str]
    outputs: list[OutputOut]
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None = Field(description="When job and outputs go; null while active.")


class JobList(Out):
    items: list[JobOut]
    next: str | None = Field(description="Pass as `cursor` for the next page; null: no more.")


class InputRuleOut(Out):
    role: InputRole
    minimum: int
    maximum: int


class OperationOut(Out):
    """A kind of work, and what it needs."""

    name: str = Field(examples=["trim"])
    description: str
    inputs: list[InputRuleOut]
    params: dict[str, Any] = Field(description="JSON Schema of `params`.")


class OperationList(Out):
    items: list[OperationOut]
    next: str | None = Field(description="Always null: they are few.")


def job_out(view: JobView, root_path: str) -> JobOut:
    """Return the job with its outputs, their addresses below ``root_path``."""
    job, error = view.job, view.job.error
    return JobOut(
        id=job.id,
        operation=job.operation,
        batch_id=job.batch_id,
        inputs=[
            JobInputOut(upload_id=i.upload_id, output_id=i.output_id, role=i.role, order=i.order)
            for i in job.inputs
        ],
        status=job.status,
        progress=round(job.progress, 1),
        stage=job.stage,
        params=job.params,
        priority=job.priority,
        timeout_seconds=job.timeout_seconds,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        cancel_requested=job.cancel_requested,
        one_time=job.one_time,
        error=JobErrorOut(code=error.code, message=error.message, detail=error.detail)
        if error
        else None,
        result=job.result,
        warnings=list(job.warnings),
        outputs=[output_out(output, root_path) for output in view.outputs],
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.completed_at,
        expires_at=None if job.status.is_active else job.expires_at,
    )


def operation_out(view: OperationView) -> OperationOut:
    return OperationOut(
        name=view.name,
        description=view.description,
        inputs=[
            InputRuleOut(role=rule.role, minimum=rule.minimum, maximum=rule.maximum)
            for rule in view.inputs
        ],
        params=view.params,
    )
