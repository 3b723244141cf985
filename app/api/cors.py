"""What a browser is told so that pages of allowed origins can use the API: the Fetch standard's CORS."""

from collections.abc import Mapping

from app.api.access import AccessPolicy, is_origin_allowed

RawHeaders = list[tuple[bytes, bytes]]

_SECONDS_OF_PREFLIGHT = "86400"
EXPOSED_HEADERS = (
    "Accept-Ranges, Allow, Content-Disposition, Content-Length, Content-Range, ETag,"
    " Idempotency-Replayed, Last-Modified, Location, Preference-Applied, Repr-Digest, Retry-After,"
    " Tidemill-Batch,"
    " Tidemill-Job, Tidemill-Result, Tidemill-Upload,"
    " Tus-Checksum-Algorithm, Tus-Extension, Tus-Max-Size, Tus-Resumable, Tus-Version,"
    " Upload-Concat, Upload-Defer-Length, Upload-Expires, Upload-Length, Upload-Metadata,"
    " Upload-Offset, WWW-Authenticate, X-HTTP-Method-Override, X-Request-ID"
)
ALLOWED_METHODS = "GET, HEAD, POST, PATCH, DELETE, OPTIONS"
ALLOWED_HEADERS = (
    "Accept, Authorization, Cache-Control, Content-Type, Idempotency-Key, If-Match,"
    " If-Modified-Since, If-None-Match, If-Range, Last-Event-ID, Prefer, Range, Tus-Resumable,"
    " Upload-Checksum, Upload-Complete, Upload-Concat, Upload-Defer-Length,"
    " Upload-Draft-Interop-Version, Upload-Length, Upload-Metadata, Upload-Offset,"
    " X-HTTP-Method-Override, X-Request-ID, X-Requested-With"
)


def cors_headers(method: str, asked: Mapping[str, str], policy: AccessPolicy) -> RawHeaders:
    """Return what every answer to a request carries when its page's origin is allowed, errors
    included; nothing otherwise. ``asked``: the request's headers by lower-case name.
    """
    origin = asked.get("origin")
    if origin is None or not is_origin_allowed(origin, policy):
        return []
    told = {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": EXPOSED_HEADERS,
    }
    if method == "OPTIONS" and "access-control-request-method" in asked:
        told["access-control-allow-methods"] = ALLOWED_METHODS
        told["access-control-allow-headers"] = ALLOWED_HEADERS
        told["access-control-max-age"] = _SECONDS_OF_PREFLIGHT
        if asked.get("access-control-request-private-network") == "true":
            told["access-control-allow-private-network"] = "true"
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in told.items()]


def vary_by_origin(headers: RawHeaders) -> None:
    """Say to caches that the answer depends on the origin, beside whatever else it depends on."""
    for place, (name, value) in enumerate(headers):
        if name == b"vary":
            headers[place] = (name, value + b", Origin")
            return
    headers.append((b"vary", b"Origin"))
