"""Uppy and tus-js-client in a real Chromium, from a page of another origin, in bad weather."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
from tests.e2e.wire import TUS, await_job, encode_metadata

MIB = 1024 * 1024
HOLD = 700 * 1024
"""More than is ever kept in memory, less than the smallest part."""
PATIENT = [0, 100, 200, 500, *[1000] * 40]
TUS_JS = ("uploadByTus", "uploadByTusFive")
UPPY = "uploadByUppy"
SENDERS = (*TUS_JS, UPPY)
PAUSE = dict.fromkeys(TUS_JS, "upload.abort()") | {UPPY: "uppy.pauseAll()"}
RESUME = dict.fromkeys(TUS_JS, "upload.start()") | {UPPY: "uppy.resumeAll()"}
CHOSEN = {
    "chunkSize": 256 * 1024,
    "headers": {"X-Request-ID": "of-the-page"},
    "allowedMetaFields": ["name", "caption"],
}
META = {"caption": "a cat", "secret": "not to be sent"}
INPUT = ".uppy-Dashboard-input"
UPLOAD = ".uppy-StatusBar-actionBtn--upload"
RETRY = ".uppy-StatusBar-actionBtn--retry"
PAUSE_OR_RESUME = "[data-cy=togglePauseResume]"
CANCEL = "[data-cy=cancel]"
KEPT = "Object.keys(localStorage).filter(key => key.startsWith('tus::')).length"
"""How many uploads the page remembers."""
REMEMBERED = """indexedDB.databases().then(found => found.length > 0)"""
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


@contextmanager
def held_in(
    server: Server, browser: Browser, *, parts: int = 1
) -> Iterator[tuple[Proxy, Interruption]]:
    """A page of its own, and a line to ``server`` on which each upload is held in its middle."""
    with Proxy(server.port, hold_each_at=HOLD) as proxy:
        interruption = Interruption(server, proxy, parts=parts)
        assert browser.fresh() != proxy.url
        yield proxy, interruption


def options(url: str, **more: Any) -> dict[str, Any]:
    return {"endpoint": f"{url}/files/", "retryDelays": PATIENT} | more


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
    with held_in(shared_server, browser) as (proxy, cut):
        browser.choose(clip)
        browser.start(sender, options(proxy.url))
        cut.cut_once_held()
        (success,) = browser.wait_for("success")
    assert_told(success, shared_server, clip.read_bytes())
    cut.assert_went_on()
    assert browser.evaluate(KEPT) == 0


@pytest.mark.parametrize("is_paused", [False, True])
@pytest.mark.parametrize("sender", SENDERS)
def test_after_a_reload_of_the_page_the_same_file_goes_on(
    sender: str, is_paused: bool, shared_server: Server, browser: Browser, clip: Path
) -> None:
    with held_in(shared_server, browser) as (proxy, reload):
        browser.choose(clip)
        browser.start(sender, options(proxy.url))
        reload.wait()
        if is_paused:
            browser.evaluate(f"void {PAUSE[sender]}")
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


@pytest.mark.parametrize("sender", SENDERS)
def test_what_is_paused_goes_on_when_it_is_resumed(
    sender: str, shared_server: Server, browser: Browser, clip: Path
) -> None:
    with held_in(shared_server, browser) as (proxy, pause):
        browser.choose(clip)
        browser.start(sender, options(proxy.url))
        pause.wait()
        browser.evaluate(f"void {PAUSE[sender]}")
        proxy.let_go()
        wait_for(lambda: not proxy.is_open, "its line to be given up")
        asked = len(proxy.heads)
        browser.evaluate(f"void {RESUME[sender]}")
        (success,) = browser.wait_for("success")
    assert_told(success, shared_server, clip.read_bytes())
    pause.assert_went_on()
    assert proxy.heads[asked].asked in {"HEAD", "OPTIONS"}


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_restart_of_the_service_costs_the_page_nothing(
    way: str, own_server: Server, browser: Browser, clip: Path
) -> None:
    """Uppy, tus-js-client 5 and parallel parts at once: a restart costs most of the time. A browser
    has six connections for them, one of which is needed to ask.
    """
    with held_in(own_server, browser, parts=5) as (proxy, restart):
        browser.choose(clip)
        browser.start(UPPY, options(proxy.url))
        # Another endpoint to it, so that it does not go on with the file of the one before.
        more = CHOSEN | {"endpoint": f"{proxy.url}/files"}
        browser.start(UPPY, options(proxy.url, **more), META, {"id": "chosen"})
        browser.start("uploadByTusFive", options(proxy.url), {"alone": True})
        by_fetch = {"alone": True, "fetch": True}
        browser.start("uploadByTusFive", options(proxy.url, parallelUploads=2), by_fetch)
        restart.wait()
        restart_while_held(own_server, proxy, way, restart)
        found = browser.wait_for("success", 4, seconds=90)
    for success in found:
        assert_told(success, own_server, clip.read_bytes())
    restart.assert_went_on()


@pytest.mark.parametrize(("sender", "parts"), [*zip(SENDERS, (4, 2, 3), strict=True)])
def test_parallel_parts_survive_a_cut_too(
    sender: str, parts: int, shared_server: Server, browser: Browser, clip: Path
) -> None:
    with held_in(shared_server, browser, parts=parts) as (proxy, cut):
        browser.choose(clip)
        more = {"fetch": True} if sender == "uploadByTusFive" else {}
        browser.start(sender, options(proxy.url, parallelUploads=parts), more)
        cut.cut_once_held()
        (success,) = browser.wait_for("success")
    assert_told(success, shared_server, clip.read_bytes())
    cut.assert_went_on()


def test_a_slice_of_a_file_and_a_body_of_fetch_survive_a_cut_too(
    shared_server: Server, browser: Browser, clip: Path
) -> None:
    content = clip.read_bytes()
    with held_in(shared_server, browser, parts=4) as (proxy, cut):
        browser.choose(clip)
        for sender in TUS_JS:
            a_slice = {"slice": [MIB, 3 * MIB], "alone": True}
            browser.start(sender, options(proxy.url), a_slice)
        for more in ({}, {"chunkSize": 256 * 1024}):
            by_fetch = {"fetch": True, "alone": True}
            browser.start("uploadByTusFive", options(proxy.url, **more), by_fetch)
        cut.cut_once_held()
        found = browser.wait_for("success", 4)
    sizes = {name: size for name, size in stored_bytes(shared_server).items() if name in cut.stored}
    assert sorted(sizes.values()) == [2 * MIB] * 2 + [len(content)] * 2
    for success in found:
        is_slice = sizes[success["url"].rpartition("/")[2]] == 2 * MIB
        assert_told(success, shared_server, content[MIB : 3 * MIB] if is_slice else content)
    cut.assert_went_on()


def test_uppy_sends_the_headers_the_fields_and_the_chunks_that_are_chosen(
    shared_server: Server, browser: Browser, clip: Path
) -> None:
    with held_in(shared_server, browser) as (proxy, cut):
        browser.choose(clip)
        browser.start(UPPY, options(proxy.url, **CHOSEN), META)
        cut.cut_once_held()
        (success,) = browser.wait_for("success")
    assert_told(success, shared_server, clip.read_bytes())
    cut.assert_went_on()
    heads = [head for head in proxy.heads if head.asked != "OPTIONS"]
    assert {head.headers["x-request-id"] for head in heads} == {"of-the-page"}
    assert max(head.body_bytes for head in heads) == 256 * 1024
    (created,) = [head for head in heads if head.creates]
    fields = {"name": clip.name, "caption": "a cat", "filename": clip.name}
    assert created.headers["upload-metadata"] == encode_metadata(fields)


def test_a_dashboard_is_retried_paused_and_resumed_by_its_buttons(
    own_server: Server, browser: Browser, clip: Path
) -> None:
    """Retried after the service was gone for longer than Uppy was told to wait."""
    with held_in(own_server, browser) as (proxy, held):
        browser.start("openDashboard", options(proxy.url, retryDelays=[]), {"may_fail": True})
        browser.choose(clip, into=INPUT)
        browser.click(UPLOAD)
        held.wait()
        own_server.kill()
        proxy.cut_all()
        proxy.hold_each(2 * HOLD)
        browser.wait_for("failed")
        held.look()
        own_server.start()
        browser.click(RETRY)
        wait_for(lambda: proxy.is_holding, "more bytes to be held")
        browser.click(PAUSE_OR_RESUME)
        proxy.let_go()
        wait_for(lambda: not proxy.is_open, "its line to be given up")
        browser.click(PAUSE_OR_RESUME)
        (success,) = browser.wait_for("success")
    assert_told(success, own_server, clip.read_bytes())
    held.assert_went_on()


def test_a_dashboard_remembers_its_files_over_a_reload(
    shared_server: Server, browser: Browser, clip: Path
) -> None:
    """With Golden Retriever, which keeps the file itself: nobody has to choose it again."""
    with held_in(shared_server, browser) as (proxy, reload):
        browser.start("openDashboard", options(proxy.url), {"retriever": True})
        browser.choose(clip, into=INPUT)
        browser.click(UPLOAD)
        reload.wait()
        browser.until(lambda: browser.evaluate(REMEMBERED), "the file to be remembered")
        browser.reload()
        proxy.let_go()
        browser.start("openDashboard", options(proxy.url), {"retriever": True})
        assert browser.wait_for("restored")[0]["files"] == 1
        browser.click(UPLOAD)
        (success,) = browser.wait_for("success")
    assert_told(success, shared_server, clip.read_bytes())
    reload.assert_went_on()


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
        browser.start(UPPY, options(proxy.url, limit=2), {"session": session})
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


@pytest.mark.parametrize("by_button", [False, True])
def test_uppy_cancels_and_nothing_is_left(
    by_button: bool, shared_server: Server, browser: Browser, clip: Path
) -> None:
    before = stored_bytes(shared_server)
    with Proxy(shared_server.port, bytes_per_second=2 * MIB) as proxy:
        browser.fresh()
        if by_button:
            browser.start("openDashboard", options(proxy.url))
            browser.choose(clip, into=INPUT)
            browser.click(UPLOAD)
        else:
            browser.choose(clip)
            browser.start(UPPY, options(proxy.url))
        wait_for(lambda: any(new_uploads(shared_server, before).values()), "some bytes")
        (upload_id,) = new_uploads(shared_server, before)
        if by_button:
            browser.click(CANCEL)
        else:
            browser.evaluate("uppy.cancelAll()")
        wait_for(lambda: not new_uploads(shared_server, before), "nothing to be left")
        proxy.speed_up()
    with shared_server.client() as http:
        assert http.head(f"/files/{upload_id}", headers=TUS).status_code == 404


@pytest.mark.parametrize("protocol", ["ietf-draft-03", "ietf-draft-05"])
@pytest.mark.parametrize("sender", TUS_JS)
def test_another_protocol_is_refused_so_that_the_page_can_read_why(
    sender: str, protocol: str, shared_server: Server, browser: Browser, clip: Path
) -> None:
    before = stored_bytes(shared_server)
    browser.fresh()
    browser.choose(clip)
    browser.start(sender, options(shared_server.url, protocol=protocol))
    (error,) = browser.wait_for("error")
    assert error["status"] == 412
    assert not new_uploads(shared_server, before)
