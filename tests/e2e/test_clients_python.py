"""tuspy and aiotus as their users use them, behind a key, over cut lines and restarts."""

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import aiotus
import pytest
import yarl
from aiotus import core
from tusclient.client import TusClient
from tusclient.uploader.uploader import Uploader

from tests.e2e import python_clients
from tests.e2e.harness import Server
from tests.e2e.proxy import Proxy
from tests.e2e.python_clients import EAGER, ENCODED, METADATA, TUSPY, url_of
from tests.e2e.resumed import Interruption, assert_is_there, restart_while_held

MIB = 1024 * 1024
KIB = 1024
HOLD = 2 * MIB + 700 * KIB
KEY = "a-key-for-the-tests-of-clients"
BEARER = {"Authorization": f"Bearer {KEY}"}


@dataclass(frozen=True, slots=True)
class Place:
    """A service that asks for a key, and the line to it, which is its public address."""

    server: Server
    proxy: Proxy

    @property
    def endpoint(self) -> str:
        return f"{self.proxy.url}/files/"

    def cut(self) -> None:
        self.proxy.cut_all()
        self.proxy.let_go()

    @contextmanager
    def sending(self, work: Callable[[], Any]) -> Iterator[None]:
        """Send in a thread beside the block, and to the end."""
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(work)
            try:
                yield
            finally:
                self.proxy.let_go()
            running.result(60)

    def assert_is_there(self, url: str, content: bytes) -> None:
        assert_is_there(self.server, url, {}, content, BEARER)


@pytest.fixture
def place(shared_place: Place) -> Iterator[Place]:
    yield shared_place
    shared_place.proxy.hold_no_more()
    shared_place.proxy.speed_up()


@pytest.fixture(scope="module")
def shared_place(
    make_own_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    key_file = folder / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    server = make_own_server({"ADMIN_KEY_FILE": key_file, "DRAIN_SECONDS": "1"})
    with Proxy(server.port) as proxy:
        # aiotus cannot resolve a Location that is a path: behind a public address it is a URL.
        server.start({"PUBLIC_URL": proxy.url})
        yield Place(server, proxy)


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(4 * MIB)


# --- tuspy -------------------------------------------------------------------------------------------


def uploader(place: Place, content: bytes, **more: Any) -> Uploader:
    return python_clients.uploader(place.endpoint, BEARER, content, **more)


def send_chunk(sender: Uploader) -> None:
    sender.upload_chunk()  # type: ignore[no-untyped-call]


SCRIPT = """
import sys
from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage
endpoint, key, path, storage = sys.argv[1:]
client = TusClient(endpoint, headers={"Authorization": f"Bearer {key}"})
uploader = client.uploader(path, chunk_size=2**20, store_url=True, url_storage=FileStorage(storage))
begin = uploader.offset
uploader.upload()
print(begin, uploader.url)
"""


@pytest.mark.parametrize("how", TUSPY)
def test_tuspy_goes_on_after_a_cut(how: str, place: Place, content: bytes) -> None:
    cut = Interruption(place.server, place.proxy)
    place.proxy.hold_each(HOLD)
    sender = uploader(place, content, **TUSPY[how])
    with place.sending(sender.upload):
        cut.wait()
        place.cut()
    place.assert_is_there(url_of(sender), content)
    cut.assert_went_on()


def test_tuspy_finds_the_address_that_it_stored(
    place: Place, content: bytes, tmp_path: Path
) -> None:
    """In processes of their own, as when a machine was switched off: tuspy leaves its files open."""
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(content)

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, place.endpoint, KEY, clip, tmp_path / "urls.json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout if done.returncode == 0 else done.stderr

    cut = Interruption(place.server, place.proxy)
    place.proxy.hold_each(HOLD)
    told = []
    with place.sending(lambda: told.append(run())):
        cut.wait()
        place.cut()
    assert "TusUploadFailed" in told[0]
    offset, url = run().split()
    assert int(offset) >= 2 * MIB
    place.assert_is_there(url, content)
    cut.assert_went_on()


def test_tuspy_goes_on_at_an_address_that_it_is_given(place: Place, content: bytes) -> None:
    first = uploader(place, content, chunk_size=MIB)
    send_chunk(first)
    second = uploader(place, content, url=first.url)
    assert second.offset == MIB
    second.upload()
    place.assert_is_there(url_of(second), content)


@pytest.mark.parametrize("checked", [False, True])
def test_tuspy_uploads_an_empty_file(checked: bool, place: Place) -> None:
    sender = uploader(place, b"", upload_checksum=checked)
    sender.upload()
    place.assert_is_there(url_of(sender), b"")


async def test_tuspy_uploads_from_a_coroutine(place: Place, content: bytes) -> None:
    client = TusClient(place.endpoint, headers=BEARER)
    sender = client.async_uploader(
        file_stream=io.BytesIO(content), chunk_size=MIB, metadata=METADATA, upload_checksum=True
    )
    await sender.upload()
    await asyncio.to_thread(place.assert_is_there, url_of(sender), content)


# --- aiotus ------------------------------------------------------------------------------------------


def by_aiotus(place: Place, content: bytes, chunk: int) -> Coroutine[Any, Any, Any]:
    return python_clients.send_by_aiotus(place.endpoint, BEARER, content, chunk)


def parts_by_aiotus(place: Place, content: bytes) -> Coroutine[Any, Any, Any]:
    return python_clients.send_parts_by_aiotus(place.endpoint, BEARER, content)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("chunk", [256 * KIB, 4 * MIB])
async def test_aiotus_goes_on_after_a_cut(chunk: int, place: Place, content: bytes) -> None:
    cut = Interruption(place.server, place.proxy)
    place.proxy.hold_each(HOLD)
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(by_aiotus(place, content, chunk))
        await asyncio.to_thread(cut.wait)
        place.cut()
    url = sending.result()
    await asyncio.to_thread(place.assert_is_there, str(url), content)
    cut.assert_went_on()
    assert await aiotus.metadata(url, None, EAGER, BEARER) == ENCODED


async def test_aiotus_makes_one_file_of_parts_over_a_cut_line(place: Place, content: bytes) -> None:
    cut = Interruption(place.server, place.proxy, parts=3)
    place.proxy.hold_each(HOLD)
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(parts_by_aiotus(place, content))
        await asyncio.to_thread(cut.wait)
        place.cut()
    url = sending.result()
    await asyncio.to_thread(place.assert_is_there, str(url), content * 3)
    cut.assert_went_on()
    assert await aiotus.metadata(url, None, EAGER, BEARER) == ENCODED


async def test_aiotus_goes_on_at_an_address_of_another_client(place: Place, content: bytes) -> None:
    first = uploader(place, content, chunk_size=MIB)
    await asyncio.to_thread(send_chunk, first)
    location = yarl.URL(url_of(first))
    async with aiohttp.ClientSession() as session:
        assert await core.offset(session, location, headers=BEARER) == MIB
        await core.upload_buffer(
            session, location, io.BytesIO(content), chunksize=MIB, headers=BEARER
        )
    await asyncio.to_thread(place.assert_is_there, url_of(first), content)


async def test_aiotus_reads_what_the_service_can_do(place: Place) -> None:
    async with aiohttp.ClientSession() as session:
        found = await core.configuration(session, yarl.URL(place.endpoint))
    assert found.protocol_versions == ["1.0.0"]
    assert found.max_size
    assert {"creation", "concatenation", "checksum", "termination"} <= set(
        found.protocol_extensions
    )


# --- both --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_all_of_them_survive_a_restart(way: str, place: Place, content: bytes) -> None:
    """All at once: a restart costs most of the time."""
    senders = [uploader(place, content, **how) for how in TUSPY.values()]
    restart = Interruption(place.server, place.proxy, parts=len(senders) + 5)
    place.proxy.hold_each(HOLD)
    async with asyncio.TaskGroup() as tasks:
        for sender in senders:
            tasks.create_task(asyncio.to_thread(sender.upload))
        sending = [tasks.create_task(by_aiotus(place, content, chunk)) for chunk in (MIB, 4 * MIB)]
        joining = tasks.create_task(parts_by_aiotus(place, content))
        await asyncio.to_thread(restart.wait, None, 60)
        await asyncio.to_thread(restart_while_held, place.server, place.proxy, way, restart)
    urls = [url_of(sender) for sender in senders] + [str(task.result()) for task in sending]
    for url in urls:
        await asyncio.to_thread(place.assert_is_there, url, content)
    await asyncio.to_thread(place.assert_is_there, str(joining.result()), content * 3)
    restart.assert_went_on()
