"""How a request finds its route, and what is called without FastAPI's machinery."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.routing import Match, NoMatchFound

from app.api.access import AccessPolicy
from app.api.direct_route import DirectRoute, direct_call
from app.api.route_index import RouteIndex
from app.api.router import install_api
from app.api.schemas.base import OutputId
from app.domain.errors import OutputNotFound

ID = "e4f5a6b7c8d94eafb0c1d2e3f4a5b6c7"


class Told(BaseModel):
    """What the handlers of these tests answer."""

    said: str


async def get_word(request: Request) -> str:
    return str(request.headers["x-word"])


Word = Annotated[str, Depends(get_word)]


async def twice(word: Word) -> str:
    return word * 2


def scope_of(method: str, path: str) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "headers": []}


@pytest.fixture(scope="module")
def api() -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    install_api(app, AccessPolicy())
    return app


def test_the_index_finds_what_trying_one_route_after_the_other_would_find(api: FastAPI) -> None:
    routes = api.router.routes
    index, plain = routes[0], routes[1:]
    assert isinstance(index, RouteIndex)
    asked = 0
    for route in plain:
        if not isinstance(route, APIRoute):
            continue
        path = route.path.replace("{name}", "gc_files")
        for name in route.param_convertors:
            path = path.replace(f"{{{name}}}", ID)
        for method in ("GET", "HEAD", "POST", "PATCH", "DELETE", "PUT"):
            scope = scope_of(method, path)
            tried = [(match, child) for match, child in (each.matches(scope) for each in plain)]
            full = [child["route"] for match, child in tried if match is Match.FULL]
            match, child = index.matches(scope)
            assert (match is Match.FULL) == bool(full), (method, path)
            if full:
                assert child["route"] is full[0], (method, path)
            asked += 1
    assert asked > 100


@pytest.mark.parametrize("path", ["/", "//", "/api/v1/jobs/", "/api/v1/nothing", "/livez/x", ""])
def test_what_no_route_takes_goes_past_the_index(api: FastAPI, path: str) -> None:
    index = api.router.routes[0]
    match, _ = index.matches(scope_of("GET", path))
    assert (match is Match.NONE) == (path != "/")


def test_the_index_takes_no_other_protocol_and_no_names(api: FastAPI) -> None:
    index = api.router.routes[0]
    assert index.matches({"type": "websocket", "path": "/livez"})[0] is Match.NONE
    with pytest.raises(NoMatchFound):
        index.url_path_for("livez")


async def test_a_handler_gets_its_request_ids_and_dependencies() -> None:
    async def handler(
        request: Request, output_id: OutputId, said: Annotated[str, Depends(twice)]
    ) -> Told:
        return Told(said=f"{request.method} {output_id} {said}")

    call = direct_call(handler)
    assert call is not None
    scope = scope_of("GET", "/") | {
        "path_params": {"output_id": ID},
        "headers": [(b"x-word", b"ab")],
    }
    assert await call(Request(scope)) == Told(said=f"GET {ID} abab")
    with pytest.raises(OutputNotFound):
        await call(Request({**scope, "path_params": {"output_id": "no-id"}}))


def test_whatever_only_fastapi_can_fill_in_is_left_to_it() -> None:
    async def queried(limit: int = 5) -> Told:
        raise NotImplementedError

    async def headed(word: Annotated[str, Header()]) -> Told:
        raise NotImplementedError

    async def bodied(body: Told) -> Told:
        raise NotImplementedError

    async def listed() -> list[Told]:
        raise NotImplementedError

    async def answering(response: Response) -> Told:
        raise NotImplementedError

    async def below(word: Annotated[str, Depends(headed)]) -> Told:
        raise NotImplementedError

    def blocking() -> Told:
        raise NotImplementedError

    for handler in (queried, headed, bodied, listed, answering, below, blocking):
        assert direct_call(handler) is None, handler.__name__


async def test_a_called_handler_answers_as_fastapi_would() -> None:
    async def made() -> Told:
        return Told(said="é")

    app = FastAPI()
    for path, route_class in (("/direct", DirectRoute), ("/usual", APIRoute)):
        app.router.routes.append(
            route_class(path, made, methods=["GET"], status_code=202, response_model=Told)
        )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        direct, usual = await http.get("/direct"), await http.get("/usual")
        assert (await http.post("/direct")).status_code == 405
    assert (direct.status_code, direct.content) == (usual.status_code, usual.content)
    assert direct.headers == usual.headers


class Knowing(Told):
    """What a handler may hand out by mistake."""

    key: str = "secret"


async def tell() -> Told:
    return Knowing(said="x")


async def refuse() -> None:
    raise HTTPException(403)


@pytest.mark.parametrize(
    "options",
    [{}, {"dependencies": [Depends(refuse)]}, {"response_model_exclude": {"said"}}],
    ids=["a subclass", "dependencies of the route", "fields left out"],
)
async def test_what_a_route_says_beside_its_handler_is_heeded(options: dict[str, Any]) -> None:
    app = FastAPI()
    for path, kind in (("/direct", DirectRoute), ("/usual", APIRoute)):
        app.router.routes.append(kind(path, tell, methods=["GET"], response_model=Told, **options))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        direct, usual = await client.get("/direct"), await client.get("/usual")
    assert (direct.status_code, direct.content) == (usual.status_code, usual.content)
