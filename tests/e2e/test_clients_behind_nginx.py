"""Every kind of client through nginx with the lines of docs/running.md, while the service restarts."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.harness import Server
from tests.e2e.nginx import Nginx
from tests.e2e.node import CLIENTS, Scenarios
from tests.e2e.proxy import Proxy
from tests.e2e.resumed import Interruption, assert_is_there, restart_while_held
from tests.e2e.wire import PATCH_TYPE, TUS

MIB = 1024 * 1024
KIB = 1024
HOLD = 700 * KIB
KEY = "a-key-for-the-tests-behind-nginx"
BEARER = {"Authorization": f"Bearer {KEY}"}
PATIENT = [0, 1000, 3000, 5000, 10000, *[1000] * 30]
"""Those of the README, and more for a machine that has much to do."""
WAYS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "chunks of 256 KiB": {"chunkSize": 256 * KIB},
    "a stream of unknown length": {
        "input": "stream",
        "chunkSize": 256 * KIB,
        "uploadLengthDeferred": True,
    },
    "parallel 4": {"options": {"parallelUploads": 4}},
}


@dataclass(frozen=True, slots=True)
class Place:
    """A service, nginx before it, and a line to nginx, which is the public address."""

    server: Server
    nginx: Nginx
    proxy: Proxy


@pytest.fixture(scope="module")
def place(
    make_own_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    key_file = folder / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    server = make_own_server(
        {"TRUSTED_PROXIES": "127.0.0.1", "ADMIN_KEY_FILE": key_file, "DRAIN_SECONDS": "1"}
    )
    nginx = Nginx.of_the_page(folder, server.port)
    with nginx, Proxy(nginx.port) as proxy:
        server.start({"PUBLIC_URL": proxy.url})
        yield Place(server, nginx, proxy)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    path.write_bytes(os.urandom(4 * MIB))
    return path


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_every_way_to_upload_survives_a_restart_behind_nginx(
    way: str, place: Place, clip: Path, tmp_path: Path
) -> None:
    content = clip.read_bytes()
    cases = [(client, chosen) for client in CLIENTS for chosen in WAYS.values()]
    parts = sum(chosen.get("options", {}).get("parallelUploads", 1) for _, chosen in cases)
    place.proxy.hold_each(HOLD)
    restart = Interruption(place.server, place.proxy, parts=parts)
    with Scenarios(tmp_path) as node:
        runs = [
            node.start(
                {
                    "client": client,
                    "endpoint": f"{place.proxy.url}/files/",
                    "file": str(clip),
                    "headers": BEARER,
                    "metadata": {"filename": "clip.mp4"},
                    "retryDelays": PATIENT,
                    **chosen,
                }
            )
            for client, chosen in cases
        ]
        try:
            restart.wait(seconds=60)
            # nginx is not restarted: it answers for the service while that is away.
            restart_while_held(place.server, place.proxy, way, restart)
        finally:
            place.proxy.hold_no_more()
            place.proxy.speed_up()
        told = [run.finish() for run in runs]
    for one in told:
        url, headers = one.success["url"], one.success["headers"]
        assert url.startswith(f"{place.proxy.url}/files/")
        assert_is_there(place.server, url, headers, content, BEARER)
    restart.assert_went_on()
    assert not [e for one in told for e in one.of("response") if e["status"] >= 500]


def test_a_final_of_a_hundred_parts_comes_through_nginx(place: Place) -> None:
    """Its header names all of them, in the request and in what HEAD answers."""
    with httpx.Client(base_url=place.proxy.url, headers=BEARER | TUS, timeout=60) as http:
        urls = []
        for number in range(100):
            made = http.post(
                "/files/",
                headers={"Upload-Concat": "partial", "Upload-Length": "3", **PATCH_TYPE},
                content=f"{number:03}".encode(),
            )
            assert made.status_code == 201, made.text
            urls.append(made.headers["location"])
        concat = f"final;{' '.join(urls)}"
        assert len(concat) > 6000
        final = http.post("/files/", headers={"Upload-Concat": concat})
        assert final.status_code == 201, final.text
        head = http.head(final.headers["location"])
        assert head.status_code == 200
        assert head.headers["upload-concat"] == concat
    content = b"".join(f"{number:03}".encode() for number in range(100))
    assert_is_there(place.server, final.headers["location"], final.headers, content, BEARER)
