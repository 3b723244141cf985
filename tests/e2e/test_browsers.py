"""What a browser asks before and reads after: preflights and exposed headers, over the socket."""

import pytest

from tests.e2e.harness import Server
from tests.e2e.wire import PATCH_TYPE, TUS, create, open_session

PAGE = "http://localhost:5173"
STRANGER = "https://stranger.example"
TUS_REQUEST_HEADERS = (
    "authorization, content-type, tus-resumable, upload-length, upload-metadata, upload-offset, "
    "upload-defer-length, upload-checksum, upload-concat, x-http-method-override, x-request-id, "
    # Of the other protocol that tus-js-client speaks, so that a page can read why it is refused.
    "upload-complete, upload-draft-interop-version"
)


def _names(value: str) -> set[str]:
    return {name.strip().lower() for name in value.split(",")}


@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE"])
def test_a_preflight_for_tus_is_answered_without_credentials(
    shared_server: Server, method: str
) -> None:
    with shared_server.client() as browser:
        path = create(browser, 10) if method != "POST" else "/files/"
        response = browser.options(
            path,
            headers={
                "Origin": PAGE,
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": TUS_REQUEST_HEADERS,
            },
        )
    assert response.status_code in {200, 204}
    assert response.headers["access-control-allow-origin"] == PAGE
    assert method in response.headers["access-control-allow-methods"]
    allowed = _names(response.headers["access-control-allow-headers"])
    assert "*" not in allowed, "a star does not cover Authorization"
    assert _names(TUS_REQUEST_HEADERS) <= allowed
    assert "origin" in _names(response.headers["vary"])


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_preflight_for_the_rest_is_answered_too(shared_server: Server, method: str) -> None:
    with shared_server.client() as browser:
        response = browser.options(
            "/api/v1/upload",
            headers={
                "Origin": PAGE,
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": "content-type",
            },
        )
    assert response.status_code in {200, 204}
    assert response.headers["access-control-allow-origin"] == PAGE


def test_every_header_that_a_page_needs_is_exposed(shared_server: Server) -> None:
    with shared_server.client(headers={"Origin": PAGE}) as browser:
        session_id = open_session(browser, expected_files=1)
        del session_id
        made = browser.post("/files/", headers=TUS | {"Upload-Length": "4"})
        path = made.headers["location"]
        head = browser.head(path, headers=TUS)
        finished = browser.patch(
            path, headers=TUS | PATCH_TYPE | {"Upload-Offset": "0"}, content=b"1234"
        )
        refused = browser.patch(
            path, headers=TUS | PATCH_TYPE | {"Upload-Offset": "1"}, content=b"1"
        )
    assert finished.status_code == 204
    assert refused.status_code in {403, 409}
    for response in (made, head, finished, refused):
        assert response.headers["access-control-allow-origin"] == PAGE
        exposed = _names(response.headers["access-control-expose-headers"])
        own = {n for n in response.headers if n.startswith(("tus-", "upload-", "tidemill-"))}
        assert own <= exposed
        assert {"location", "x-request-id", "retry-after"} <= exposed
    assert {"tidemill-upload", "tidemill-batch"} <= set(finished.headers)


def test_a_page_of_another_site_gets_nothing(shared_server: Server) -> None:
    with shared_server.client() as browser:
        path = create(browser, 4)
        preflight = browser.options(
            path,
            headers={
                "Origin": STRANGER,
                "Access-Control-Request-Method": "PATCH",
                "Access-Control-Request-Headers": "tus-resumable",
            },
        )
        written = browser.patch(
            path,
            headers=TUS | PATCH_TYPE | {"Upload-Offset": "0", "Origin": STRANGER},
            content=b"1234",
        )
        asked = browser.get("/api/v1/operations", headers={"Origin": STRANGER})
        rebound = browser.get("/api/v1/operations", headers={"Host": "stranger.example"})
        untouched = browser.head(path, headers=TUS)
    for response in (preflight, written, asked):
        assert "access-control-allow-origin" not in response.headers
    assert written.status_code == 403
    assert asked.status_code == 403
    assert rebound.status_code == 421
    assert untouched.headers["upload-offset"] == "0"
