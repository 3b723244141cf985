"""Jobs with the real probe and the real FFmpeg under them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from app.domain import layout
from app.domain.access import OWNER
from app.domain.errors import TrimOutOfRange
from app.domain.jobs import Job, JobStatus
from app.infrastructure.media.ffmpeg_locator import FFmpeg, locate_ffmpeg
from app.operations import trim_edges
from app.services.job_requests import JobRequest
from tests.fakes.clips import ClipSpec, make_clip, read_frames
from tests.fakes.house_clips import OPEN, make_house_clip
from tests.fakes.job_house import House, eventually, prepare
from tests.fakes.media_bench import MediaBench, open_bench, scripted_ffmpeg


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[MediaBench]:
    async with open_bench(tmp_path / "bench") as bench:
        yield bench


@pytest_asyncio.fixture
async def clip(tmp_path: Path) -> bytes:
    spec = replace(ClipSpec(), seconds=3.0)
    path = await asyncio.to_thread(make_clip, tmp_path, locate_ffmpeg(None).path, spec)
    return await asyncio.to_thread(path.read_bytes)


def build(root: Path, bench: MediaBench) -> House:
    prepare(root)
    return House.build(root, tools=(bench.probe, bench.steps))


async def test_a_trim_runs_from_request_to_output(
    tmp_path: Path, bench: MediaBench, clip: bytes
) -> None:
    house = build(tmp_path / "data", bench)
    try:
        batch, _ = await house.add_batch(clip)
        with pytest.raises(TrimOutOfRange) as refused:
            await house.jobs.create(
                OWNER, JobRequest("trim", {"start": 1, "end": 99}, batch_id=batch.id)
            )
        assert refused.value.extra["duration_seconds"] == pytest.approx(3.0, abs=0.05)
        request = JobRequest("trim", {"start": 1, "end": "00:00:02.000"}, batch_id=batch.id)
        view = (await house.jobs.create(OWNER, request)).view
        house.engine.start(house.runner)
        row = await eventually(lambda: ended(house, view.job.id), seconds=60)

        assert (row.status, row.error, row.attempt) == (JobStatus.COMPLETED, None, 1)
        assert row.result is not None
        assert row.result["mode"] == "exact"
        (output,) = await house.outputs(row.id)
        path = house.root / layout.output_path(output.id)
        assert path.stat().st_size == output.size_bytes
        assert (await bench.look(path)).duration_seconds == pytest.approx(1.0, abs=0.04)
        assert house.leftovers() == [layout.output_path(output.id)]
    finally:
        await house.close()


async def test_what_turns_out_not_to_be_copyable_is_encoded_and_progress_never_goes_back(
    tmp_path: Path, bench: MediaBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trim_edges, "LEAST_MEGAPIXELS", 5)
    ffmpeg = bench.ffmpeg.path
    path = await asyncio.to_thread(make_house_clip, tmp_path, ffmpeg, x264=OPEN)
    house = build(tmp_path / "data", bench)
    try:
        batch, _ = await house.add_batch(await asyncio.to_thread(path.read_bytes))
        request = JobRequest("trim", {"start": 1.1, "end": 11}, batch_id=batch.id)
        view = (await house.jobs.create(OWNER, request)).view
        reached: list[float] = []
        with capture_logs() as logs:
            house.engine.start(house.runner)
            row = await eventually(lambda: ended(house, view.job.id, reached), seconds=60)
        assert (row.status, row.error, row.attempt) == (JobStatus.COMPLETED, None, 1)
        assert row.result is not None
        assert row.result["reason"].startswith("Not copied: read in full,")
        assert [line["event"] for line in logs].count("job.otherwise") == 1
        assert reached == sorted(reached)
        (output,) = await house.outputs(row.id)
        shown = await asyncio.to_thread(read_frames, house.root / layout.output_path(output.id))
        assert [each.number for each in shown] == list(range(33, 330))
        assert house.leftovers() == [layout.output_path(output.id)]
    finally:
        await house.close()


async def test_cancelling_kills_ffmpeg_within_three_seconds_even_if_it_will_not_go(
    tmp_path: Path, clip: bytes
) -> None:
    real = locate_ffmpeg(None)
    script = scripted_ffmpeg(
        tmp_path / "deaf", "trap '' TERM\n: > ready\nwhile :; do sleep 0.2; done\n"
    )
    deaf = FFmpeg(path=script, version=real.version, source="configured")
    async with open_bench(tmp_path / "bench", ffmpeg=deaf) as bench:
        house = build(tmp_path / "data", bench)
        try:
            batch, _ = await house.add_batch(clip)
            request = JobRequest("trim", {"start": 1}, batch_id=batch.id)
            view = (await house.jobs.create(OWNER, request)).view
            before = {child.pid for child in psutil.Process().children(recursive=True)}
            house.engine.start(house.runner)
            await eventually(lambda: is_ready(house))
            assert await new_child(before)
            begun = house.clock.monotonic()
            await house.jobs.cancel(OWNER, view.job.id)
            row = await eventually(lambda: ended(house, view.job.id))

            assert row.status is JobStatus.CANCELLED
            assert house.clock.monotonic() - begun < 3
            assert not await new_child(before)
            await eventually(house.is_tidy)
        finally:
            await house.close()


async def ended(house: House, job_id: str, reached: list[float] | None = None) -> Job | None:
    """The row once it has ended; ``reached`` takes the progress that was seen."""
    row = await house.row(job_id)
    if reached is not None:
        reached.append(row.progress or 0.0)
    return None if row.status.is_active else row


async def is_ready(house: House) -> bool:
    """Whether the script runs, in the job's folder."""
    return any(path.endswith("/1/ready") for path in house.leftovers())


async def new_child(before: set[int]) -> bool:
    return any(child.pid not in before for child in psutil.Process().children(recursive=True))
