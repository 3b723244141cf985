"""The headers of tus: their names, and reading them strictly."""

import base64
import binascii
import re
from datetime import datetime
from email.utils import format_datetime

from starlette.datastructures import Headers

from app.domain.checksums import ALGORITHMS, Checksum, digest_bytes
from app.domain.errors import (
    ChecksumAlgorithmUnsupported,
    InvalidHeader,
    NotSupported,
    UnsupportedMediaType,
)
from app.services.completion import Completion

VERSION = "1.0.0"
OFFSET_TYPE = "application/offset+octet-stream"

EXPOSED_HEADERS = (
    "Location",
    "Tidemill-Batch",
    "Tidemill-Job",
    "Tidemill-Upload",
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
)
"""Response headers that a page on another origin must be able to read (CORS)."""

ALLOWED_HEADERS = (
    "Authorization",
    "Content-Type",
    "Tus-Resumable",
    "Upload-Checksum",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "X-HTTP-Method-Override",
    "X-Request-ID",
)
"""Request headers that a page on another origin may send; refused ones too, to say why."""

NOT_BUILT = {
    "idempotency-key": "A key for an upload is",
}

MOST_JOBS_TOLD = 50
"""More jobs than this are told by their batch only: proxies take heads of 4 KiB, Node of 16 KiB, and
a client whose head overflows never learns that its upload is complete."""

_NUMBER = re.compile(r"[0-9]{1,40}\Z")


def refuse_not_built(headers: Headers) -> None:
    """Raise NotSupported for headers that would have to be honoured, not ignored."""
    for name, what in NOT_BUILT.items():
        if name in headers:
            msg = f"{what} not supported yet: send the file without {name.title()}."
            raise NotSupported(msg, extra={"header": name.title()})
    if "upload-checksum" in headers.get("trailer", "").lower():
        msg = "A checksum that follows the body is not supported: send Upload-Checksum before it."
        raise NotSupported(msg, extra={"header": "Trailer"})


def single(headers: Headers, name: str) -> str | None:
    """Return a header's value, None without one. Raises InvalidHeader for several."""
    values = headers.getlist(name)
    if len(values) > 1:
        msg = f"{name} must be sent once."
        raise InvalidHeader(msg, extra={"header": name})
    return values[0] if values else None


def whole_number(headers: Headers, name: str) -> int | None:
    """Return a header's non-negative whole number, None without one.

    Raises InvalidHeader for anything but plain digits (``+400`` and ``4_00`` are numbers to Python).
    """
    value = single(headers, name)
    if value is None:
        return None
    if _NUMBER.match(value) is None:
        msg = f"{name} must be a whole number of bytes, not negative."
        raise InvalidHeader(msg, extra={"header": name})
    return int(value)


def required_number(headers: Headers, name: str) -> int:
    """Like ``whole_number``, and raises InvalidHeader without one."""
    number = whole_number(headers, name)
    if number is None:
        msg = f"{name} is missing."
        raise InvalidHeader(msg, extra={"header": name})
    return number


def declared_length(headers: Headers) -> int | None:
    """Return a creation's Upload-Length, None when it is deferred. Raises InvalidHeader."""
    length = whole_number(headers, "Upload-Length")
    deferred = single(headers, "Upload-Defer-Length")
    if deferred is not None and deferred != "1":
        raise InvalidHeader("Upload-Defer-Length must be 1.")
    if (length is None) == (deferred is None):
        raise InvalidHeader("Send either Upload-Length or Upload-Defer-Length: 1.")
    return length


def body_size(headers: Headers) -> int | None:
    """Return how many bytes the body has, None when it is chunked and only its end will tell.

    Raises InvalidHeader for a body that is packed as well: its bytes would not be the file's.
    """
    if coding := ",".join(headers.getlist("transfer-encoding")):
        if coding.strip().lower() != "chunked":
            raise InvalidHeader("Transfer-Encoding may only be chunked.")
        return None
    return whole_number(headers, "Content-Length") or 0


def body_checksum(headers: Headers) -> Checksum | None:
    """Return what the body must come to, None when nobody asks (tus 1.0.0, "Upload-Checksum").

    Raises ChecksumAlgorithmUnsupported; InvalidHeader when the rest is no digest of that algorithm.
    """
    value = single(headers, "Upload-Checksum")
    if value is None:
        return None
    algorithm, _, encoded = value.partition(" ")
    if algorithm not in ALGORITHMS:
        known = list(ALGORITHMS)
        msg = f"The algorithm of Upload-Checksum must be one of {', '.join(known)}."
        raise ChecksumAlgorithmUnsupported(msg, extra={"allowed": known})
    try:
        digest = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != digest_bytes(algorithm):
        msg = (
            f"Upload-Checksum must be '{algorithm} ' and {digest_bytes(algorithm)} bytes in Base64."
        )
        raise InvalidHeader(msg, extra={"header": "Upload-Checksum"})
    return Checksum(algorithm, digest)


def require_offset_type(headers: Headers) -> None:
    """Raise UnsupportedMediaType unless the body is declared as tus wants it."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != OFFSET_TYPE:
        msg = f"Content-Type must be {OFFSET_TYPE}."
        raise UnsupportedMediaType(msg, extra={"allowed": [OFFSET_TYPE]})


def expires(moment: datetime) -> str:
    """Return a moment as an HTTP date."""
    return format_datetime(moment, usegmt=True)


def completion_headers(completion: Completion) -> dict[str, str]:
    """Return what every response that finishes an upload says."""
    headers = {"Tidemill-Upload": completion.upload_id}
    if completion.batch_id is not None:
        headers["Tidemill-Batch"] = completion.batch_id
    if 0 < len(completion.job_ids) <= MOST_JOBS_TOLD:
        headers["Tidemill-Job"] = ",".join(completion.job_ids)
    return headers
