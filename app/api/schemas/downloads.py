"""How a download is described in the OpenAPI: its headers, the whole file, a part, nothing new."""

from typing import Any

from app.api.schemas.base import EXAMPLE_SHA256

_BYTES = {"schema": {"type": "string", "format": "binary"}}


def _header(description: str, example: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}, "example": example}


_VALIDATORS = {
    "ETag": _header("Strong; of an output the SHA-256 of its bytes.", f'"{EXAMPLE_SHA256}"'),
    "Last-Modified": _header("When the file was made.", "Sat, 21 Nov 2026 22:59:11 GMT"),
    "Cache-Control": _header("Ask again each time: it may be gone.", "private, no-cache"),
}
_HEADERS = {
    **_VALIDATORS,
    "Accept-Ranges": _header("Parts may be asked for.", "bytes"),
    "Content-Disposition": _header(
        "The name to save it under.", 'attachment; filename="clip-trim.mp4"'
    ),
    "Repr-Digest": _header(
        "SHA-256 of the whole file (RFC 9530), once it is known.",
        "sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:",
    ),
}

Responses = dict[int | str, dict[str, Any]]

DOWNLOAD: Responses = {
    200: {
        "description": "The whole file.",
        "content": {"video/mp4": _BYTES, "application/zip": _BYTES},
        "headers": _HEADERS,
    },
    206: {
        "description": "The one range that was asked for. Several ranges answer 200.",
        "content": {"video/mp4": _BYTES, "application/zip": _BYTES},
        "headers": {
            **_HEADERS,
            "Content-Range": _header("Which part of how much.", "bytes 0-1023/73400320"),
        },
    },
    304: {"description": "The client has it already.", "headers": _VALIDATORS},
}

DOWNLOAD_UPLOAD: Responses = {
    status: {**response, "content": {"*/*": _BYTES}} if "content" in response else response
    for status, response in DOWNLOAD.items()
}
"""Of an upload: its type is the one that its client named."""

DOWNLOAD_HEAD: Responses = {
    200: {"description": "The headers of the whole file.", "headers": _HEADERS},
    304: DOWNLOAD[304],
}


def made(status: int, description: str, where: str) -> Responses:
    """Return the response of a call that makes something and says where it is."""
    headers = {"Location": _header("Where to look at it.", where)}
    return {status: {"description": description, "headers": headers}}
