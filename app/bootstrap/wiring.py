"""Wires the services over opened stores. Cheap: nothing in here waits or touches a disk."""

import os
import socket
from dataclasses import dataclass

from app.bootstrap.policies import (
    hold_policy,
    job_policy,
    kept_clip_policy,
    retention_policy,
    session_policy,
    sweep_intervals,
    upload_policy,
)
from app.bootstrap.stores import Stores
from app.domain.kept_clips import KeptClipPolicy
from app.domain.layout import RUN
from app.domain.retention import RetentionPolicy
from app.domain.sessions import SessionPolicy
from app.domain.uploads import UploadPolicy
from app.infrastructure.drawing.fonts import FontAlphabet
from app.infrastructure.worker.digests import FileDigests
from app.infrastructure.worker.worker_lock import WorkerLocks
from app.operations.registry import Registry, default_registry
from app.services.batches import BatchService
from app.services.checksums import Checksums
from app.services.completion import CompletionService
from app.services.container import Container
from app.services.delivery import DeliveryService
from app.services.disposal import Disposal
from app.services.draining import Drain
from app.services.form_uploads import FormUploads
from app.services.input_digests import InputDigests
from app.services.job_claims import Claims
from app.services.job_closing import Closing
from app.services.job_creation import JobCreation
from app.services.job_endings import JobRules
from app.services.job_publication import Publication
from app.services.job_rescue import JobRescue
from app.services.job_retry import JobRetry
from app.services.job_run import LeaseKeeper
from app.services.job_runner import JobRunner
from app.services.job_steps import JobSteps
from app.services.jobs import JobService
from app.services.kept_clips import KeptClips
from app.services.log_uploads import LogUploads
from app.services.logs import LogLooks
from app.services.media import MediaService
from app.services.outputs import OutputService
from app.services.recovery import Recovery
from app.services.sessions import SessionService
from app.services.stills import StillLooks
from app.services.storage_ledger import StorageLedger
from app.services.sweeps import SweepParts, SweepPolicies, SweepService, make_sweeps
from app.services.sync_removal import RequestRemoval
from app.services.sync_renders import SyncRenders
from app.services.uploads import UploadService
from app.services.workshop import Looks, Workshop
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class _Core:
    """What several services share."""

    stores: Stores
    uploads: UploadPolicy
    sessions: SessionPolicy
    rules: JobRules
    retention: RetentionPolicy
    kept_clips: KeptClipPolicy
    registry: Registry
    disposal: Disposal
    looks: Looks
    workshop: Workshop


def wire(settings: Settings, stores: Stores) -> Container:
    """Return the container of a process over its stores."""
    core = _core(settings, stores)
    completion, jobs = _completion(core), _jobs(core)
    sessions = _sessions(core, jobs)
    forms = _forms(core, completion, sessions, settings.uploads.multipart_max_bytes)
    rescue = JobRescue(stores.db, stores.engine, core.disposal, stores.metrics, core.rules)
    removal, drain, outputs = _removal(core, jobs, rescue), Drain(), _outputs(core)
    return Container(
        db=stores.db,
        clock=stores.clock,
        metrics=stores.metrics,
        files=stores.files,
        locks=stores.locks,
        registry=core.registry,
        disposal=core.disposal,
        uploads=_uploads(core, completion),
        completion=completion,
        sessions=sessions,
        forms=forms,
        logs=LogUploads(
            db=stores.db,
            forms=forms,
            looks=core.looks.logs,
            operations=jobs,
            policy=core.rules.jobs,
        ),
        renders=SyncRenders(
            db=stores.db,
            clock=stores.clock,
            metrics=stores.metrics,
            forms=forms,
            jobs=jobs,
            outputs=outputs,
            registry=core.registry,
            drain=drain,
            removal=removal,
            policy=core.rules.jobs,
            timeout_seconds=settings.jobs.sync_timeout_seconds,
        ),
        batches=_batches(core, jobs, completion),
        jobs=jobs,
        checksums=_checksums(stores),
        media=core.looks.media,
        outputs=outputs,
        sweeps=_sweeps(core, completion, rescue, removal),
        storage=StorageLedger(stores.db, stores.files, stores.clock, stores.metrics),
        recovery=_recovery(core, rescue, removal),
        runner=_runner(core),
        engine=stores.engine,
        readiness=stores.checks,
        drain=drain,
        watch=stores.watch,
        retention=core.retention,
        intervals=sweep_intervals(settings),
    )


def _core(settings: Settings, stores: Stores) -> _Core:
    registry = default_registry(FontAlphabet(), concat_max_clips=settings.media.concat_max_clips)
    looks = Looks(
        media=MediaService(stores.db, stores.files, stores.tools.probe),
        stills=StillLooks(stores.files, stores.tools.stills),
        logs=LogLooks(stores.files, settings.uploads.log_max_bytes),
        digests=InputDigests(stores.db, FileDigests()),
    )
    return _Core(
        stores=stores,
        uploads=upload_policy(settings),
        sessions=session_policy(settings),
        rules=JobRules(
            jobs=job_policy(settings), holds=hold_policy(settings, registry.releasing())
        ),
        retention=retention_policy(settings),
        kept_clips=kept_clip_policy(settings),
        registry=registry,
        disposal=Disposal(stores.db, stores.files, stores.clock, stores.metrics),
        looks=looks,
        workshop=Workshop(stores.db, stores.files, looks, registry),
    )


def _completion(core: _Core) -> CompletionService:
    stores = core.stores
    return CompletionService(
        db=stores.db,
        clock=stores.clock,
        locks=stores.locks,
        store=stores.store,
        disposal=core.disposal,
        queue=stores.engine,
        metrics=stores.metrics,
        operations=core.registry,
        sessions=core.sessions,
        jobs=core.rules.jobs,
    )


def _uploads(core: _Core, completion: CompletionService) -> UploadService:
    stores = core.stores
    return UploadService(
        db=stores.db,
        files=stores.files,
        store=stores.store,
        locks=stores.locks,
        clock=stores.clock,
        metrics=stores.metrics,
        disposal=core.disposal,
        completion=completion,
        copier=stores.copier,
        policy=core.uploads,
    )


def _sessions(core: _Core, jobs: JobService) -> SessionService:
    stores = core.stores
    return SessionService(
        db=stores.db,
        store=stores.store,
        clock=stores.clock,
        locks=stores.locks,
        metrics=stores.metrics,
        disposal=core.disposal,
        operations=jobs,
        policy=core.sessions,
        retention=core.retention,
        lock_wait_seconds=core.uploads.lock_wait_seconds,
    )


def _forms(
    core: _Core, completion: CompletionService, sessions: SessionService, max_bytes: int
) -> FormUploads:
    stores = core.stores
    return FormUploads(
        db=stores.db,
        files=stores.files,
        work=stores.work,
        store=stores.store,
        clock=stores.clock,
        metrics=stores.metrics,
        disposal=core.disposal,
        completion=completion,
        sessions=sessions,
        uploads=core.uploads,
        worker=stores.worker,
        max_bytes=max_bytes,
    )


def _batches(core: _Core, jobs: JobService, completion: CompletionService) -> BatchService:
    stores = core.stores
    return BatchService(
        db=stores.db,
        store=stores.store,
        clock=stores.clock,
        locks=stores.locks,
        disposal=core.disposal,
        queue=stores.engine,
        metrics=stores.metrics,
        completion=completion,
        jobs=jobs,
        policy=core.sessions,
        retention=core.retention,
        rules=core.rules,
        operations=core.registry,
    )


def _jobs(core: _Core) -> JobService:
    stores = core.stores
    creation = JobCreation(
        db=stores.db,
        clock=stores.clock,
        queue=stores.engine,
        registry=core.registry,
        workshop=core.workshop,
        rules=core.rules,
        batch_ttl=core.sessions.batch_ttl,
    )
    again = JobRetry(
        db=stores.db,
        clock=stores.clock,
        queue=stores.engine,
        disposal=core.disposal,
        rules=core.rules,
        batch_ttl=core.sessions.batch_ttl,
    )
    return JobService(
        db=stores.db,
        clock=stores.clock,
        queue=stores.engine,
        registry=core.registry,
        disposal=core.disposal,
        rules=core.rules,
        retention=core.retention,
        creation=creation,
        again=again,
    )


def _sweeps(
    core: _Core, completion: CompletionService, rescue: JobRescue, removal: RequestRemoval
) -> SweepService:
    stores = core.stores
    parts = SweepParts(
        db=stores.db,
        files=stores.files,
        metrics=stores.metrics,
        locks=stores.locks,
        upload_bytes=stores.store,
        disposal=core.disposal,
        completion=completion,
        rescue=rescue,
        removal=removal,
    )
    policies = SweepPolicies(
        uploads=core.uploads,
        sessions=core.sessions,
        jobs=core.rules.jobs,
        retention=core.retention,
        kept_clips=core.kept_clips,
    )
    return SweepService(
        stores.db,
        stores.clock,
        stores.metrics,
        make_sweeps(parts, policies),
        leader=f"{socket.gethostname()}:{os.getpid()}:{stores.worker[:8]}",
    )


def _outputs(core: _Core) -> OutputService:
    stores = core.stores
    return OutputService(
        db=stores.db,
        files=stores.files,
        clock=stores.clock,
        disposal=core.disposal,
        deliveries=DeliveryService(db=stores.db, clock=stores.clock),
        retention=core.retention,
    )


def _recovery(core: _Core, rescue: JobRescue, removal: RequestRemoval) -> Recovery:
    stores = core.stores
    return Recovery(
        db=stores.db,
        files=stores.files,
        clock=stores.clock,
        workers=WorkerLocks(stores.place.folder.root / RUN),
        rescue=rescue,
        disposal=core.disposal,
        removal=removal,
    )


def _removal(core: _Core, jobs: JobService, rescue: JobRescue) -> RequestRemoval:
    stores = core.stores
    return RequestRemoval(
        db=stores.db,
        clock=stores.clock,
        disposal=core.disposal,
        queue=stores.engine,
        jobs=jobs,
        rescue=rescue,
        workers=WorkerLocks(stores.place.folder.root / RUN),
        rules=core.rules,
        worker=stores.worker,
    )


def _checksums(stores: Stores) -> Checksums:
    return Checksums(
        stores.db, stores.files, stores.clock, stores.tools.digests, holder=stores.worker
    )


def _runner(core: _Core) -> JobRunner:
    stores = core.stores
    closing = Closing(
        stores.db, stores.files, core.disposal, stores.clock, stores.metrics, core.rules
    )
    kept = KeptClips(
        stores.db, stores.files, stores.clock, stores.metrics, core.disposal, core.kept_clips
    )
    return JobRunner(
        Claims(stores.worker, stores.db, stores.clock),
        LeaseKeeper(stores.db, stores.clock, core.rules.jobs),
        core.workshop,
        JobSteps(stores.tools.steps, kept, stores.tools.version),
        Publication(stores.db, stores.files, FileDigests(), stores.clock, closing),
        closing,
    )
