"""Running real sweeps over a world, with stand-ins for the completion handler and the engine."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from app.domain.holds import HoldPolicy
from app.domain.sweeps import SweepName, SweepReport, Trigger, Victim
from app.services.job_endings import JobRules
from app.services.job_rescue import JobRescue
from app.services.sweeps import (
    Sweep,
    SweepLimits,
    SweepParts,
    SweepPolicies,
    SweepService,
    make_sweeps,
)
from tests.fakes.retention import (
    HOUR,
    JOB_POLICY,
    RETENTION_POLICY,
    SESSION_POLICY,
    UPLOAD_POLICY,
    World,
)


@dataclass
class RememberingQueue:
    """An engine that only remembers what it was told."""

    told: list[tuple[str, int]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def enqueue(self, job_id: str, attempt: int) -> None:
        self.told.append((job_id, attempt))

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)


def all_sweeps(world: World, queue: RememberingQueue | None = None) -> tuple[Sweep, ...]:
    rules = JobRules(JOB_POLICY, HoldPolicy(keep_inputs=HOUR, failed_ttl=HOUR))
    queue = queue or RememberingQueue()
    return make_sweeps(
        SweepParts(
            db=world.db,
            files=world.files,
            metrics=world.metrics,
            locks=world.locks,
            upload_bytes=world.upload_bytes,
            disposal=world.disposal,
            completion=world,
            rescue=JobRescue(world.db, queue, world.disposal, world.metrics, rules),
        ),
        SweepPolicies(
            UPLOAD_POLICY, SESSION_POLICY, JOB_POLICY, RETENTION_POLICY, world.kept_clips
        ),
    )


def sweep_service(
    world: World,
    *,
    sweeps: Iterable[Sweep] | None = None,
    limits: SweepLimits | None = None,
    leader: str = "tests",
) -> SweepService:
    return SweepService(
        world.db,
        world.clock,
        world.metrics,
        all_sweeps(world) if sweeps is None else sweeps,
        leader=leader,
        limits=limits,
    )


async def sweep(world: World, name: SweepName, *, limit: int = 500) -> SweepReport:
    """Run one sweep as the scheduler does, and return its report."""
    service = sweep_service(world, limits=SweepLimits(victims=limit))
    report, _ = await service.run(name, Trigger.INTERVAL)
    return report


async def dry_run(world: World, name: SweepName) -> tuple[SweepReport, tuple[Victim, ...]]:
    return await sweep_service(world).run(name, Trigger.MANUAL, dry_run=True)
