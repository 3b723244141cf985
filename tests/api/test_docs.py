"""/docs works without the rest of the web, and every error is explained where ``type`` leads."""

import re

import pytest

from app.api.error_guide import catalogue
from tests.fakes.served import Served


@pytest.mark.parametrize("path", ["/docs", "/docs/errors"])
def test_no_page_refers_to_another_host(served: Served, path: str) -> None:
    response = served.http.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert not re.search(r"(src|href)\s*=\s*\"(https?:)?//", response.text)
    assert "cdn" not in response.text.lower()
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_everything_the_page_needs_is_served_here(served: Served) -> None:
    page = served.http.get("/docs").text
    wanted = re.findall(r"(?:src|href)=\"(/[^\"]+)\"", page)
    assert len(wanted) >= 3
    for address in wanted:
        response = served.http.get(address)
        assert response.status_code == 200, address
        assert len(response.content) > 1000
    assert re.search(r"url: '/openapi\.json'", page)
    assert '"validatorUrl": null' in page


def test_the_bare_address_leads_to_the_documentation(served: Served) -> None:
    response = served.http.get("/", follow_redirects=True)
    assert response.url.path == "/docs"


def test_every_code_has_its_place_on_the_error_page(served: Served) -> None:
    page = served.http.get("/docs/errors").text
    for error in catalogue():
        assert f'id="{error.code}"' in page


def test_no_asset_outside_the_folder_is_served(served: Served) -> None:
    for path in ("/docs/assets/../core.py", "/docs/assets/%2e%2e/core.py", "/docs/assets/"):
        assert served.http.get(path).status_code == 404
