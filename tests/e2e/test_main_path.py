"""The first whole path with real clients: in by tus, cut off twice, trimmed frame-exactly, gone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.frames import assert_is_cut
from tests.e2e.harness import Server, wait_for
from tests.e2e.node import CLIENTS, Told, finish, run_upload, start_upload
from tests.e2e.proxy import Proxy
from tests.e2e.wire import await_job, open_session

MIB = 1024 * 1024
START, END = 2, 7
THEN = {"operation": "trim", "params": {"start": START, "end": END}}


def _wish(client: str, proxy: Proxy, clip: Path, session_id: str, **more: Any) -> dict[str, Any]:
    return {
        "client": client,
        "endpoint": f"{proxy.url}/files/",
        "file": str(clip),
        "metadata": {"filename": "clip.mp4", "filetype": "video/mp4", "session": session_id},
        **more,
    }


def _cuts(clip: Path) -> list[int]:
    size = clip.stat().st_size
    assert size > 6 * MIB, "too small to be cut in the middle of anything"
    return [size // 4, size // 4 + size // 3]


def _assert_resumed(told: Told, proxy: Proxy, clip: Path) -> None:
    assert proxy.cuts == 2
    offsets = told.patch_offsets
    assert len(offsets) >= 3
    assert offsets == sorted(offsets)
    assert offsets.count(0) == 1, "it began anew at byte 0"
    # What crossed the wire is the file and what was under way when it was cut, not the file again.
    assert proxy.bytes_from_clients < clip.stat().st_size + 2 * MIB


def _fetch_in_two_parts(api: httpx.Client, output: dict[str, Any], target: Path) -> None:
    half = output["size_bytes"] // 2
    first = api.get(output["url"], headers={"Range": f"bytes=0-{half - 1}"})
    rest = api.get(
        output["url"],
        headers={"Range": f"bytes={half}-", "If-Range": first.headers["etag"]},
    )
    for part, begin, end in ((first, 0, half - 1), (rest, half, output["size_bytes"] - 1)):
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {begin}-{end}/{output['size_bytes']}"
    target.write_bytes(first.content + rest.content)
    assert target.stat().st_size == output["size_bytes"]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("chunk_size", [None, MIB], ids=["one PATCH", "small PATCHes"])
def test_a_clip_goes_in_through_cut_lines_comes_out_trimmed_and_leaves_nothing(
    client: str, chunk_size: int | None, server: Server, clip: Path, tmp_path: Path
) -> None:
    before = server.database_bytes()
    line = Proxy(server.port, cut_after=_cuts(clip), bytes_per_second=16 * MIB)
    with server.client() as api, line as proxy:
        session_id = open_session(api, expected_files=1, then=THEN)
        told = run_upload(_wish(client, proxy, clip, session_id, chunkSize=chunk_size))
        _assert_resumed(told, proxy, clip)
        upload_id = told.success["url"].rsplit("/", 1)[-1]
        last = [r for r in told.of("response") if "Tidemill-Job" in r["headers"]][-1]["headers"]
        assert last["Tidemill-Upload"] == upload_id
        job = await_job(api, last["Tidemill-Job"])
        assert job["status"] == "completed", job
        assert job["batch_id"] == last["Tidemill-Batch"]
        batch = api.get(f"/api/v1/batches/{job['batch_id']}").json()
        assert batch["session_id"] == session_id
        assert batch["status"] == "completed"
        (output,) = job["outputs"]
        _fetch_in_two_parts(api, output, tmp_path / "out.mp4")
        assert_is_cut(tmp_path / "out.mp4", clip, start=START, end=END)
        assert api.delete(f"/api/v1/jobs/{job['id']}").status_code == 204
        assert api.delete(f"/api/v1/batches/{job['batch_id']}").status_code == 204
        for gone in (output["url"], f"/api/v1/jobs/{job['id']}", f"/api/v1/batches/{batch['id']}"):
            assert api.get(gone).status_code == 410
    assert server.leftovers() == []
    assert abs(server.database_bytes() - before) < MIB


def test_a_short_retention_removes_everything_by_itself(
    make_server: Callable[..., Server], clip: Path
) -> None:
    server = make_server(
        {
            "TTL_COMPLETED_HOURS": 5 / 3600,
            "BATCH_TTL_HOURS": 0.5 / 3600,
            "CLEANUP_INTERVAL_SECONDS": 1,
            "SPENT_INPUTS_INTERVAL_SECONDS": 1,
        }
    ).start()
    before = server.database_bytes()
    with server.client() as api, Proxy(server.port) as proxy:
        session_id = open_session(api, expected_files=1, then=THEN)
        told = run_upload(_wish("tus-js-client", proxy, clip, session_id))
        last = told.of("response")[-1]["headers"]
        job = await_job(api, last["Tidemill-Job"])
        (output,) = job["outputs"]
        assert output["expires_at"]
        wait_for(lambda: api.get(output["url"]).status_code == 410, "the output to expire")
        assert api.get(output["url"]).json()["reason"] == "retention_completed"
        wait_for(lambda: not server.leftovers(), "an empty folder")
        wait_for(
            lambda: api.get(f"/api/v1/batches/{last['Tidemill-Batch']}").status_code == 410,
            "the batch to expire",
        )
        assert api.get("/readyz").status_code == 200
    assert server.leftovers() == []
    assert abs(server.database_bytes() - before) < MIB


@pytest.mark.parametrize("client", CLIENTS)
def test_a_page_that_was_closed_goes_on_where_it_was(
    client: str, server: Server, clip: Path, tmp_path: Path
) -> None:
    size = clip.stat().st_size
    with server.client() as api, Proxy(server.port, bytes_per_second=2 * MIB) as proxy:
        session_id = open_session(api, expected_files=1)
        store = str(tmp_path / "urls.json")
        wish = _wish(client, proxy, clip, session_id, urlStorage=store)
        with start_upload(wish):
            wait_for(lambda: proxy.bytes_from_clients > size // 3, "a third of the clip")
        sent_before = proxy.bytes_from_clients
        proxy.speed_up()
        told = run_upload(wish)
        assert told.of("previous") == [{"event": "previous", "count": 1}]
        assert told.patch_offsets
        assert told.patch_offsets[0] >= sent_before - MIB
        stored = api.get(told.success["url"].removeprefix(proxy.url))
        assert stored.content == clip.read_bytes()
        assert api.get(f"/api/v1/upload/{session_id}").json()["status"] == "batched"


def test_the_client_of_a_stopped_server_goes_on_after_its_restart(
    server: Server, clip: Path
) -> None:
    size = clip.stat().st_size
    with server.client() as api, Proxy(server.port, bytes_per_second=3 * MIB) as proxy:
        session_id = open_session(api, expected_files=1)
        with start_upload(_wish("tus-js-client", proxy, clip, session_id)) as running:
            wait_for(lambda: proxy.bytes_from_clients > size // 3, "a third of the clip")
            assert server.stop() == 0
            server.start()
            proxy.speed_up()
            told = finish(running)
        offsets = told.patch_offsets
        assert offsets == sorted(offsets)
        assert offsets.count(0) == 1
        stored = api.get(told.success["url"].removeprefix(proxy.url))
        assert stored.content == clip.read_bytes()
