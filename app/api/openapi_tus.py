"""The tus calls below /files as OpenAPI operations, by hand: another app answers them."""

from typing import Any

from app.api.schemas.base import EXAMPLE_BATCH, EXAMPLE_JOB, EXAMPLE_UPLOAD
from app.api.schemas.downloads import DOWNLOAD_UPLOAD
from app.api.schemas.problems import ACCESS_ERRORS, problems
from app.domain.errors import (
    AppError,
    BodyTooLong,
    ChecksumAlgorithmUnsupported,
    ChecksumMismatch,
    DatabaseBusy,
    HostNotAllowed,
    InternalError,
    InvalidHeader,
    InvalidMetadata,
    InvalidParts,
    MethodNotAllowed,
    NoSpace,
    NotReady,
    NotSupported,
    OffsetMismatch,
    OriginNotAllowed,
    RangeNotSatisfiable,
    SessionClosed,
    SessionGone,
    SessionNotFound,
    StorageFailed,
    TemporarilyUnavailable,
    TusVersionUnsupported,
    UnsupportedMediaType,
    UploadGone,
    UploadInBatch,
    UploadIncomplete,
    UploadIsFinal,
    UploadLocked,
    UploadNotFound,
    UploadTooLarge,
)

_BASIC: tuple[type[AppError], ...] = (
    *ACCESS_ERRORS,
    InvalidHeader,
    MethodNotAllowed,
    TusVersionUnsupported,
    TemporarilyUnavailable,
    InternalError,
)
_UNAVAILABLE: tuple[type[AppError], ...] = (DatabaseBusy, NotReady)
"""What any call but HEAD may answer: HEAD says 423 then, at which clients keep their progress."""
_WRITING: tuple[type[AppError], ...] = (
    *_UNAVAILABLE,
    BodyTooLong,
    ChecksumAlgorithmUnsupported,
    ChecksumMismatch,
    NoSpace,
    NotSupported,
    OffsetMismatch,
    StorageFailed,
    UnsupportedMediaType,
    UploadLocked,
)


_BYTES: dict[str, Any] = {"pattern": "^[0-9]{1,19}$"}


def _header(
    name: str, description: str, example: str, *, required: bool = False, **schema: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": description,
        "schema": {"type": "string", **schema},
        "example": example,
    }


def _returned(**headers: str) -> dict[str, Any]:
    return {
        name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
        for name, text in headers.items()
    }


_VERSION = _header(
    "Tus-Resumable", "The protocol's version.", "1.0.0", required=True, enum=["1.0.0"]
)
_OFFSET = _header(
    "Upload-Offset", "Where this body begins: what HEAD said.", "0", required=True, **_BYTES
)
_OVERRIDE = _header(
    "X-HTTP-Method-Override",
    "For clients that can only POST.",
    "PATCH",
    enum=["PATCH", "DELETE"],
)
_LENGTH = _header(
    "Upload-Length", "Bytes in all; or send Upload-Defer-Length.", "73400320", **_BYTES
)
_DEFER = _header("Upload-Defer-Length", "The length follows with a PATCH.", "1", enum=["1"])
_METADATA = _header(
    "Upload-Metadata",
    "`key base64` pairs by commas. Known: filename, filetype, session, order; others are kept.",
    "filename Y2xpcC5tcDQ=,filetype dmlkZW8vbXA0",
)
_CHECKSUM = _header(
    "Upload-Checksum",
    "An algorithm of Tus-Checksum-Algorithm and the digest of this body in Base64. A body that comes"
    " to another is refused with 460, and nothing of it is kept.",
    "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
)
_CONCAT = _header(
    "Upload-Concat",
    "`partial` makes a part of a file, which completes nothing. `final;` and the addresses of whole"
    " parts, by spaces, make the file of them; it has no length and no body of its own.",
    "partial",
)
_FINISHED = {
    "Tidemill_Upload": f"The upload's id, such as {EXAMPLE_UPLOAD}.",
    "Tidemill_Batch": f"Once it has one, the upload's batch, such as {EXAMPLE_BATCH}.",
    "Tidemill_Job": f"The jobs that `then` started, by commas, such as {EXAMPLE_JOB}.",
}
_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "The upload's id.",
    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "example": EXAMPLE_UPLOAD,
}


def _call(
    name: str,
    summary: str,
    description: str,
    parameters: list[dict[str, Any]],
    responses: dict[int | str, dict[str, Any]],
    *errors: type[AppError],
) -> dict[str, Any]:
    found = {**responses, **problems(*errors, everywhere=False)}
    return {
        "tags": ["tus"],
        "operationId": name,
        "summary": summary,
        "description": description,
        "parameters": parameters,
        "responses": {str(status): response for status, response in found.items()},
    }


def _with_body(call: dict[str, Any], description: str, *, required: bool) -> dict[str, Any]:
    content = {
        "application/offset+octet-stream": {"schema": {"type": "string", "format": "binary"}}
    }
    body = {"description": description, "required": required, "content": content}
    return {**call, "requestBody": body}


def _without_bodies(call: dict[str, Any]) -> dict[str, Any]:
    """Return a HEAD call, whose refusals have a status and headers only."""
    told = {
        status: {name: part for name, part in response.items() if name != "content"}
        for status, response in call["responses"].items()
    }
    return {**call, "responses": told}


_OPTIONS_RESPONSES: dict[int | str, dict[str, Any]] = {
    204: {
        "description": "What is supported; no credentials and no version are needed to ask.",
        "headers": _returned(
            Tus_Resumable="The version of this answer.",
            Tus_Version="All versions that are spoken.",
            Tus_Extension="The extensions that work.",
            Tus_Max_Size="The largest upload in bytes.",
            Tus_Checksum_Algorithm="What Upload-Checksum may name.",
        ),
    }
}

TUS_PATHS: dict[str, Any] = {
    "/files/": {
        "options": _call(
            "tus_options",
            "What tus can do here",
            "Versions, extensions and the largest size.",
            [],
            _OPTIONS_RESPONSES,
            OriginNotAllowed,
            HostNotAllowed,
            InternalError,
        ),
        "post": _with_body(
            _call(
                "tus_create",
                "Create an upload",
                "Makes an upload and says where it is. Name a session in Upload-Metadata to put it"
                " there; without one it gets a session of its own and becomes a batch by itself. The"
                " first bytes may come along in the body.",
                [_VERSION, _LENGTH, _DEFER, _METADATA, _CHECKSUM, _CONCAT, _OVERRIDE],
                {
                    201: {
                        "description": "Created.",
                        "headers": _returned(
                            Location="Where to PATCH and HEAD.",
                            Upload_Offset="Bytes stored, when the body had some.",
                            Upload_Expires="When it goes if nothing more arrives.",
                            **_FINISHED,
                        ),
                    }
                },
                *_BASIC,
                *_WRITING,
                InvalidMetadata,
                InvalidParts,
                UploadTooLarge,
                SessionNotFound,
                SessionGone,
                SessionClosed,
            ),
            "Optional: the first bytes.",
            required=False,
        ),
    },
    "/files/{id}": {
        "options": _call(
            "tus_options_of_upload",
            "What tus can do here",
            "The same as on /files/.",
            [_ID],
            _OPTIONS_RESPONSES,
            OriginNotAllowed,
            HostNotAllowed,
            InternalError,
        ),
        "head": _without_bodies(
            _call(
                "tus_head",
                "Ask how far an upload is",
                "Never waits for a writer. A completed upload tells its batch and jobs, also for a while"
                " after its bytes were removed by retention.",
                [_ID, _VERSION],
                {
                    200: {
                        "description": "How far it is.",
                        "headers": _returned(
                            Upload_Offset="Bytes that are stored; not while a final is being made.",
                            Upload_Length="Bytes in all, once known.",
                            Upload_Concat="Of parts and finals, as it was sent.",
                            Upload_Metadata="As it was sent, byte for byte.",
                            Upload_Expires="On unfinished uploads.",
                            **_FINISHED,
                        ),
                    }
                },
                *_BASIC,
                UploadNotFound,
                UploadGone,
            )
        ),
        "patch": _with_body(
            _call(
                "tus_patch",
                "Send bytes",
                "Stores the body at Upload-Offset, which must be where the upload ends. A refused"
                " PATCH has written nothing. The newest of two writers wins.",
                [_ID, _VERSION, _OFFSET, _LENGTH, _CHECKSUM],
                {
                    204: {
                        "description": "Stored.",
                        "headers": _returned(
                            Upload_Offset="Bytes that are stored now.",
                            Upload_Expires="On unfinished uploads.",
                            **_FINISHED,
                        ),
                    }
                },
                *_BASIC,
                *_WRITING,
                UploadNotFound,
                UploadGone,
                UploadIsFinal,
                UploadTooLarge,
            ),
            "The bytes from Upload-Offset on.",
            required=True,
        ),
        "delete": _call(
            "tus_delete",
            "Terminate an upload",
            "Stops its writer and removes it. Afterwards its address answers 404, and"
            " `GET /api/v1/uploads/{id}` 410.",
            [_ID, _VERSION],
            {204: {"description": "Gone."}},
            *_BASIC,
            *_UNAVAILABLE,
            UploadNotFound,
            UploadGone,
            UploadInBatch,
            UploadLocked,
        ),
        "get": _call(
            "tus_get",
            "Download an upload",
            "The bytes of a complete upload that is kept, as an attachment, with Range.",
            [_ID],
            DOWNLOAD_UPLOAD,
            *ACCESS_ERRORS,
            *_UNAVAILABLE,
            UploadNotFound,
            UploadGone,
            UploadIncomplete,
            RangeNotSatisfiable,
            StorageFailed,
            InternalError,
        ),
    },
}
