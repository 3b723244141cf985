"""tus-js-client of both versions: what it stores, aborts, terminates and is refused, over cut lines."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Server, wait_for
from tests.e2e.node import CLIENTS, Scenarios, Told
from tests.e2e.proxy import Proxy
from tests.e2e.resumed import Interruption, assert_is_there, new_uploads, stored_bytes
from tests.e2e.wire import TUS, create, open_session, patch

MIB = 1024 * 1024
KIB = 1024
HOLD = 700 * KIB
"""More than is ever kept in memory, less than the smallest part."""
PATIENT = [0, 50, 100, 200, 400, 800, 1600, 3200, 3200]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenarios]:
    with Scenarios(tmp_path_factory.mktemp("node")) as scenarios:
        yield scenarios


@dataclass(frozen=True, slots=True)
class Clip:
    path: Path
    content: bytes


def _clip(folder: Path, size: int) -> Clip:
    content = os.urandom(size)
    path = folder / "clip.mp4"
    path.write_bytes(content)
    return Clip(path, content)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return _clip(tmp_path_factory.mktemp("clip"), 4 * MIB)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return _clip(tmp_path_factory.mktemp("empty"), 0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return _clip(tmp_path_factory.mktemp("tiny"), 150)


def wish(client: str, url: str, clip: Clip, **more: Any) -> dict[str, Any]:
    return {
        "client": client,
        "endpoint": f"{url}/files/",
        "file": str(clip.path),
        "metadata": {"filename": "clip ü.mp4", "filetype": "video/mp4"},
        "retryDelays": PATIENT,
        **more,
    }


@pytest.mark.parametrize("client", CLIENTS)
def test_chunks_of_seven_bytes_arrive_in_order_over_a_cut_line(
    client: str, shared_server: Server, node: Scenarios, tiny: Clip
) -> None:
    with Proxy(shared_server.port, cut_after=[4000]) as proxy:
        told = node.run(wish(client, proxy.url, tiny, chunkSize=7))
        assert proxy.cuts == 1
    assert_there(shared_server, told, tiny.content)
    assert len([head for head in proxy.heads if head.creates]) == 1
    accepted = [h.offset for h in proxy.heads if h.asked == "PATCH" and h.status == 204]
    assert accepted == sorted(set(accepted))


@pytest.mark.parametrize("kind", ["path", "buffer", "stream"])
@pytest.mark.parametrize("client", CLIENTS)
def test_an_empty_file_is_a_batch_at_once(
    client: str, kind: str, shared_server: Server, node: Scenarios, empty: Clip
) -> None:
    more: dict[str, Any] = {"input": kind}
    if kind == "stream":
        more |= {"chunkSize": KIB, "options": {"uploadSize": 0}}
    told = node.run(wish(client, shared_server.url, empty, **more))
    assert_there(shared_server, told, b"")
    assert [event["method"] for event in told.of("request")] == ["POST"]


@pytest.mark.parametrize("chunk", [None, 64 * KIB, MIB])
@pytest.mark.parametrize("client", CLIENTS)
def test_the_first_bytes_may_come_with_the_creation(
    client: str, chunk: int | None, shared_server: Server, node: Scenarios, clip: Clip
) -> None:
    more = {"chunkSize": chunk} if chunk else {}
    told = node.run(wish(client, shared_server.url, clip, uploadDataDuringCreation=True, **more))
    assert_there(shared_server, told, clip.content)
    methods = [event["method"] for event in told.of("request")]
    assert methods.count("POST") == 1
    assert len(methods) == (1 if chunk is None else len(clip.content) // chunk)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_creation_whose_bytes_break_off_leaves_nothing_behind(
    client: str, shared_server: Server, node: Scenarios, clip: Clip
) -> None:
    before = stored_bytes(shared_server)
    with Proxy(shared_server.port, cut_after=[2 * MIB]) as proxy:
        told = node.run(wish(client, proxy.url, clip, uploadDataDuringCreation=True))
        assert proxy.cuts == 1
    assert_there(shared_server, told, clip.content)
    made = told.success["url"].rsplit("/", 1)[-1]
    wait_for(lambda: set(new_uploads(shared_server, before)) == {made}, "one new upload")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_stored_address_is_gone_on_from_by_another_process(
    client: str, shared_server: Server, node: Scenarios, clip: Clip, tmp_path: Path
) -> None:
    kept = str(tmp_path / "urls.json")
    with Proxy(shared_server.port, hold_each_at=HOLD) as proxy:
        cut = Interruption(shared_server, proxy)
        giving_up = wish(client, proxy.url, clip, urlStorage=kept) | {"retryDelays": None}
        running = node.start(giving_up | {"options": {"retryDelays": None}})
        cut.wait(running)
        proxy.cut_all()
        proxy.let_go()
        assert running.finish().error["status"] == 0
        told = node.run(wish(client, proxy.url, clip, urlStorage=kept))
    assert told.of("previous")[0]["count"] == 1
    assert_there(shared_server, told, clip.content)
    cut.assert_went_on()
    # Removed with the success, so that the same file uploaded again is another upload.
    again = node.run(wish(client, shared_server.url, clip, urlStorage=kept))
    assert again.of("previous")[0]["count"] == 0
    assert again.success["url"] != told.success["url"]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_fingerprint_of_its_own_finds_a_file_that_was_moved(
    client: str, shared_server: Server, node: Scenarios, clip: Clip, tmp_path: Path
) -> None:
    kept = {"own": ["fingerprint"], "urlStorage": str(tmp_path / "urls.json")}
    moved = Clip(tmp_path / "moved.mp4", clip.content)
    moved.path.write_bytes(clip.content)
    with Proxy(shared_server.port, hold_each_at=HOLD) as proxy:
        cut = Interruption(shared_server, proxy)
        running = node.start(wish(client, proxy.url, clip, **kept, options={"retryDelays": None}))
        cut.wait(running)
        proxy.cut_all()
        proxy.let_go()
        assert running.finish().error["status"] == 0
        told = node.run(wish(client, proxy.url, moved, **kept))
    assert told.of("previous")[0]["count"] == 1
    assert_there(shared_server, told, clip.content)
    cut.assert_went_on()


@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_kept_after_success_finds_the_finished_upload_and_its_batch(
    client: str, shared_server: Server, node: Scenarios, tiny: Clip, tmp_path: Path
) -> None:
    wanted = wish(client, shared_server.url, tiny, urlStorage=str(tmp_path / "urls.json"))
    wanted["options"] = {"removeFingerprintOnSuccess": False}
    first, second = node.run(wanted), node.run(wanted)
    assert second.of("previous")[0]["count"] == 1
    assert second.success["url"] == first.success["url"]
    assert [event["method"] for event in second.of("request")] == ["HEAD"]
    (head,) = second.of("response")
    assert head["headers"]["Tidemill-Batch"] == first.success["headers"]["Tidemill-Batch"]


@pytest.mark.parametrize("parallel", [1, 2])
@pytest.mark.parametrize("client", CLIENTS)
def test_parallel_parts_are_found_again_in_the_storage(
    client: str, parallel: int, shared_server: Server, node: Scenarios, clip: Clip, tmp_path: Path
) -> None:
    """With ``parallel`` 1 the parts of the storage decide, whatever the option says now."""
    kept = str(tmp_path / "urls.json")
    with Proxy(shared_server.port, hold_each_at=HOLD) as proxy:
        cut = Interruption(shared_server, proxy, parts=2)
        options = {"parallelUploads": 2, "retryDelays": None}
        running = node.start(wish(client, proxy.url, clip, urlStorage=kept, options=options))
        cut.wait(running)
        proxy.cut_all()
        proxy.let_go()
        assert running.finish().exit_code == 1
        options = {"parallelUploads": parallel}
        told = node.run(wish(client, proxy.url, clip, urlStorage=kept, options=options))
    assert told.of("previous")[0]["count"] == 1
    assert_there(shared_server, told, clip.content)
    cut.assert_went_on()


@pytest.mark.parametrize("client", CLIENTS)
def test_an_upload_url_is_gone_on_from_without_an_endpoint(
    client: str, shared_server: Server, node: Scenarios, clip: Clip
) -> None:
    with shared_server.client() as http:
        path = create(http, len(clip.content), filename="clip.mp4")
        assert patch(http, path, 0, clip.content[:MIB]).status_code == 204
    url = f"{shared_server.url}{path}"
    told = node.run(wish(client, shared_server.url, clip, uploadUrl=url) | {"endpoint": None})
    assert told.success["url"] == url
    assert told.patch_offsets == [MIB]
    assert_there(shared_server, told, clip.content)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_stored_address_that_was_deleted_is_left_for_a_new_upload(
    client: str, shared_server: Server, node: Scenarios, tiny: Clip
) -> None:
    """Termination makes it 404, a deleted session 410: both mean to begin anew."""
    with shared_server.client() as http:
        terminated = create(http, len(tiny.content))
        assert http.delete(terminated, headers=TUS).status_code == 204
        session = open_session(http)
        deleted = create(http, len(tiny.content), session=session)
        assert http.delete(f"/api/v1/upload/{session}").is_success
        for path, status in ((terminated, 404), (deleted, 410)):
            url = f"{shared_server.url}{path}"
            told = node.run(wish(client, shared_server.url, tiny, uploadUrl=url))
            assert told.of("response")[0]["status"] == status
            assert told.of("success")[0]["url"] != url


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_pressed_pause_button_and_start_again(
    client: str, parallel: int, shared_server: Server, node: Scenarios, clip: Clip
) -> None:
    with Proxy(shared_server.port, bytes_per_second=3 * MIB) as proxy:
        before = stored_bytes(shared_server)
        running = node.start(
            wish(
                client,
                proxy.url,
                clip,
                chunkSize=256 * KIB,
                abort={"after": MIB, "again": True},
                options={"parallelUploads": parallel},
            )
        )
        running.wait_for("aborted")
        proxy.speed_up()
        told = running.finish()
    assert_there(shared_server, told, clip.content)
    assert len([head for head in proxy.heads if head.creates]) == parallel
    made = told.success["url"].rsplit("/", 1)[-1]
    wait_for(lambda: set(new_uploads(shared_server, before)) == {made}, "the one file")


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("client", CLIENTS)
def test_an_abort_that_terminates_leaves_nothing_on_the_server(
    client: str, parallel: int, shared_server: Server, node: Scenarios, clip: Clip, tmp_path: Path
) -> None:
    kept = tmp_path / "urls.json"
    before = stored_bytes(shared_server)
    with Proxy(shared_server.port, bytes_per_second=3 * MIB) as proxy:
        running = node.start(
            wish(
                client,
                proxy.url,
                clip,
                urlStorage=str(kept),
                chunkSize=256 * KIB,
                abort={"after": MIB, "terminate": True},
                options={"parallelUploads": parallel},
            )
        )
        running.wait_for("aborted")
        # 4.x does not wait for the ends of its parts, and Node would die of one that never comes.
        wait_for(
            lambda: [e["method"] for e in running.of("response")].count("DELETE") == parallel,
            "the answers",
        )
        wait_for(lambda: not new_uploads(shared_server, before), "nothing to be left")
    ids = {head.upload_id for head in proxy.heads if head.asked == "DELETE"}
    assert len(ids) == parallel
    with shared_server.client() as http:
        for upload_id in ids:
            assert http.head(f"/files/{upload_id}", headers=TUS).status_code == 404
            assert http.get(f"/api/v1/uploads/{upload_id}").status_code == 410
    assert parallel > 1 or kept.read_text() == "{}"


@pytest.mark.parametrize("client", CLIENTS)
def test_terminate_as_a_function(
    client: str, shared_server: Server, node: Scenarios, clip: Clip
) -> None:
    with shared_server.client() as http:
        path = create(http, len(clip.content))
        patch(http, path, 0, clip.content[:MIB])
        url = f"{shared_server.url}{path}"
        assert node.run({"client": client, "terminate": url}).of("terminated")
        assert http.head(path, headers=TUS).status_code == 404
        again = node.run({"client": client, "terminate": url, "retryDelays": [0]})
        assert "404" in again.error["message"]
        assert len(again.of("request")) == 1, "a 404 cannot be cured by asking again"
        finished = node.run(wish(client, shared_server.url, clip)).success["url"]
        refused = node.run({"client": client, "terminate": finished})
        assert "upload_in_batch" in refused.error["message"]
        assert http.head(finished, headers=TUS).status_code == 200
    assert path.rsplit("/", 1)[-1] not in stored_bytes(shared_server)


@pytest.mark.parametrize("protocol", ["ietf-draft-03", "ietf-draft-05"])
@pytest.mark.parametrize("client", CLIENTS)
def test_another_protocol_is_refused_and_nothing_is_made(
    client: str, protocol: str, shared_server: Server, node: Scenarios, tiny: Clip
) -> None:
    before = stored_bytes(shared_server)
    for more in ({}, {"uploadDataDuringCreation": True}):
        told = node.run(
            wish(client, shared_server.url, tiny, options={"protocol": protocol}, **more)
        )
        assert told.error["status"] == 412
        assert json.loads(told.error["body"])["code"] == "tus_version_unsupported"
        assert len(told.of("request")) == 1
    assert not new_uploads(shared_server, before)


@pytest.mark.parametrize("client", CLIENTS)
def test_request_ids_and_headers_of_the_page_come_through(
    client: str, shared_server: Server, node: Scenarios, tiny: Clip
) -> None:
    with Proxy(shared_server.port) as proxy:
        told = node.run(
            wish(
                client,
                proxy.url,
                tiny,
                headers={"X-Requested-With": "the page"},
                options={"addRequestId": True, "overridePatchMethod": True},
            )
        )
    assert_there(shared_server, told, tiny.content)
    sent = [event["id"] for event in told.of("request")]
    assert sent == [event["headers"]["X-Request-ID"] for event in told.of("response")]
    assert len(set(sent)) == 2
    assert all(head.headers["x-requested-with"] == "the page" for head in proxy.heads)
    assert [(head.method, head.asked) for head in proxy.heads] == [
        ("POST", "POST"),
        ("POST", "PATCH"),
    ]


@pytest.mark.parametrize("client", CLIENTS)
def test_what_a_page_retries_is_its_own_choice(
    client: str, shared_server: Server, node: Scenarios, clip: Clip
) -> None:
    for choice, is_there in (("never", False), ("always", True)):
        with Proxy(shared_server.port, cut_after=[MIB]) as proxy:
            told = node.run(wish(client, proxy.url, clip, onShouldRetry=choice))
            assert proxy.cuts == 1
        assert [event["status"] for event in told.of("asked")][:1] == [0]
        assert bool(told.of("success")) is is_there


@pytest.mark.parametrize("client", CLIENTS)
def test_an_upload_without_any_metadata_is_resumed_too(
    client: str, shared_server: Server, node: Scenarios, clip: Clip
) -> None:
    with Proxy(shared_server.port, cut_after=[2 * MIB]) as proxy:
        told = node.run(wish(client, proxy.url, clip) | {"metadata": {}})
        assert proxy.cuts == 1
    assert_there(shared_server, told, clip.content)
    assert len([head for head in proxy.heads if head.creates]) == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_many_uploads_at_once_fill_one_session_and_one_answer_names_its_batch(
    client: str, shared_server: Server, node: Scenarios, clip: Clip
) -> None:
    with shared_server.client() as http:
        session = open_session(http, expected_files=4)
    with Proxy(shared_server.port, hold_each_at=HOLD) as proxy:
        cut = Interruption(shared_server, proxy, parts=4)
        metadata = {"filename": "clip.mp4", "session": session}
        runs = [
            node.start(wish(client, proxy.url, clip) | {"metadata": metadata}) for _ in range(4)
        ]
        cut.cut_once_held()
        told = [run.finish() for run in runs]
    batches = {one.success["headers"].get("Tidemill-Batch") for one in told} - {None}
    assert len(batches) == 1
    for one in told:
        assert_is_there(shared_server, one.success["url"], {}, clip.content)
    cut.assert_went_on()


def assert_there(server: Server, told: Told, content: bytes) -> None:
    assert_is_there(server, told.success["url"], told.success["headers"], content)
