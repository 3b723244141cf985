"""The router is tuspyserver's own, asked as FastAPI would ask it, and only about what we checked."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import cast

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from tuspyserver.storage import TusStorage

from app.api.tus.exchange import Exchange, current
from app.api.tus.router import KNOWN, TusRouter, endpoint_of
from app.api.tus.storage import RowStorage
from app.domain.errors import InternalError
from app.domain.ids import new_id
from app.domain.uploads import Upload, UploadMetadata, UploadStatus
from app.services.completion import Completion
from app.services.upload_states import NewUpload
from app.services.upload_writing import Writing
from app.services.uploads import UploadService

NOW = datetime(2026, 7, 1, tzinfo=UTC)
HEADERS = {"Tus-Resumable": "1.0.0"}
OCTETS = {"Content-Type": "application/offset+octet-stream"}


@dataclass
class Asked:
    """Stands for the uploads, and writes down what the router wants of them."""

    seen: list[str] = field(default_factory=list)

    @property
    def completion(self) -> "Asked":
        return self

    async def create(self, upload_id: str, new: NewUpload) -> Upload:
        self.seen.append(f"create {new.length}")
        return row_of(upload_id, new.length)

    async def complete(self, upload_id: str) -> Completion:
        self.seen.append("complete")
        return Completion(upload_id, None, ())

    async def remove_held(self, owner: str, upload_id: str) -> None:
        assert (owner, len(upload_id)) == ("me", 32)
        self.seen.append("remove")


@dataclass
class Held:
    """Stands for the upload that a PATCH holds."""

    asked: Asked
    upload: Upload
    offset: int

    async def complete(self) -> Completion:
        return await self.asked.complete(self.upload.id)


def row_of(upload_id: str, length: int | None) -> Upload:
    return Upload(
        id=upload_id,
        owner="me",
        session_id=None,
        batch_id=None,
        status=UploadStatus.RECEIVING,
        length=length,
        recorded_offset=0,
        synced_offset=0,
        boot_id="",
        metadata=UploadMetadata(),
        media=None,
        sha256=None,
        created_at=NOW,
        active_at=NOW,
        completed_at=None,
        expires_at=NOW + timedelta(days=1),
        spent_at=None,
    )


def exchange_with(asked: Asked) -> Exchange:
    return Exchange(cast("UploadService", asked), "me", new_id())


async def by_fastapi(
    router: TusRouter, exchange: Exchange, method: str, path: str, **headers: str
) -> int:
    """Ask the router as an application that has it mounted would."""
    app = FastAPI()
    app.include_router(router.router)
    given = HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        token = current.set(exchange)
        try:
            return (await client.request(method, path, headers=given)).status_code
        finally:
            current.reset(token)


def test_the_router_is_the_version_that_was_studied() -> None:
    assert version("tuspyserver") == "4.4.3"


def test_the_storage_is_whole() -> None:
    assert isinstance(RowStorage(), TusStorage)


# --- asked directly, and as FastAPI asks ---------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "seen"),
    [(5, ["create 5"]), (None, ["create None"]), (0, ["create 0", "complete"])],
)
async def test_a_creation_is_the_same_both_ways(length: int | None, seen: list[str]) -> None:
    router, direct, mounted = TusRouter(1000), Asked(), Asked()
    new = NewUpload("me", length, UploadMetadata())
    ours = replace(exchange_with(direct), new=new)
    await router.create(ours, length)
    theirs = replace(exchange_with(mounted), new=new)
    told = {"Upload_Defer_Length": "1"} if length is None else {"Upload_Length": str(length)}
    assert await by_fastapi(router, theirs, "POST", "/files/", **told) == 201
    assert direct.seen == mounted.seen == seen
    assert ours.completion is not None or length != 0
    assert (ours.completion is None) == (theirs.completion is None)


@pytest.mark.parametrize(("offset", "length"), [(5, 5), (3, 5), (3, None)])
async def test_a_patch_is_the_same_both_ways(offset: int, length: int | None) -> None:
    router, direct, mounted = TusRouter(1000), Asked(), Asked()
    ours, theirs = exchange_with(direct), exchange_with(mounted)
    for exchange, asked in ((ours, direct), (theirs, mounted)):
        held = Held(asked, row_of(exchange.upload_id, length), offset)
        exchange.held = cast("Writing", held)
    await router.note_patch(ours)
    told = OCTETS | {"Upload_Offset": str(offset), "Content_Length": "0"}
    path = f"/files/{theirs.upload_id}"
    assert await by_fastapi(router, theirs, "PATCH", path, **told) == 204
    assert direct.seen == mounted.seen == (["complete"] if offset == length else [])


async def test_a_termination_is_the_same_both_ways() -> None:
    router, direct, mounted = TusRouter(1000), Asked(), Asked()
    ours, theirs = exchange_with(direct), exchange_with(mounted)
    for exchange in (ours, theirs):
        exchange.upload = row_of(exchange.upload_id, 5)
    await router.terminate(ours)
    assert await by_fastapi(router, theirs, "DELETE", f"/files/{theirs.upload_id}") == 204
    assert direct.seen == mounted.seen == ["remove"]
    assert ours.upload is None is theirs.upload


async def test_what_the_router_refuses_is_our_own_fault() -> None:
    asked = Asked()
    with pytest.raises(InternalError):
        await TusRouter(1000).terminate(exchange_with(asked))  # there is no row
    assert asked.seen == []


# --- and by nobody else --------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), KNOWN)
async def test_a_request_that_did_not_come_through_our_app_is_refused(
    method: str, path: str
) -> None:
    app = FastAPI()
    app.include_router(TusRouter(1000).router)
    headers = HEADERS | OCTETS | {"Upload-Length": "5", "Upload-Offset": "0"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        with pytest.raises(InternalError):
            await client.request(method, path.replace("{uuid}", new_id()), headers=headers)


async def test_a_request_is_about_its_own_upload_only() -> None:
    asked = Asked()
    exchange = exchange_with(asked)
    exchange.upload = row_of(exchange.upload_id, 5)
    with pytest.raises(InternalError):
        await by_fastapi(TusRouter(1000), exchange, "DELETE", f"/files/{new_id()}")
    assert asked.seen == []


def test_endpoints_that_are_not_as_we_know_them_are_refused_at_the_start() -> None:
    async def patch(uuid: str) -> None:
        raise AssertionError(uuid)

    other = APIRouter()
    other.add_api_route("/files/{uuid}", patch, methods=["PATCH"])
    with pytest.raises(RuntimeError, match="takes"):
        endpoint_of(other, "PATCH", "/files/{uuid}")
    with pytest.raises(RuntimeError, match="has no DELETE"):
        endpoint_of(other, "DELETE", "/files/{uuid}")
