"""What the tus methods do, once version, credentials and id have been checked."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp

from app.api.access import TUS_PREFIX, AccessPolicy
from app.api.file_response import FileResponse, StoredFile
from app.api.tus.concatenation import Concat, read_concat, refuse_length
from app.api.tus.exchange import Exchange
from app.api.tus.headers import (
    VERSION,
    body_checksum,
    body_size,
    completion_headers,
    declared_length,
    expires,
    refuse_not_built,
    require_offset_type,
    required_number,
    whole_number,
)
from app.api.tus.metadata import parse_metadata
from app.api.tus.request_body import RequestBody
from app.api.tus.router import TusRouter
from app.domain.checksums import ALGORITHMS, Checksum
from app.domain.errors import AppError, BodyTooLong, InvalidHeader, StorageFailed
from app.domain.ids import new_id
from app.domain.uploads import Upload, UploadKind
from app.services.concatenation import FINALS_AT_ONCE, Concatenation, NewFinal
from app.services.upload_checks import require_right
from app.services.upload_states import NewUpload, refuse_final
from app.services.upload_writing import (
    BodyInterrupted,
    Interruption,
    writing,
    writing_checked,
)
from app.services.uploads import UploadService


@dataclass(frozen=True, slots=True)
class TusOptions:
    """How /files is served. Sizes in bytes; ``public_url`` None: Location is a path."""

    max_upload_bytes: int
    metadata_max_bytes: int
    access: AccessPolicy
    public_url: str | None = None


@dataclass(frozen=True, slots=True)
class TusRequest:
    """A request that may come in."""

    uploads: UploadService
    owner: str
    headers: Headers
    body: RequestBody
    root_path: str


Handler = Callable[[TusRequest, str], Awaitable[ASGIApp]]


class TusHandlers:
    """The handlers of an upload's methods, and of creation and OPTIONS."""

    def __init__(self, options: TusOptions) -> None:
        self._options = options
        self._router = TusRouter(options.max_upload_bytes)
        self._turns = asyncio.Semaphore(FINALS_AT_ONCE)
        self._of: dict[str, Handler] = {
            "HEAD": self.head,
            "GET": self.get,
            "PATCH": self.patch,
            "DELETE": self.delete,
        }

    def of(self, method: str) -> Handler:
        """Return the handler of an upload's method."""
        return self._of[method]

    @property
    def capabilities(self) -> dict[str, str]:
        """What OPTIONS tells, from what is here: each method brings its extensions."""
        extensions = ["creation", "creation-with-upload", "creation-defer-length", "expiration"]
        extensions += ["termination"] if "DELETE" in self._of else []
        extensions += ["checksum", "concatenation"]
        return {
            "Tus-Version": VERSION,
            "Tus-Max-Size": str(self._options.max_upload_bytes),
            "Tus-Extension": ",".join(extensions),
            "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
        }

    def options(self, methods: tuple[str, ...]) -> Response:
        """Answer without credentials and whatever version is asked for."""
        return Response(status_code=204, headers={**self.capabilities, "Allow": ", ".join(methods)})

    # --- creation --------------------------------------------------------------------------------

    async def create(self, request: TusRequest) -> Response:
        """Create an upload, with its first bytes if they came along."""
        headers, uploads = request.headers, request.uploads
        refuse_not_built(headers)
        concat = read_concat(headers)
        if concat.kind is UploadKind.FINAL:
            return await self._create_final(request, concat)
        length = declared_length(headers)
        raw = ",".join(headers.getlist("upload-metadata"))
        metadata = parse_metadata(raw, self._options.metadata_max_bytes)
        size = body_size(headers)
        checksum = body_checksum(headers)
        if size != 0:
            require_offset_type(headers)
        uploads.check_length(length)
        await self._refuse_too_long(request, length, size)
        if checksum is not None and 0 in {size, length}:
            # No byte comes, and the upload may be complete as soon as it exists.
            require_right(checksum.begin(), 0)
        new = NewUpload(request.owner, length, metadata, concat.kind, concat.raw)
        exchange = Exchange(uploads, request.owner, new_id(), new=new)
        await self._router.create(exchange, length)
        answer = {"Location": self._location(request, exchange.upload_id)}
        if size != 0:
            await self._store_first(exchange, request.body, checksum)
            answer["Upload-Offset"] = str(exchange.offset)
        return Response(status_code=201, headers={**answer, **_state_headers(exchange)})

    async def _create_final(self, request: TusRequest, concat: Concat) -> Response:
        """Put parts together; who asks for the same again gets the same answer."""
        headers = request.headers
        refuse_length(headers)
        raw = ",".join(headers.getlist("upload-metadata"))
        metadata = parse_metadata(raw, self._options.metadata_max_bytes)
        size, checksum = body_size(headers), body_checksum(headers)
        if size or (size is None and not await self._is_empty(request)):
            raise InvalidHeader("A final is made of its parts: send no body with it.")
        if checksum is not None:
            require_right(checksum.begin(), 0)
        wish = NewFinal(request.owner, metadata, concat.raw or "", concat.parts)
        completion = await Concatenation(request.uploads, self._turns).make(wish)
        location = {"Location": self._location(request, completion.upload_id)}
        return Response(status_code=201, headers=location | completion_headers(completion))

    async def _refuse_too_long(
        self, request: TusRequest, length: int | None, size: int | None
    ) -> None:
        limit = self._options.max_upload_bytes if length is None else length
        is_too_long = size is not None and size > limit
        if size is None and length == 0:
            # Complete as soon as it exists, so its body is looked at before.
            is_too_long = not await self._is_empty(request)
        if is_too_long:
            msg = f"The body goes past the upload's {limit} bytes; nothing was created."
            raise BodyTooLong(msg, extra={"length": length})

    async def _is_empty(self, request: TusRequest) -> bool:
        seconds = request.uploads.policy.read_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                while (piece := await request.body.read()) is not None:
                    if piece:
                        return False
        except TimeoutError as error:
            raise BodyInterrupted(Interruption.STALLED) from error
        return True

    async def _store_first(
        self, exchange: Exchange, body: RequestBody, checksum: Checksum | None
    ) -> None:
        """Store the body of a creation. When it is refused or breaks off, so does the creation: the
        client has no address at which to go on, and its next try promises the same space again.
        """
        if exchange.upload is None:
            raise StorageFailed
        if exchange.completion is not None:
            return
        async with AsyncExitStack() as holding:
            try:
                # Nobody else knows its id: that it cannot be held is the disk's doing.
                upload = writing(exchange.uploads, exchange.upload)
                held = await holding.enter_async_context(upload)
                await held.store(body.read, checksum)
            except (AppError, BodyInterrupted) as error:
                if isinstance(error, AppError):
                    error.extra.pop("offset", None)
                with suppress(AppError):  # else it goes when it expires
                    await exchange.uploads.withdraw_held(exchange.owner, exchange.upload_id)
                raise
            exchange.held = held
            await self._router.note_patch(exchange)

    def _location(self, request: TusRequest, upload_id: str) -> str:
        """Return a path, which clients resolve: no forwarded header can poison it."""
        root, public = request.root_path.rstrip("/"), self._options.public_url
        if public is not None:
            base = public.rstrip("/")
            root = base if urlsplit(base).path else f"{base}{root}"
        return f"{root}{TUS_PREFIX}/{upload_id}"

    # --- an upload -------------------------------------------------------------------------------

    async def patch(self, request: TusRequest, upload_id: str) -> Response:
        """Store a body behind what is there; the response that finishes an upload says so."""
        uploads, owner = request.uploads, request.owner
        wish = PatchWish(request.headers)
        exchange = Exchange(uploads, owner, upload_id)
        async with writing_checked(uploads, owner, upload_id, wish.check) as held:
            held.require_offset(wish.offset)
            if wish.checksum is not None and wish.size == 0:
                require_right(wish.checksum.begin(), wish.offset)
            await held.prepare(wish.declared, wish.size)
            if wish.size != 0 or not held.is_whole or _is_untold_part(held.upload):
                await held.store(request.body.read, wish.checksum)
            exchange.held = held
            await self._router.note_patch(exchange)
        answer = {"Upload-Offset": str(exchange.offset), "Cache-Control": "no-store"}
        return Response(status_code=204, headers={**answer, **_state_headers(exchange)})

    async def delete(self, request: TusRequest, upload_id: str) -> Response:
        """Terminate: the writer stops, the bytes go, the address is forgotten."""
        async with request.uploads.terminating(request.owner, upload_id) as upload:
            exchange = Exchange(request.uploads, request.owner, upload_id, upload=upload)
            await self._router.terminate(exchange)
        return Response(status_code=204)

    async def head(self, request: TusRequest, upload_id: str) -> Response:
        """Say how much is there."""
        state = await request.uploads.head(request.owner, upload_id)
        headers = {"Cache-Control": "no-store"}
        if state.offset is not None:
            headers["Upload-Offset"] = str(state.offset)
        if state.concat is not None:
            headers["Upload-Concat"] = state.concat
        if state.length is None:
            headers["Upload-Defer-Length"] = "1"
        else:
            headers["Upload-Length"] = str(state.length)
        if state.metadata:
            headers["Upload-Metadata"] = state.metadata
        if state.expires_at is not None:
            headers["Upload-Expires"] = expires(state.expires_at)
        if state.completion is not None:
            headers |= completion_headers(state.completion)
        return Response(status_code=200, headers=headers)

    async def get(self, request: TusRequest, upload_id: str) -> ASGIApp:
        """Hand out a complete upload as an attachment."""
        found = await request.uploads.open_download(request.owner, upload_id)
        upload = found.upload
        file = StoredFile(
            path=found.path,
            filename=upload.filename,
            media_type=upload.media_type,
            modified_at=found.modified_at,
            sha256=upload.sha256,
            etag_seed=upload.id,
            size_bytes=upload.length,
        )
        return FileResponse(file, missing=StorageFailed("The upload's file is not there."))


class PatchWish:
    """What the headers of a PATCH say; known once ``check`` has found nothing against them."""

    def __init__(self, headers: Headers) -> None:
        self._headers = headers
        self.offset = 0
        self.declared: int | None = None
        self.size: int | None = None
        self.checksum: Checksum | None = None

    def check(self, upload: Upload) -> None:
        """Raise what speaks against such a PATCH to ``upload``; a repeat is harmless."""
        headers = self._headers
        refuse_final(upload)
        refuse_not_built(headers)
        require_offset_type(headers)
        self.offset = required_number(headers, "Upload-Offset")
        self.declared = whole_number(headers, "Upload-Length")
        self.size = body_size(headers)
        self.checksum = body_checksum(headers)


def _is_untold_part(upload: Upload) -> bool:
    """Whether the end of a whole part is still to be synced and told to its row: its length may come
    after its last byte, and no completion does it for a part.
    """
    return upload.kind is UploadKind.PARTIAL and upload.synced_offset != upload.length


def _state_headers(exchange: Exchange) -> dict[str, str]:
    if exchange.completion is not None:
        return completion_headers(exchange.completion)
    row = exchange.row
    return {"Upload-Expires": expires(row.expires_at)} if row else {}
