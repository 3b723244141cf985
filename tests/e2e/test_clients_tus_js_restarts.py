"""tus-js-client over stops and kills of the service: it goes on where it was, never at byte 0."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Server
from tests.e2e.node import CLIENTS, Run, Scenarios
from tests.e2e.proxy import Proxy
from tests.e2e.resumed import Interruption, assert_is_there, restart_while_held

MIB = 1024 * 1024
KIB = 1024
HOLD = 700 * KIB
PATIENT = [0, 100, 200, 500, *[1000] * 60]
WAYS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "chunks of 256 KiB": {"chunkSize": 256 * KIB},
    "a stream of unknown length": {
        "input": "stream",
        "chunkSize": 256 * KIB,
        "uploadLengthDeferred": True,
    },
    "with the creation": {"chunkSize": 256 * KIB, "uploadDataDuringCreation": True},
    "as POST": {"chunkSize": 256 * KIB, "options": {"overridePatchMethod": True}},
    "parallel 4": {"options": {"parallelUploads": 4}},
    "parallel 2 in chunks": {"options": {"parallelUploads": 2}, "chunkSize": 256 * KIB},
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenarios]:
    with Scenarios(tmp_path_factory.mktemp("node")) as scenarios:
        yield scenarios


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    path.write_bytes(os.urandom(4 * MIB))
    return path


def start(
    node: Scenarios, client: str, url: str, clip: Path, chosen: dict[str, Any], **more: Any
) -> Run:
    return node.start(
        {
            "client": client,
            "endpoint": f"{url}/files/",
            "file": str(clip),
            "metadata": {"filename": "clip.mp4"},
            "retryDelays": PATIENT,
            **chosen,
            **more,
        }
    )


def parts_of(chosen: dict[str, Any]) -> int:
    return int(chosen.get("options", {}).get("parallelUploads", 1))


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_every_way_to_upload_survives_a_restart(
    way: str, own_server: Server, node: Scenarios, clip: Path
) -> None:
    """All of them at once, in both versions: a restart costs most of the time."""
    content = clip.read_bytes()
    cases = [(client, name) for client in CLIENTS for name in WAYS]
    parts = sum(parts_of(WAYS[name]) for _, name in cases)
    with Proxy(own_server.port, hold_each_at=HOLD) as proxy:
        restart = Interruption(own_server, proxy, parts=parts)
        runs = [start(node, client, proxy.url, clip, WAYS[name]) for client, name in cases]
        restart.wait(seconds=60)
        restart_while_held(own_server, proxy, way, restart)
        told = [run.finish() for run in runs]
    for one in told:
        assert_is_there(own_server, one.success["url"], one.success["headers"], content)
    restart.assert_went_on()
    assert not [e for one in told for e in one.of("response") if e["status"] >= 500]


@pytest.mark.long
@pytest.mark.parametrize("way", ["stop", "kill"])
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("client", CLIENTS)
def test_one_way_to_upload_survives_three_restarts(
    client: str, name: str, way: str, own_server: Server, node: Scenarios, clip: Path
) -> None:
    chosen = WAYS[name]
    with Proxy(own_server.port, hold_each_at=HOLD) as proxy:
        restart = Interruption(own_server, proxy, parts=parts_of(chosen))
        running = start(node, client, proxy.url, clip, chosen)
        restart.wait(running)
        for _ in range(3):
            restart_while_held(own_server, proxy, way, restart)
            proxy.slow_down(256 * KIB)
        proxy.speed_up()
        told = running.finish()
    assert_is_there(own_server, told.success["url"], told.success["headers"], clip.read_bytes())
    restart.assert_went_on()
