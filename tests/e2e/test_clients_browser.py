"""Uppy and tus-js-client in a real Chromium, from a page of another origin, in bad weather."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import Browser
from tests.e2e.harness import Server, wait_for
from tests.e2e.proxy import Proxy
from tests.e2e.resumed import (
    Interruption,
    assert_is_there,
    new_uploads,
    restart_while_held,
    stored_bytes,
)
from tests.e2e.wire import await_job

MIB = 1024 * 1024
HOLD = 700 * 1024
"""More than is ever kept in memory, less than the smallest part."""
PATIENT = [0, 100, 200, 500, *[1000] * 40]
SENDERS = ("uploadByTus", "uploadByUppy")
KEPT = "Object.keys(localStorage).filter(key => key.startsWith('tus::')).length"
"""How many uploads the page remembers."""
THEN = {"operation": "trim", "params": {"start": 0, "end": 1}}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip ü.mp4"
    path.write_bytes(os.urandom(6 * MIB))
    return path


def options(url: str, **more: Any) -> dict[str, Any]:
    return {"endpoint": f"{url}/files/", "retryDelays": PATIENT, **more}


def assert_told(success: dict[str, Any], server: Server, content: bytes) -> None:
    """The page was told the batch, in which is the file with these bytes."""
    last = success["last"] or {}
    names = {"upload": "Tidemill-Upload", "batch": "Tidemill-Batch"}
    headers = {header: last[name] for name, header in names.items() if last}
    assert_is_there(server, success["url"], headers, content)


@pytest.mark.parametrize("sender", SENDERS)
def test_a_cut_in_the_middle_is_gone_on_from(
    sender: str, shared_server: Server, browser: Browser, clip: Path
) -> None:
    with Proxy(shared_server.port, hold_each_at=HOLD) as proxy:
        cut = Interruption(shared_server, proxy)
        assert browser.fresh() != proxy.url
        browser.choose(clip)
        browser.start(sender, options(proxy.url))
        cut.wait()
        proxy.cut_all()
        proxy.let_go()
        (success,) = browser.wait_for("success")
    assert_told(success, shared_server, clip.read_bytes())
    cut.assert_went_on()
    assert browser.evaluate(KEPT) == 0


@pytest.mark.parametrize("sender", SENDERS)
def test_after_a_reload_of_the_page_the_same_file_goes_on(
    sender: str, shared_server: Server, browser: Browser, clip: Path
) -> None:
    with Proxy(shared_server.port, hold_each_at=HOLD) as proxy:
        reload = Interruption(shared_server, proxy)
        browser.fresh()
        browser.choose(clip)
        browser.start(sender, options(proxy.url))
        reload.wait()
        browser.reload()
        proxy.let_go()
        assert browser.told() == []
        assert browser.evaluate(KEPT) == 1
        browser.choose(clip)
        browser.start(sender, options(proxy.url))
        (success,) = browser.wait_for("success")
    assert_told(success, shared_server, clip.read_bytes())
    reload.assert_went_on()
    assert browser.evaluate(KEPT) == 0


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_restart_of_the_service_costs_the_page_nothing(
    way: str, own_server: Server, browser: Browser, clip: Path
) -> None:
    """Uppy, tus-js-client and its parallel parts at once: a restart costs most of the time."""
    with Proxy(own_server.port, hold_each_at=HOLD) as proxy:
        restart = Interruption(own_server, proxy, parts=4)
        browser.fresh()
        browser.choose(clip)
        for sender in SENDERS:
            browser.start(sender, options(proxy.url))
        browser.start("uploadByTus", options(proxy.url, parallelUploads=2))
        restart.wait()
        restart_while_held(own_server, proxy, way, restart)
        found = browser.wait_for("success", 3, seconds=90)
    for success in found:
        assert_told(success, own_server, clip.read_bytes())
    restart.assert_went_on()


@pytest.mark.parametrize("parts", [2, 4])
def test_parallel_parts_survive_a_cut_too(
    parts: int, shared_server: Server, browser: Browser, clip: Path
) -> None:
    with Proxy(shared_server.port, hold_each_at=HOLD) as proxy:
        cut = Interruption(shared_server, proxy, parts=parts)
        browser.fresh()
        browser.choose(clip)
        browser.start("uploadByTus", options(proxy.url, parallelUploads=parts))
        cut.wait()
        proxy.cut_all()
        proxy.let_go()
        (success,) = browser.wait_for("success")
    assert_told(success, shared_server, clip.read_bytes())
    cut.assert_went_on()


def test_uppy_puts_many_files_into_one_session_and_learns_of_its_batch(
    shared_server: Server, browser: Browser, short_clip: Path, tmp_path: Path
) -> None:
    clips = []
    for number in range(5):
        clips.append(tmp_path / f"clip {number}.mp4")
        clips[-1].write_bytes(short_clip.read_bytes())
    content = {path.name: path.read_bytes() for path in clips}
    total = sum(map(len, content.values()))
    with Proxy(shared_server.port, hold_at=[total // 3, total // 3 * 2]) as proxy:
        browser.fresh()
        session = browser.evaluate(
            f"openSession({json.dumps(proxy.url)}, {json.dumps({'expected_files': 5, 'then': THEN})})"
        )
        browser.choose(*clips)
        browser.start("uploadByUppy", options(proxy.url, limit=2), {"session": session})
        for _ in range(2):
            wait_for(lambda: proxy.is_holding and not proxy.is_creating, "bytes to be held")
            proxy.cut_all()
            proxy.let_go()
        assert browser.wait_for("complete")[0]["failed"] == 0
    found = browser.told("success")
    assert len(found) == 5
    # Only the response that filled the session could name its batch, or the HEAD after a lost one.
    (batch_id,) = {one["last"]["batch"] for one in found if one["last"]["batch"]}
    with shared_server.client() as http:
        batch = http.get(f"/api/v1/batches/{batch_id}").json()
        assert {file["filename"] for file in batch["files"]} == set(content)
        told = {job for one in found for job in (one["last"]["jobs"] or "").split(",") if job}
        assert len(told) == 5
        for file in batch["files"]:
            assert http.get(f"/files/{file['id']}").content == content[file["filename"]]
        for job_id in told:
            assert await_job(http, job_id)["status"] == "completed"


def test_uppy_cancels_and_nothing_is_left(
    shared_server: Server, browser: Browser, clip: Path
) -> None:
    before = stored_bytes(shared_server)
    with Proxy(shared_server.port, bytes_per_second=2 * MIB) as proxy:
        browser.fresh()
        browser.choose(clip)
        browser.start("uploadByUppy", options(proxy.url))
        wait_for(lambda: any(new_uploads(shared_server, before).values()), "some bytes")
        browser.evaluate("uppy.cancelAll()")
        wait_for(lambda: not new_uploads(shared_server, before), "nothing to be left")
        proxy.speed_up()


@pytest.mark.parametrize("protocol", ["ietf-draft-03", "ietf-draft-05"])
def test_another_protocol_is_refused_so_that_the_page_can_read_why(
    protocol: str, shared_server: Server, browser: Browser, clip: Path
) -> None:
    before = stored_bytes(shared_server)
    browser.fresh()
    browser.choose(clip)
    browser.start("uploadByTus", options(shared_server.url, protocol=protocol))
    (error,) = browser.wait_for("error")
    assert error["status"] == 412
    assert not new_uploads(shared_server, before)
