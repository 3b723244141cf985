"""Who comes in, over a real socket: hosts, origins, keys, preflights; and how requests are named."""

import json
import socket

import pytest

from app.api.middleware import ALLOWED_HEADERS, ALLOWED_METHODS, EXPOSED_HEADERS
from tests.api.conftest import KEY
from tests.fakes.served import TUS, Served, settings_for, wait_for

LOCAL_PAGE = "http://localhost:3000"
FOREIGN_PAGE = "https://evil.example"
OPEN = (
    "/livez",
    "/readyz",
    "/docs",
    "/docs/errors",
    "/openapi.json",
    "/docs/assets/swagger-ui.css",
)
CLOSED = ("/metrics", "/api/v1/jobs", "/api/v1/storage", "/nowhere")
EVERYWHERE = (*OPEN, *CLOSED, "/files/", f"/files/{'0' * 32}")


@pytest.mark.parametrize("path", EVERYWHERE)
def test_a_foreign_host_gets_nothing_anywhere(served: Served, path: str) -> None:
    before = served.state()
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        response = served.http.request(method, path, headers={"host": "evil.example", **TUS})
        assert (response.status_code, response.json()["code"]) == (421, "host_not_allowed")
    assert served.state() == before


@pytest.mark.parametrize("path", EVERYWHERE)
def test_a_foreign_page_gets_nothing_anywhere(served: Served, path: str) -> None:
    before = served.state()
    for origin in (FOREIGN_PAGE, "null", "http://localhost.evil.example"):
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            response = served.http.request(method, path, headers={"origin": origin, **TUS})
            assert (response.status_code, response.json()["code"]) == (403, "origin_not_allowed")
            assert "access-control-allow-origin" not in response.headers
    assert served.state() == before


@pytest.mark.parametrize("path", EVERYWHERE)
def test_a_page_of_this_machine_may_ask_and_read_everything(served: Served, path: str) -> None:
    preflight = served.http.options(
        path,
        headers={
            "origin": LOCAL_PAGE,
            "access-control-request-method": "PATCH",
            "access-control-request-headers": "upload-offset,tus-resumable",
        },
    )
    assert preflight.status_code in {200, 204}
    assert preflight.headers["access-control-allow-origin"] == LOCAL_PAGE
    assert preflight.headers["access-control-allow-methods"] == ALLOWED_METHODS
    assert preflight.headers["access-control-allow-headers"] == ALLOWED_HEADERS
    if path.startswith("/files"):
        assert preflight.headers["tus-resumable"] == "1.0.0"
        assert "creation" in preflight.headers["tus-extension"]
    response = served.http.get(path, headers={"origin": LOCAL_PAGE})
    assert response.headers["access-control-allow-origin"] == LOCAL_PAGE
    assert response.headers["access-control-expose-headers"] == EXPOSED_HEADERS
    assert "Origin" in response.headers["vary"]


def test_every_header_that_answers_carry_is_exposed(served: Served) -> None:
    upload_id = served.upload(b"abc", filename="a.mp4")
    answers = [
        served.http.head(f"/files/{upload_id}", headers=TUS),
        served.http.get(f"/files/{upload_id}", headers={"range": "bytes=0-1"}),
        served.http.options("/files/"),
        served.http.post("/files/", headers={**TUS, "Upload-Length": "5"}),
        served.http.post("/api/v1/upload"),
        served.http.get("/api/v1/jobs/x"),
        served.http.put("/api/v1/jobs"),
    ]
    # Readable without being exposed (Fetch standard), or of no use to a page.
    safe = {"cache-control", "content-type", "content-length", "last-modified", "date", "server"}
    idle = {"vary", "connection", "x-content-type-options", "content-security-policy"}
    idle |= {"cross-origin-resource-policy"}
    exposed = {name.strip().lower() for name in EXPOSED_HEADERS.split(",")}
    for answer in answers:
        hidden = set(answer.headers) - safe - idle - exposed
        assert not hidden, f"{answer.request.url}: {hidden}"


def test_the_service_itself_is_no_foreign_page(served: Served) -> None:
    origin = f"http://127.0.0.1:{served.port}"
    assert served.http.post("/api/v1/upload", headers={"origin": origin}).status_code == 201


@pytest.mark.parametrize("path", OPEN)
def test_health_and_documentation_need_no_key(keyed: Served, path: str) -> None:
    response = keyed.http.get(path, headers={"authorization": ""})
    assert response.status_code == 200


@pytest.mark.parametrize("path", [*CLOSED, f"/files/{'0' * 32}"])
def test_everything_else_needs_the_key(keyed: Served, path: str) -> None:
    for header, code in [
        (None, "credentials_required"),
        ("Bearer wrong", "credentials_invalid"),
        (f"Basic {KEY}", "credentials_invalid"),
        (f"Bearer {KEY}x", "credentials_invalid"),
    ]:
        request = keyed.http.build_request("GET", path, headers={"origin": LOCAL_PAGE})
        del request.headers["authorization"]
        if header is not None:
            request.headers["authorization"] = header
        response = keyed.http.send(request)
        assert (response.status_code, response.json()["code"]) == (401, code)
        assert response.headers["www-authenticate"].startswith("Bearer ")
        assert response.headers["access-control-allow-origin"] == LOCAL_PAGE
        assert response.headers["x-request-id"]
    assert keyed.http.get(path).status_code in {200, 404}


def test_options_need_no_key(keyed: Served) -> None:
    for path in EVERYWHERE:
        headers = {"origin": LOCAL_PAGE, "access-control-request-method": "POST"}
        request = keyed.http.build_request("OPTIONS", path, headers=headers)
        del request.headers["authorization"]
        assert keyed.http.send(request).is_success


def test_a_body_without_a_key_is_refused_before_it_is_read(keyed: Served) -> None:
    before = keyed.state()
    for path in ("/api/v1/upload", "/files/"):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n"
            "Tus-Resumable: 1.0.0\r\nContent-Length: 1000000\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", keyed.port), timeout=10) as client:
            client.sendall(head.encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 401")
    assert keyed.state() == before


def test_which_parts_fail_is_told_to_the_key_only(keyed: Served, served: Served) -> None:
    assert keyed.http.get("/readyz").json()["parts"]
    assert keyed.http.get("/readyz", headers={"authorization": ""}).json()["parts"] == []
    assert served.http.get("/readyz").json()["parts"]


def test_a_request_keeps_its_sane_id_and_gets_one_instead_of_a_wild_one(served: Served) -> None:
    response = served.http.get("/livez", headers={"x-request-id": "Trace-7.a_b"})
    assert response.headers["x-request-id"] == "Trace-7.a_b"
    for wild in (b"a b", b"x" * 65, "é".encode(), b"<script>", b""):
        found = served.http.get("/livez", headers={b"x-request-id": wild}).headers["x-request-id"]
        assert len(found) == 32


def test_a_request_is_logged_once_without_its_query(
    served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    headers = {"x-request-id": "logged-1", "authorization": "Bearer a-secret"}
    served.http.get("/api/v1/jobs", params={"token": "a-secret"}, headers=headers)
    told = ""

    def finished() -> list[str]:
        nonlocal told
        told += "".join(capfd.readouterr())
        lines = [line for line in told.splitlines() if "logged-1" in line]
        return [line for line in lines if "request.finished" in line]

    wait_for(finished)  # the line is written after the answer
    (line,) = [json.loads(line) for line in finished()]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/v1/jobs", 422)
    assert line["bytes"] > 0
    assert line["duration_ms"] > 0
    assert "a-secret" not in told


def test_requests_are_counted(served: Served) -> None:
    def count() -> float:
        page = served.http.get("/metrics").text
        name = 'tidemill_http_requests_total{method="GET",status="404"}'
        found = [line for line in page.splitlines() if line.startswith(name)]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    before = count()
    served.http.get("/nowhere")
    assert count() == before + 1


def test_a_service_for_named_pages_takes_those_only(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = tmp_path_factory.mktemp("named") / "data"
    settings = settings_for(
        data, jobs={"workers": 0}, service={"cors_origins": ("https://app.example",)}
    )
    with Served(settings) as named:
        ours = named.http.get("/livez", headers={"origin": "https://app.example"})
        assert ours.headers["access-control-allow-origin"] == "https://app.example"
        for other in (LOCAL_PAGE, FOREIGN_PAGE, "https://app.example.evil.example"):
            assert named.http.get("/livez", headers={"origin": other}).status_code == 403
