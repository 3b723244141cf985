"""Hosts, origins and keys, decided without a server."""

import pytest
from starlette.datastructures import Headers

from app.api.access import (
    AccessPolicy,
    authenticate,
    check_host,
    check_origin,
    hash_key,
    host_of,
    is_open_path,
    is_tus_path,
    may_see_details,
    route_path,
)
from app.domain.access import OWNER
from app.domain.errors import (
    CredentialsInvalid,
    CredentialsRequired,
    HostNotAllowed,
    OriginNotAllowed,
)

OPEN = AccessPolicy(allowed_hosts=frozenset({"tide.example"}))
KEYED = AccessPolicy(key_hashes=frozenset({hash_key("one"), hash_key("two")}))


def asking(*values: str) -> dict[str, object]:
    return {"headers": [(b"authorization", value.encode()) for value in values]}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.8.9.10:99",
        "[::1]",
        "[::1]:8000",
        "tide.example",
        "TIDE.example:443",
        "app.localhost:3000",
    ],
)
def test_a_host_that_is_this_machine_or_the_public_one_is_answered(host: str) -> None:
    check_host(Headers({"host": host}), OPEN)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "evil.example#localhost",
        "evil.example/localhost",
        "10.0.0.1",
        "0.0.0.0",
        "[::2]",
        "[::1",
        "localhost:port",
        "xlocalhost",
    ],
)
def test_a_foreign_host_is_refused(host: str) -> None:
    with pytest.raises(HostNotAllowed):
        check_host(Headers({"host": host}), OPEN)


def test_where_a_key_is_asked_for_the_host_is_left_alone() -> None:
    check_host(Headers({"host": "anything.example"}), KEYED)


@pytest.mark.parametrize(
    ("origin", "policy"),
    [
        ("http://localhost:3000", OPEN),
        ("https://127.0.0.1", OPEN),
        ("http://[::1]:5173", OPEN),
        ("https://app.example", AccessPolicy(allowed_origins=frozenset({"https://app.example"}))),
        ("https://any.example", AccessPolicy(allowed_origins=frozenset({"*"}))),
        ("http://tide.example:8000", OPEN),  # the same origin, by the Host below
    ],
)
def test_an_allowed_origin_comes_in(origin: str, policy: AccessPolicy) -> None:
    headers = Headers({"host": "tide.example:8000", "origin": origin})
    check_origin({"scheme": "http"}, headers, policy)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "http://localhost.evil.example",
        "https://tide.example:8001",
        "file://",
        "http://tide.example",
        "chrome-extension://abc",
        "http://[::1",
    ],
)
def test_a_foreign_origin_is_refused(origin: str) -> None:
    headers = Headers({"host": "tide.example:8000", "origin": origin})
    with pytest.raises(OriginNotAllowed):
        check_origin({"scheme": "http"}, headers, OPEN)


def test_behind_a_proxy_that_ends_tls_the_same_site_is_the_same_origin() -> None:
    headers = Headers({"host": "tide.example", "origin": "https://tide.example"})
    check_origin({"scheme": "http"}, headers, OPEN)


def test_without_keys_everybody_is_the_owner() -> None:
    assert authenticate({"headers": []}, OPEN) == OWNER


def test_the_open_mode_is_for_clients_of_this_machine_only() -> None:
    assert authenticate({"headers": [], "client": ("127.0.0.1", 5)}, OPEN) == OWNER
    assert authenticate({"headers": [], "client": None}, OPEN) == OWNER
    with pytest.raises(CredentialsRequired, match="TIDEMILL_ADMIN_KEY_FILE"):
        authenticate({"headers": [], "client": ("10.1.2.3", 5)}, OPEN)


@pytest.mark.parametrize("header", ["Bearer one", "bearer two", "BEARER  one "])
def test_a_known_key_is_the_owner(header: str) -> None:
    assert authenticate(asking(header), KEYED) == OWNER


@pytest.mark.parametrize(
    "header", ["Bearer three", "Bearer", "Bearer ", "Basic one", "one", "", "Bearer one two"]
)
def test_an_unknown_key_is_invalid(header: str) -> None:
    with pytest.raises(CredentialsInvalid):
        authenticate(asking(header), KEYED)


def test_two_keys_at_once_are_invalid() -> None:
    with pytest.raises(CredentialsInvalid):
        authenticate(asking("Bearer one", "Bearer two"), KEYED)


def test_no_key_is_required_not_invalid() -> None:
    with pytest.raises(CredentialsRequired):
        authenticate({"headers": []}, KEYED)


def test_details_are_for_loopback_without_keys_and_for_the_key_with_them() -> None:
    assert may_see_details({"headers": [], "client": ("127.0.0.1", 1)}, OPEN)
    assert not may_see_details({"headers": [], "client": ("10.0.0.1", 1)}, OPEN)
    assert not may_see_details({"headers": [], "client": ("127.0.0.1", 1)}, KEYED)
    assert may_see_details({**asking("Bearer one"), "client": ("10.0.0.1", 1)}, KEYED)


def test_paths_are_judged_below_root_path() -> None:
    assert route_path({"path": "/t/livez", "root_path": "/t"}) == "/livez"
    assert route_path({"path": "/t", "root_path": "/t"}) == "/"
    assert route_path({"path": "/team/livez", "root_path": "/t"}) == "/team/livez"


def test_only_health_and_documentation_are_open() -> None:
    assert all(map(is_open_path, ["/", "/livez", "/readyz", "/docs", "/docs/errors"]))
    assert not any(map(is_open_path, ["/metrics", "/api/v1/jobs", "/docsx", "/livez/"]))
    assert all(map(is_tus_path, ["/files", "/files/", "/files/x"]))
    assert not is_tus_path("/filesystem")


@pytest.mark.parametrize(
    ("authority", "host"),
    [("a.b:1", "a.b"), ("A.B", "a.b"), ("[::1]:2", "::1"), ("a b", "a b"), ("u@h", None)],
)
def test_the_host_of_an_authority(authority: str, host: str | None) -> None:
    assert host_of(authority) == host
