"""The router is tuspyserver's own, and nothing gets to it around our checks."""

from importlib.metadata import version
from typing import Any

import pytest
from tuspyserver.storage import TusStorage

from app.api.tus.router import TusRouter
from app.api.tus.storage import RowStorage
from app.domain.errors import InternalError
from app.domain.ids import new_id


def test_the_router_is_the_version_that_was_studied() -> None:
    assert version("tuspyserver") == "4.4.3"


def test_the_storage_is_whole() -> None:
    assert isinstance(RowStorage(), TusStorage)


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "HEAD", "OPTIONS"])
async def test_a_request_that_did_not_come_through_our_app_is_refused(method: str) -> None:
    router, path = TusRouter(1000), "/files/" if method in {"POST", "OPTIONS"} else "/files/x"
    path = path.replace("x", new_id())
    headers = {
        b"tus-resumable": b"1.0.0",
        b"upload-length": b"5",
        b"upload-offset": b"0",
        b"content-length": b"0",
        b"content-type": b"application/offset+octet-stream",
    }
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": list(headers.items()),
    }
    with pytest.raises(InternalError):
        await router._ask(scope)
