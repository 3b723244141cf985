"""What route handlers may ask for, as annotated aliases over the one container.

All of it is ``async``: FastAPI calls a plain function in a thread, which costs more than most handlers.
"""

from typing import Annotated, cast

from fastapi import Depends, Request

from app.api.access import AccessPolicy
from app.domain.access import OWNER
from app.domain.errors import NotReady
from app.services.batches import BatchService
from app.services.container import Container
from app.services.form_uploads import FormUploads
from app.services.jobs import JobService
from app.services.log_uploads import LogUploads
from app.services.outputs import OutputService
from app.services.sessions import SessionService
from app.services.sync_renders import SyncRenders
from app.services.uploads import UploadService


async def get_container(request: Request) -> Container:
    """Return what the lifespan opened. Raises NotReady before and after it."""
    container = getattr(request.app.state, "container", None)
    if container is None:
        raise NotReady("The service is starting or stopping.")
    return cast("Container", container)


async def get_owner(request: Request) -> str:
    """Return whose request this is, as the access check found."""
    return cast("str", request.scope.get("state", {}).get("owner", OWNER))


async def get_access(request: Request) -> AccessPolicy:
    return cast("AccessPolicy", request.app.state.access)


ContainerDep = Annotated[Container, Depends(get_container)]
Owner = Annotated[str, Depends(get_owner)]
Access = Annotated[AccessPolicy, Depends(get_access)]


async def _sessions(container: ContainerDep) -> SessionService:
    return container.sessions


async def _forms(container: ContainerDep) -> FormUploads:
    return container.forms


async def _logs(container: ContainerDep) -> LogUploads:
    return container.logs


async def _renders(container: ContainerDep) -> SyncRenders:
    return container.renders


async def _uploads(container: ContainerDep) -> UploadService:
    return container.uploads


async def _batches(container: ContainerDep) -> BatchService:
    return container.batches


async def _jobs(container: ContainerDep) -> JobService:
    return container.jobs


async def _outputs(container: ContainerDep) -> OutputService:
    return container.outputs


Sessions = Annotated[SessionService, Depends(_sessions)]
Forms = Annotated[FormUploads, Depends(_forms)]
Logs = Annotated[LogUploads, Depends(_logs)]
Renders = Annotated[SyncRenders, Depends(_renders)]
Uploads = Annotated[UploadService, Depends(_uploads)]
Batches = Annotated[BatchService, Depends(_batches)]
Jobs = Annotated[JobService, Depends(_jobs)]
Outputs = Annotated[OutputService, Depends(_outputs)]
