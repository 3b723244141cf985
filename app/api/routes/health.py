"""/livez, /readyz and /metrics: what supervisors and monitors ask."""

from typing import Protocol, cast

from fastapi import APIRouter, Request, Response

from app.api.access import may_see_details
from app.api.dependencies import Access, ContainerDep
from app.api.direct_route import DirectRoute
from app.api.json_route import operation_id
from app.api.schemas.health import LiveOut, PartOut, ReadyOut
from app.api.schemas.problems import ACCESS_ERRORS, problems
from app.domain.errors import HostNotAllowed, InternalError, NotReady, OriginNotAllowed
from app.services.readiness import PartState, overall

router = APIRouter(
    route_class=DirectRoute, tags=["running it"], generate_unique_id_function=operation_id
)

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ALIVE = LiveOut(status="ok").model_dump_json()
_OPEN = (HostNotAllowed, OriginNotAllowed, InternalError)


class Exposition(Protocol):
    """Metrics that can be written down."""

    def render(self) -> bytes: ...


@router.get(
    "/livez",
    response_model=LiveOut,
    summary="Is the process alive?",
    responses=problems(*_OPEN, everywhere=False),
)
async def livez() -> Response:
    """200 as long as the process answers at all. Restart it when it does not."""
    return Response(_ALIVE, media_type="application/json")


@router.get(
    "/readyz",
    summary="Can it do its work?",
    responses={
        503: {"model": ReadyOut, "description": "Some part fails, or the service starts or stops."},
        **problems(*_OPEN, everywhere=False),
    },
)
async def readyz(request: Request, response: Response, access: Access) -> ReadyOut:
    """200 `ok`; 200 `degraded`: works, but something wants attention; 503 `failing`: send no traffic.

    The names of the parts are for the machine itself and for admins.
    """
    response.headers["cache-control"] = "no-store"
    container = getattr(request.app.state, "container", None)
    if container is None:
        response.status_code = 503
        starting = PartOut(name="service", state=PartState.FAILING, detail="starting or stopping")
        return ReadyOut(status=PartState.FAILING, parts=[starting])
    if container.drain.is_begun:
        response.status_code = 503
        draining = PartOut(name="service", state=PartState.FAILING, detail="draining")
        return ReadyOut(status=PartState.FAILING, parts=[draining])
    parts = await container.readiness.check()
    status = overall(parts)
    response.status_code = 503 if status is PartState.FAILING else 200
    shown = parts if may_see_details(request.scope, access) else ()
    return ReadyOut(
        status=status,
        parts=[PartOut(name=p.name, state=p.state, detail=p.detail) for p in shown],
    )


@router.get(
    "/metrics",
    response_class=Response,
    summary="Metrics for Prometheus",
    responses={
        200: {"content": {METRICS_TYPE: {"schema": {"type": "string"}}}},
        **problems(*ACCESS_ERRORS, NotReady, InternalError, everywhere=False),
    },
)
async def metrics(container: ContainerDep) -> Response:
    """Every metric, in the text format; those that tell of rows and space are read just now."""
    await container.storage.refresh_gauges()
    page = cast("Exposition", container.metrics)
    return Response(page.render(), media_type=METRICS_TYPE)
