"""Reports of sweeps as clients see them."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import Field

from app.api.schemas.base import Out
from app.domain.sweeps import SweepName, SweepReport, Trigger, Victim


class VictimOut(Out):
    """One thing that a dry run would remove or repair."""

    kind: str = Field(examples=["session"])
    id: str
    why: str
    size_bytes: int


class SweepReportOut(Out):
    """What one run of a sweep found and did; bytes count only what is verified gone."""

    id: str
    sweep: SweepName
    trigger: Trigger
    leader: str = Field(description="The process that ran it.")
    dry_run: bool
    cutoff: datetime | None = Field(description="Things older than this were looked at.")
    examined: int
    removed: int
    skipped: dict[str, int] = Field(description="Things left alone, counted by reason.")
    bytes_freed: int
    errors: list[str]
    started_at: datetime
    duration_seconds: float


class SweepRunOut(SweepReportOut):
    """A run by hand; `victims` names each thing it took or, in a dry run, would take."""

    victims: list[VictimOut]


class SweepList(Out):
    items: list[SweepReportOut] = Field(description="Newest first.")
    next: str | None = Field(description="Pass as `cursor` for the next page; null: no more.")


def report_out(report: SweepReport) -> SweepReportOut:
    return SweepReportOut.model_validate(_fields(report))


def run_out(report: SweepReport, victims: Sequence[Victim]) -> SweepRunOut:
    named = [VictimOut(kind=v.kind, id=v.id, why=v.why, size_bytes=v.size_bytes) for v in victims]
    return SweepRunOut.model_validate({**_fields(report), "victims": named})


def _fields(report: SweepReport) -> dict[str, object]:
    names = SweepReportOut.model_fields
    return {**{name: getattr(report, name) for name in names}, "errors": list(report.errors)}
