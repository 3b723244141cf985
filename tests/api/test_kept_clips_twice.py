"""The same clips joined twice: what was normalised for the first job is taken for the second."""

from collections.abc import Iterator
from typing import Any

import imageio_ffmpeg
import pytest

from app.domain.layout import CACHE
from tests.fakes.clips import ClipSpec, make_clip
from tests.fakes.served import Served, settings_for, wait_for


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("kept-clips")
    with Served(settings_for(folder / "data", jobs={"workers": 1})) as running:
        yield running


@pytest.fixture(scope="module")
def standing_clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A clip of another shape and rate, without sound."""
    spec = ClipSpec(seconds=2, width=180, height=320, rate="25", audio=None)
    path = make_clip(tmp_path_factory.mktemp("standing"), imageio_ffmpeg.get_ffmpeg_exe(), spec)
    return path.read_bytes()


def join(served: Served, *bodies: bytes) -> dict[str, Any]:
    """Upload clips and join them; returns the ended job."""
    batch_id = served.make_batch(*bodies)["id"]
    body = {"operation": "concatenate", "params": {}, "batch_id": batch_id}
    made = served.http.post("/api/v1/jobs", json=body)
    assert made.status_code == 202, made.text

    def ended() -> dict[str, Any] | None:
        job = served.http.get(f"/api/v1/jobs/{made.json()['id']}").json()
        return job if job["status"] in {"completed", "failed", "cancelled"} else None

    job = wait_for(ended, 60)
    assert job["status"] == "completed", job
    return job


def digest_of(job: dict[str, Any]) -> str:
    (output,) = job["outputs"]
    return str(output["sha256"])


def kept(served: Served) -> set[str]:
    """The files in the cache, each of which has a row."""
    found = {path.name for path in (served.data / CACHE).iterdir()}
    rows = served.read(lambda tx: tx.kept_clips.list_oldest(99))
    assert found == {clip.id for clip in rows}
    return found


def test_a_second_concatenation_of_the_same_clips_normalises_nothing(
    served: Served, clip: bytes, standing_clip: bytes
) -> None:
    first = join(served, clip, standing_clip)
    assert "steps_reused" not in first["result"]
    assert len(kept(served)) == 2
    report = served.http.get("/api/v1/storage").json()
    (cache,) = (kind for kind in report["kinds"] if kind["kind"] == "cache")
    (row,) = cache["rows"]
    assert (row["state"], row["count"]) == ("kept", 2)
    assert row["size_bytes"] == cache["size_bytes"] > 0

    second = join(served, clip, standing_clip)
    assert second["result"]["steps_reused"] == 2
    assert digest_of(second) == digest_of(first)
    assert [each["mode"] for each in second["result"]["clips"]] == ["normalised"] * 2

    for job in (first, second):
        path = f"/api/v1/batches/{job['batch_id']}"
        assert served.http.delete(path).status_code == 204
    wait_for(lambda: not kept(served), 15)
    assert list((served.data / "work").rglob("*")) == []
