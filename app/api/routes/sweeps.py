"""/api/v1/sweeps and /api/v1/storage: what was cleaned up, what is there."""

from typing import Annotated

from fastapi import Query

from app.api.dependencies import ContainerDep
from app.api.json_route import json_router
from app.api.pagination import PageDep, encode_cursor
from app.api.schemas.problems import problems
from app.api.schemas.storage import StorageOut, storage_out
from app.api.schemas.sweeps import SweepList, SweepRunOut, report_out, run_out
from app.domain.errors import (
    Draining,
    NotSupported,
    StorageFailed,
    SweepRunning,
)
from app.domain.sweeps import SweepName, Trigger
from app.services.sweep_reports import list_reports

router = json_router("sweeps and storage")


@router.get("/sweeps", summary="List reports", responses=problems())
async def list_sweeps(
    container: ContainerDep,
    page: PageDep,
    sweep: Annotated[SweepName | None, Query(description="Reports of this sweep only.")] = None,
) -> SweepList:
    """What the sweeps did, newest first, in pages. Old reports go, but for each sweep's latest."""
    reports, following = await list_reports(container.db, page.cursor, page.limit, sweep)
    cursor = encode_cursor(following) if following else None
    return SweepList(items=[report_out(report) for report in reports], next=cursor)


@router.post(
    "/sweeps/{name}",
    summary="Run a sweep now",
    responses=problems(SweepRunning, NotSupported, Draining),
)
async def run_sweep(
    name: SweepName,
    container: ContainerDep,
    dry_run: Annotated[bool, Query(description="Only say what would go.")] = False,  # noqa: FBT002
) -> SweepRunOut:
    """Runs it once and answers with its report. With `dry_run=true` nothing changes."""
    report, victims = await container.sweeps.run(name, Trigger.MANUAL, dry_run=dry_run)
    return run_out(report, victims)


@router.get("/storage", summary="Bytes by kind", responses=problems(StorageFailed))
async def get_storage(container: ContainerDep) -> StorageOut:
    """What lies on the disk and what the rows say of it."""
    return storage_out(await container.storage.report())
