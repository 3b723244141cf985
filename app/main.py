"""Makes the application (``uvicorn --factory app.main:create_app``): lifespan, API, tus app."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from urllib.parse import urlsplit

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.access import AccessPolicy, hash_key
from app.api.router import install_api
from app.api.tus import TusOptions, mount_tus
from app.bootstrap import ALONE, Role, StartRefused, open_container
from app.domain.errors import AppError
from app.infrastructure.key_file import key_required, read_key
from app.infrastructure.logging import configure_logging
from app.infrastructure.scheduler import (
    CleanupScheduler,
    start_cleanup_scheduler,
    stop_cleanup_scheduler,
)
from app.services.container import Container
from app.services.readiness import Part, PartState
from app.services.stop_phases import stop_phase
from app.settings import LOOPBACK, Settings

log = structlog.get_logger(__name__)

WATCH_SECONDS = 1.0
WORK_SECONDS = 2.0
SWEEP_SECONDS = 2.0
"""How long running sweeps may go on at a stop, and then to be cancelled; the next ones go on."""
JOBS_SECONDS = 6.5
"""A little more than the engine gives its jobs."""
SYNC_SECONDS = 8.0
DEAD_LOOKS = 10
"""So many looks in a row without a beat: one alone is also what a stopped process sees on waking."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application; nothing is opened before its lifespan starts.

    Without ``settings`` they come from the environment. Raises ``SettingsError``, and
    ``StartRefused`` when a key is required and there is none.
    """
    settings = settings or Settings.load()
    service = settings.service
    configure_logging(service.log_format, service.log_level, with_pid=service.processes > 1)
    if settings.skipped_variables:
        log.warning("settings.service_links_skipped", variables=settings.skipped_variables)
    access = access_policy(settings)
    app = FastAPI(
        title="Tidemill",
        version=version("tidemill"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=partial(_lifespan, settings),
    )
    install_api(app, access, public_url=settings.service.public_url)
    mount_tus(
        app,
        TusOptions(
            max_upload_bytes=settings.uploads.max_upload_bytes,
            metadata_max_bytes=settings.uploads.metadata_max_bytes,
            access=access,
            public_url=settings.service.public_url,
        ),
    )
    app.add_middleware(StartGuard)
    return app


def access_policy(settings: Settings) -> AccessPolicy:
    """Return who may come in. Raises ``StartRefused`` where a key is required and there is none."""
    service, key_file = settings.service, settings.access.admin_key_file
    keys: frozenset[bytes] = frozenset()
    if key_file is not None:
        keys = frozenset({hash_key(read_key(key_file))})
    elif not settings.is_open:
        raise key_required(_why_not_open(settings))
    public = urlsplit(service.public_url or "")
    # Behind a proxy that rewrites Host, our own pages are same-origin by PUBLIC_URL only.
    own = {f"{public.scheme}://{public.netloc}"} if public.hostname else set()
    return AccessPolicy(
        key_hashes=keys,
        allowed_hosts=frozenset({public.hostname} if public.hostname else ()),
        allowed_origins=(frozenset(service.cors_origins) | own) - {LOOPBACK},
        loopback_origins=LOOPBACK in service.cors_origins,
    )


def _why_not_open(settings: Settings) -> str:
    service = settings.service
    if service.public_url:
        return f"TIDEMILL_PUBLIC_URL is {service.public_url}"
    if service.trusted_proxies:
        return f"TIDEMILL_TRUSTED_PROXIES is {','.join(service.trusted_proxies)}"
    return f"TIDEMILL_HOST is {service.host}, which others can reach"


@asynccontextmanager
async def _lifespan(settings: Settings, app: FastAPI) -> AsyncIterator[None]:
    log.info("service.starting", version=app.version, data_dir=str(settings.data.data_dir))
    seat = getattr(app.state, "seat", ALONE)
    async with AsyncExitStack() as stack:
        try:
            container = await stack.enter_async_context(open_container(settings, Role.SERVE, seat))
        except (StartRefused, AppError, OSError) as error:
            log.error("service.start_refused", reason=str(error))  # noqa: TRY400 - no bug, no trace
            app.state.refusal = str(error)
            raise
        await container.uploads.recover_after_boot()
        _run(app, container, stack)
        app.state.container = container
        stack.callback(setattr, app.state, "container", None)  # from here on /readyz says no
        log.info("service.ready")
        yield
        container.drain.begin()  # servers other than ours have not said it before
        log.info("service.closing")


def _run(app: FastAPI, container: Container, stack: AsyncExitStack) -> None:
    """Start scheduler and engine; ``stack`` stops them in reverse order, each within its limit."""
    scheduler = start_cleanup_scheduler(container.sweeps, container.intervals)
    container.readiness.add("scheduler", partial(_look_at_scheduler, scheduler, container))
    work = asyncio.create_task(_work(app, scheduler, container), name="work")
    work.add_done_callback(partial(_report_end, app))
    checksums = asyncio.create_task(container.checksums.run(), name="checksums")
    checksums.add_done_callback(_report_checksums)
    # A clean stop makes every byte durable, so that a reboot of the machine cuts nothing.
    uploads = container.uploads
    stack.push_async_callback(stop_phase, "uploads", SYNC_SECONDS, uploads.sync_unfinished)
    stack.push_async_callback(stop_phase, "jobs", JOBS_SECONDS, container.engine.stop)
    stop_sweeps = partial(stop_cleanup_scheduler, scheduler, SWEEP_SECONDS)
    stack.push_async_callback(stop_phase, "scheduler", 2 * SWEEP_SECONDS, stop_sweeps)
    stack.push_async_callback(stop_phase, "work", WORK_SECONDS, partial(_cancel, work, checksums))


async def _cancel(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _report_checksums(task: "asyncio.Task[None]") -> None:
    # Uploads and jobs go on without digests: no reason to stop, but one to be told.
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.critical("checksums.died", error=repr(error))


async def _work(app: FastAPI, scheduler: CleanupScheduler, container: Container) -> None:
    """Take back what dead processes left, then claim jobs, and watch that both loops live."""
    try:
        await container.recovery.run()
    except AppError as error:
        # The sweeps job_timeouts and spent_inputs do the same later, only not at once.
        log.error("recovery.failed", code=error.code)  # noqa: TRY400 - expected kinds of trouble
    container.engine.start(container.runner)
    silent = 0
    while silent < DEAD_LOOKS:
        with suppress(TimeoutError):
            async with asyncio.timeout(WATCH_SECONDS):
                death = await asyncio.shield(container.engine.failed)
            _fail(app, "engine", repr(death))
            return
        silent = 0 if scheduler.is_alive(container.clock.monotonic()) else silent + 1
    _fail(app, "scheduler", "its beat has stopped")


def _report_end(app: FastAPI, work: "asyncio.Task[None]") -> None:
    error = None if work.cancelled() else work.exception()
    if error is not None:
        _fail(app, "start", repr(error))


def _fail(app: FastAPI, part: str, reason: str) -> None:
    """Stop the process with a failure: a supervisor restarts what cannot do its work any more."""
    log.critical("service.failed", part=part, reason=reason)
    app.state.failure = part
    stop = getattr(app.state, "stop", None)
    if stop is not None:
        stop()
    else:
        signal.raise_signal(signal.SIGTERM)


async def _look_at_scheduler(scheduler: CleanupScheduler, container: Container) -> Part:
    now = container.clock.monotonic()
    if not scheduler.is_alive(now):
        return Part("scheduler", PartState.FAILING, "its beat has stopped")
    late = scheduler.late_sweeps(now)
    if late:
        return Part("scheduler", PartState.DEGRADED, f"late: {', '.join(late)}")
    return Part("scheduler", PartState.OK)


class StartGuard:
    """Keeps the traceback of a refused start out of the log: the refusal has its own line there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def say(message: Message) -> None:
            refused = getattr(scope["app"].state, "refusal", None) is not None
            if refused and message["type"] == "lifespan.startup.failed":
                message = {"type": message["type"], "message": ""}
            await send(message)

        await self._app(scope, receive, say)
