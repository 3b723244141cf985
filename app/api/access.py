"""Who may come in: Host and Origin for everyone, a key where the service is not for loopback only."""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from app.api.errors import set_owner
from app.domain.access import OWNER
from app.domain.errors import (
    CredentialsInvalid,
    CredentialsRequired,
    HostNotAllowed,
    OriginNotAllowed,
)

TUS_PREFIX = "/files"
OPEN_PATHS = frozenset({"/", "/livez", "/readyz", "/docs", "/openapi.json", "/favicon.ico"})
OPEN_PREFIXES = ("/docs/",)
DEFAULT_PORTS = {"http": 80, "https": 443}
_PLAIN_AUTHORITY = re.compile(r"([a-z0-9.-]+)(?::[0-5]?\d{1,4})?\Z")
_OURSELVES = frozenset({"localhost", "127.0.0.1", "::1"})

FirstHeaders = Mapping[str, str]
"""Headers by lower-case name, of each the first."""


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who is let in.

    ``key_hashes``: SHA-256 of the accepted keys; empty is the open mode, which is for services
    bound to loopback only. ``allowed_hosts``: lower-case host names beside the loopback ones
    (PUBLIC_URL's), for the open mode; where a key is asked for, Host is left alone.
    ``allowed_origins``: lower-case ``scheme://host[:port]`` beside those of loopback, which
    ``loopback_origins`` lets in; "*" is any.
    """

    key_hashes: frozenset[bytes] = frozenset()
    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()
    loopback_origins: bool = True

    @property
    def needs_key(self) -> bool:
        return bool(self.key_hashes)


def hash_key(key: str) -> bytes:
    """Return what is kept of a key: its SHA-256."""
    return hashlib.sha256(key.encode("utf-8")).digest()


def is_loopback_name(host: str) -> bool:
    """Whether ``host`` (no port, brackets allowed) is a name or address of this machine itself."""
    name = host.strip("[]").rstrip(".").lower()
    if name in _OURSELVES or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def host_of(authority: str) -> str | None:
    """Return the lower-case host of ``host[:port]``, None when it is no such thing."""
    plain = _PLAIN_AUTHORITY.match(authority)
    if plain is not None:
        return plain.group(1)
    try:
        parts = urlsplit(f"//{authority}")
        _ = parts.port
    except ValueError:
        return None
    if parts.netloc != authority or parts.username is not None or parts.path:
        return None
    return parts.hostname


def check_host(headers: FirstHeaders, policy: AccessPolicy) -> None:
    """Raise HostNotAllowed for a Host that is not ours: a page of another site can point its own
    name at this machine (DNS rebinding), and its browser then sends that name.
    """
    if policy.needs_key:
        return
    host = host_of(headers.get("host", ""))
    if host is not None and (is_loopback_name(host) or host in policy.allowed_hosts):
        return
    shown = headers.get("host", "")[:100]
    msg = (
        f'This service does not answer for the host "{shown}"; it does for localhost and the host'
        " of TIDEMILL_PUBLIC_URL."
    )
    raise HostNotAllowed(msg)


def is_origin_allowed(origin: str, policy: AccessPolicy) -> bool:
    """Whether pages of ``origin`` may use this service from a browser."""
    if "*" in policy.allowed_origins or origin.lower() in policy.allowed_origins:
        return True
    if not policy.loopback_origins:
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in DEFAULT_PORTS and is_loopback_name(parts.hostname or "")


def is_same_origin(origin: str, scope: Mapping[str, Any], headers: FirstHeaders) -> bool:
    """Whether ``origin`` is this service's own, seen through the Host the browser used."""
    try:
        parts = urlsplit(origin)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
        ours = urlsplit(f"//{headers.get('host', '')}")
        our_port = ours.port or DEFAULT_PORTS.get(str(scope.get("scheme", "http")))
    except ValueError:
        return False
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return False
    # Behind a proxy that ends TLS, the scheme we see is http and the port the default of neither.
    same_port = port == our_port or (ours.port is None and parts.port is None)
    return parts.hostname == ours.hostname and same_port


def check_origin(scope: Mapping[str, Any], headers: FirstHeaders, policy: AccessPolicy) -> None:
    """Raise OriginNotAllowed when a page of another site sends the request."""
    origin = headers.get("origin")
    if origin is None or is_same_origin(origin, scope, headers):
        return
    if is_origin_allowed(origin, policy):
        return
    msg = (
        f'Pages of "{origin[:100]}" may not use this service; TIDEMILL_CORS_ORIGINS names who may.'
    )
    raise OriginNotAllowed(msg)


def authenticate(scope: Mapping[str, Any], policy: AccessPolicy) -> str:
    """Return the owner behind a request.

    Raises CredentialsRequired without an ``Authorization: Bearer`` header where one is needed, and
    CredentialsInvalid when its key is not one of ours. Reads nothing of the body.
    """
    if not policy.needs_key:
        if is_remote_client(scope):
            # Started by something else than our own server, on an address that others reach.
            msg = "Without a key this service is for its own machine only: set TIDEMILL_ADMIN_KEY_FILE."
            raise CredentialsRequired(msg)
        return OWNER
    given = Headers(raw=list(scope["headers"])).getlist("authorization")
    if not given:
        raise CredentialsRequired("Send the key as `Authorization: Bearer KEY`.")
    scheme, _, key = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not key.strip():
        raise CredentialsInvalid("Authorization must be `Bearer KEY`, once.")
    digest = hash_key(key.strip())
    matches = [hmac.compare_digest(digest, known) for known in policy.key_hashes]
    if not any(matches):
        raise CredentialsInvalid("That key is not known here.")
    return OWNER


def is_loopback_client(scope: Mapping[str, Any]) -> bool:
    """Whether the peer of the connection is this machine."""
    client = scope.get("client")
    return client is not None and is_loopback_name(str(client[0]))


def is_remote_client(scope: Mapping[str, Any]) -> bool:
    """Whether the peer is known and another machine."""
    return scope.get("client") is not None and not is_loopback_client(scope)


def may_see_details(scope: Mapping[str, Any], policy: AccessPolicy) -> bool:
    """Whether the names of failing parts are for this client: an admin's key, or the open mode's
    loopback clients (behind a proxy every client looks like loopback, so keys mode wants the key).
    """
    if not policy.needs_key:
        return is_loopback_client(scope)
    try:
        authenticate(scope, policy)
    except (CredentialsRequired, CredentialsInvalid):
        return False
    return True


def route_path(scope: Mapping[str, Any]) -> str:
    """Return the path below ``root_path``."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def is_tus_path(path: str) -> bool:
    """Whether the tus app answers for ``path``; it authenticates by itself, after the version."""
    return path == TUS_PREFIX or path.startswith(f"{TUS_PREFIX}/")


def is_open_path(path: str) -> bool:
    """Whether ``path`` is for everyone: health and documentation."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def first_headers(scope: Mapping[str, Any]) -> FirstHeaders:
    """Return a request's headers by lower-case name; of a name that comes twice, the first value."""
    pairs = reversed(list(scope["headers"]))
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}


def admit(scope: Scope, headers: FirstHeaders, policy: AccessPolicy) -> None:
    """Check Host and Origin of any request, and the credentials of one that needs them, whose owner is
    remembered then. Raises the refusal.

    Before anything reads the body. What lies below /files checks the credentials by itself; nobody
    sends any with an OPTIONS.
    """
    check_host(headers, policy)
    check_origin(scope, headers, policy)
    path = route_path(scope)
    if scope["method"] != "OPTIONS" and not is_open_path(path) and not is_tus_path(path):
        set_owner(scope, authenticate(scope, policy))


def is_preflight(scope: Scope, headers: FirstHeaders) -> bool:
    """Whether a browser asks before it sends a request, and for no path below /files: there the tus app
    answers, which adds what its protocol asks of an OPTIONS.
    """
    return (
        scope["method"] == "OPTIONS"
        and "access-control-request-method" in headers
        and not is_tus_path(route_path(scope))
    )
