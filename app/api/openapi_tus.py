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
    ConflictingUpdate,
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
    PreconditionFailed,
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

_ANY: tuple[type[AppError], ...] = (*ACCESS_ERRORS, MethodNotAllowed)
_VERSIONED: tuple[type[AppError], ...] = (*_ANY, TusVersionUnsupported)
_FAILING: tuple[type[AppError], ...] = (DatabaseBusy, NotReady, StorageFailed, InternalError)
"""What any call but HEAD may answer: HEAD says 423 then, at which clients keep their progress."""
_WRITING: tuple[type[AppError], ...] = (
    *_VERSIONED,
    *_FAILING,
    BodyTooLong,
    ChecksumAlgorithmUnsupported,
    ChecksumMismatch,
    InvalidHeader,
    NoSpace,
    NotSupported,
    TemporarilyUnavailable,
    UnsupportedMediaType,
    UploadGone,
    UploadLocked,
    UploadTooLarge,
)


_BYTES: dict[str, Any] = {"pattern": "^[0-9]{1,19}$"}
_ETAG = f'"{EXAMPLE_UPLOAD}"'


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


def _override(method: str) -> dict[str, Any]:
    text = f"For clients that can only POST: a POST with this header is a {method}."
    return _header("X-HTTP-Method-Override", text, method, enum=[method])


def _returned(**headers: str) -> dict[str, Any]:
    return {
        name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
        for name, text in headers.items()
    }


_OF_EVERY_ANSWER = _returned(Tus_Resumable="The version of this answer, 1.0.0.")
_WAIT = _returned(Retry_After="Seconds after which to ask again.")
_OF_REFUSALS = {
    "401": _returned(WWW_Authenticate="How to show the key: Bearer."),
    "405": _returned(Allow="The methods that are possible here."),
    "412": _returned(Tus_Version="All versions that are spoken."),
    "416": _returned(Content_Range="How many bytes there are.", Accept_Ranges="bytes"),
    "423": _WAIT,
    "503": _WAIT,
}


_VERSION = _header(
    "Tus-Resumable", "The protocol's version.", "1.0.0", required=True, enum=["1.0.0"]
)
_OFFSET = _header(
    "Upload-Offset", "Where this body begins: what HEAD said.", "0", required=True, **_BYTES
)
_LENGTH = _header(
    "Upload-Length", "Bytes in all; or send Upload-Defer-Length.", "73400320", **_BYTES
)
_LATE_LENGTH = _header(
    "Upload-Length", "Bytes in all, once, of an upload whose length was deferred.", "4096", **_BYTES
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
_CONDITIONS = [
    _header(
        "Range", "One part of the bytes; several are answered with all of them.", "bytes=0-1023"
    ),
    _header("If-Range", "Range only while this is the ETag or the time of the file.", _ETAG),
    _header("If-None-Match", "304 while this is the ETag.", _ETAG),
    _header(
        "If-Modified-Since", "304 while it was not made later.", "Sat, 21 Nov 2026 22:59:11 GMT"
    ),
    _header("If-Match", "412 unless this is the ETag.", _ETAG),
    _header("If-Unmodified-Since", "412 if it was made later.", "Sat, 21 Nov 2026 22:59:11 GMT"),
]
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
    found = {str(status): each for status, each in responses.items()}
    for status, refusal in problems(*errors, everywhere=False).items():
        is_of_condition = status in {412, "412"} and PreconditionFailed in errors
        told = {} if is_of_condition else _OF_REFUSALS.get(str(status), {})
        found[str(status)] = {**refusal, "headers": told}
    return {
        "tags": ["tus"],
        "operationId": name,
        "summary": summary,
        "description": description,
        "parameters": parameters,
        "responses": {
            status: {**each, "headers": {**_OF_EVERY_ANSWER, **each.get("headers", {})}}
            for status, each in found.items()
        },
    }


def _with_offsets(call: dict[str, Any], *statuses: str) -> dict[str, Any]:
    """Return a call whose refusals with these statuses may tell how far the upload is."""
    responses = dict(call["responses"])
    offset = _returned(Upload_Offset="Bytes that are stored, where the refusal is about them.")
    for status in statuses:
        response = responses[status]
        responses[status] = {**response, "headers": {**response["headers"], **offset}}
    return {**call, "responses": responses}


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
            Allow="The methods that are possible here.",
            Tus_Version="All versions that are spoken.",
            Tus_Extension="The extensions that work.",
            Tus_Max_Size="The largest upload in bytes.",
            Tus_Checksum_Algorithm="What Upload-Checksum may name.",
        ),
    }
}


def _options(name: str, description: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    errors = (OriginNotAllowed, HostNotAllowed, InternalError)
    call = _call(name, "What tus can do here", description, parameters, _OPTIONS_RESPONSES, *errors)
    return {**call, "security": []}


TUS_PATHS: dict[str, Any] = {
    "/files/": {
        "options": _options("tus_options", "Versions, extensions and the largest size.", []),
        "post": _with_body(
            _with_offsets(
                _call(
                    "tus_create",
                    "Create an upload",
                    "Makes an upload and says where it is. Name a session in Upload-Metadata to put"
                    " it there; without one it gets a session of its own and becomes a batch by"
                    " itself. The first bytes may come along in the body; when that is refused or"
                    " breaks off, nothing was created. A final may be asked for again: the same parts"
                    " in the same order, by the same owner, are answered with the same 201, Location"
                    " and headers, also while the first is still being made (it waits, or says 423)"
                    " and after its parts are gone.",
                    [_VERSION, _LENGTH, _DEFER, _METADATA, _CHECKSUM, _CONCAT],
                    {
                        201: {
                            "description": "Created, or the final that was made of these parts.",
                            "headers": _returned(
                                Location="Where to PATCH and HEAD.",
                                Upload_Offset="Bytes stored, when the body had some.",
                                Upload_Expires="When it goes if nothing more arrives; until complete.",
                                **_FINISHED,
                            ),
                        }
                    },
                    *_WRITING,
                    InvalidMetadata,
                    InvalidParts,
                    SessionNotFound,
                    SessionGone,
                    SessionClosed,
                ),
                "460",
            ),
            "Optional: the first bytes. A final has none.",
            required=False,
        ),
    },
    "/files/{id}": {
        "options": _options("tus_options_of_upload", "The same as on /files/.", [_ID]),
        "head": _without_bodies(
            _call(
                "tus_head",
                "Ask how far an upload is",
                "Never waits for a writer. A completed upload tells its batch and jobs, also for a while"
                " after its bytes were removed by retention; a part that went into its final answers"
                " for as long as that does. Whatever passes by itself is a 423: clients begin again at"
                " the first byte on any other refusal.",
                [_ID, _VERSION, _override("HEAD")],
                {
                    200: {
                        "description": "How far it is.",
                        "headers": _returned(
                            Upload_Offset="Bytes that are stored; not while a final is being made.",
                            Upload_Length="Bytes in all, once known.",
                            Upload_Defer_Length="1 while the length is not known.",
                            Upload_Concat="Of parts and finals, as it was sent.",
                            Upload_Metadata="As it was sent, byte for byte.",
                            Upload_Expires="On unfinished uploads.",
                            Cache_Control="no-store",
                            **_FINISHED,
                        ),
                    }
                },
                *_VERSIONED,
                TemporarilyUnavailable,
                UploadNotFound,
                UploadGone,
            )
        ),
        "patch": _with_body(
            _with_offsets(
                _call(
                    "tus_patch",
                    "Send bytes",
                    "Stores the body at Upload-Offset, which must be where the upload ends. A refused"
                    " PATCH has written nothing; one that breaks off keeps what came, unless it has"
                    " an Upload-Checksum. The newest of two writers wins, the other gets 423. A body"
                    " that stalls is cut off without an answer.",
                    [_ID, _VERSION, _OFFSET, _LATE_LENGTH, _CHECKSUM, _override("PATCH")],
                    {
                        204: {
                            "description": "Stored.",
                            "headers": _returned(
                                Upload_Offset="Bytes that are stored now.",
                                Upload_Expires="On unfinished uploads.",
                                Cache_Control="no-store",
                                **_FINISHED,
                            ),
                        }
                    },
                    *_WRITING,
                    ConflictingUpdate,
                    OffsetMismatch,
                    UploadIsFinal,
                    UploadNotFound,
                ),
                *("400", "409", "413", "460", "500", "507"),
            ),
            "The bytes from Upload-Offset on.",
            required=True,
        ),
        "delete": _call(
            "tus_delete",
            "Terminate an upload",
            "Stops its writer and removes it. Afterwards its address answers 404, and"
            " `GET /api/v1/uploads/{id}` 410.",
            [_ID, _VERSION, _override("DELETE")],
            {204: {"description": "Gone."}},
            *_VERSIONED,
            *_FAILING,
            NoSpace,
            UploadNotFound,
            UploadGone,
            UploadInBatch,
            UploadLocked,
        ),
        "get": _with_offsets(
            _call(
                "tus_get",
                "Download an upload",
                "The bytes of a complete upload that is kept, as an attachment, with Range. Needs no"
                " Tus-Resumable.",
                [_ID, *_CONDITIONS],
                DOWNLOAD_UPLOAD,
                *_ANY,
                *_FAILING,
                UploadNotFound,
                UploadGone,
                UploadIncomplete,
                PreconditionFailed,
                RangeNotSatisfiable,
            ),
            "409",
        ),
    },
}
