"""tus-js-client on Node and in Chromium, Uppy, tuspy and aiotus through nginx as the docs set it up.

Each is cut off from it, and has the service behind it stopped and killed; it goes on at what was stored.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import python_clients
from tests.e2e.browser import Browser
from tests.e2e.harness import PLAIN, Server
from tests.e2e.nginx import Nginx
from tests.e2e.node import CLIENTS, Scenarios
from tests.e2e.proxy import Proxy
from tests.e2e.resumed import Interruption, assert_is_there, interrupt
from tests.e2e.tus_js import HOLD, PATIENT, Sending, assert_as_chosen, parts_of, write_clip
from tests.e2e.wire import PATCH_TYPE, TUS

KIB = 1024
KEY = "a-key-for-the-tests-behind-nginx"
BEARER = {"Authorization": f"Bearer {KEY}"}
WAYS = ("cut", "stop", pytest.param("kill", marks=pytest.mark.long))
"""What a kill leaves looks the same to nginx, whatever client is before it: one of them has to do."""
CHOSEN = (
    "as it comes",
    "chunks of 64 KiB",
    "from a stream of unknown length",
    "with the creation",
    "as POST",
    "parallel 4",
    "parallel with the creation",
    "sent by the page",
)
"""Scenarios of tus-js-client that differ to a proxy, which all else looks the same to."""


@dataclass(frozen=True, slots=True)
class Place:
    """A service, nginx before it, and a line to nginx, which is the public address."""

    server: Server
    nginx: Nginx
    proxy: Proxy

    @property
    def endpoint(self) -> str:
        return f"{self.proxy.url}/files/"

    def assert_is_there(self, url: str, headers: dict[str, str], content: bytes) -> None:
        assert url.startswith(self.endpoint)
        assert_is_there(self.server, url, headers, content, BEARER)


@pytest.fixture(scope="module")
def shared_place(
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


@pytest.fixture
def place(shared_place: Place) -> Iterator[Place]:
    shared_place.proxy.hold_each(HOLD)
    yield shared_place
    shared_place.proxy.hold_no_more()
    shared_place.proxy.speed_up()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Rows:
    """How many files the service has, by its own books: parts go with the file that they became."""

    place: Place
    before: int

    @classmethod
    def now(cls, place: Place) -> "Rows":
        return cls(place, cls._count(place))

    def assert_came(self, count: int) -> None:
        assert self._count(self.place) - self.before == count

    @staticmethod
    def _count(place: Place) -> int:
        ((count,),) = place.server.rows("SELECT count(*) FROM uploads")
        return int(count)


@pytest.mark.parametrize("way", ["cut", "stop", "kill"])
def test_tus_js_client_goes_on_behind_nginx(
    way: str, place: Place, clip: Path, tmp_path: Path
) -> None:
    content = clip.read_bytes()
    cases = [(client, name) for client in CLIENTS for name in CHOSEN]
    parts = [parts_of(name) for _, name in cases]
    rows = Rows.now(place)
    interruption = Interruption(place.server, place.proxy, parts=sum(parts))
    with Scenarios(tmp_path) as node:
        sending = Sending(node, place.proxy, clip, BEARER)
        for client, name in cases:
            sending.start(client, name)
        interruption.wait(seconds=60)
        # nginx is not restarted: it answers for the service while that is away.
        interrupt(place.server, place.proxy, way, interruption)
        found = list(sending.finish())
    for name, told, heads in found:
        place.assert_is_there(told.success["url"], told.success["headers"], content)
        assert_as_chosen(name, told, heads)
    interruption.assert_went_on()
    rows.assert_came(len(cases))
    assert not [e for _, told, _ in found for e in told.of("response") if e["status"] >= 500]


@pytest.mark.parametrize("way", WAYS)
def test_uppy_and_tus_js_client_in_a_browser_go_on_behind_nginx(
    way: str, place: Place, browser: Browser, clip: Path
) -> None:
    """The page is of another origin: what nginx answers itself it cannot read, and asks again."""
    rows = Rows.now(place)
    interruption = Interruption(place.server, place.proxy, parts=5)
    chosen = {"endpoint": place.endpoint, "headers": BEARER, "retryDelays": PATIENT}
    by_fetch = {"alone": True, "fetch": True}
    browser.fresh()
    browser.choose(clip)
    browser.start("uploadByUppy", chosen)
    in_chunks = {"chunkSize": 256 * KIB, "endpoint": place.endpoint.removesuffix("/")}
    browser.start("uploadByUppy", chosen | in_chunks, {}, {"id": "in chunks"})
    browser.start("uploadByTusFive", chosen, by_fetch)
    browser.start("uploadByTus", chosen | {"parallelUploads": 2}, {"alone": True})
    interruption.wait(seconds=60)
    interrupt(place.server, place.proxy, way, interruption)
    for success in browser.wait_for("success", 4, seconds=90):
        place.assert_is_there(success["url"], {}, clip.read_bytes())
    interruption.assert_went_on()
    rows.assert_came(4)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("way", WAYS)
async def test_tuspy_and_aiotus_go_on_behind_nginx(way: str, place: Place, clip: Path) -> None:
    content = await asyncio.to_thread(clip.read_bytes)
    rows = Rows.now(place)
    senders = [
        python_clients.uploader(place.endpoint, BEARER, content, **how)
        for how in python_clients.TUSPY.values()
    ]
    interruption = Interruption(place.server, place.proxy, parts=len(senders) + 5)
    async with asyncio.TaskGroup() as tasks:
        for sender in senders:
            tasks.create_task(asyncio.to_thread(sender.upload))
        sending = [tasks.create_task(work) for work in by_aiotus(place, content)]
        await asyncio.to_thread(interruption.wait, None, 60)
        await asyncio.to_thread(interrupt, place.server, place.proxy, way, interruption)
    urls = [python_clients.url_of(sender) for sender in senders]
    *one, of_three = [str(task.result()) for task in sending]
    for url in (*urls, *one):
        await asyncio.to_thread(place.assert_is_there, url, {}, content)
    await asyncio.to_thread(place.assert_is_there, of_three, {}, content * 3)
    interruption.assert_went_on()
    rows.assert_came(len(senders) + 3)


def by_aiotus(place: Place, content: bytes) -> list[Coroutine[Any, Any, Any]]:
    """Two files, in pieces and in one, and one of three parts."""
    chunks = (1024 * KIB, len(content))
    return [
        *(python_clients.send_by_aiotus(place.endpoint, BEARER, content, size) for size in chunks),
        python_clients.send_parts_by_aiotus(place.endpoint, BEARER, content),
    ]


def test_a_final_of_a_hundred_parts_comes_through_nginx(place: Place) -> None:
    """Its header names all of them, in the request and in what HEAD answers."""
    with httpx.Client(
        base_url=place.proxy.url, headers=BEARER | TUS, timeout=60, verify=PLAIN
    ) as http:
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
