"""Plans that turn out not to be possible, and what is done instead."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from app.domain.access import OWNER
from app.domain.errors import AppError, CannotCopy, InputDamaged, NoSpace, RenderFailed
from app.domain.jobs import Job, JobStatus
from app.services.job_requests import JobRequest
from app.services.ports import ProgressCallback
from tests.fakes.job_house import KEPT_CLIPS, House, eventually, prepare
from tests.fakes.media import CLIP
from tests.fakes.steps import RESULT

OTHER_CLIP = CLIP + b" and another"
BOUND, SEWN = ["press-0", "press-1", "bind"], ["press-0", "press-1", "sew"]


class Bindery:
    """A house in which no album can be bound, and its steps' folder as each of them found it.

    ``sewing`` is waited for by the step that is done instead.
    """

    def __init__(self, root: Path, *, keeps: bool = True, error: AppError | None = None) -> None:
        prepare(root)
        policy = KEPT_CLIPS if keeps else replace(KEPT_CLIPS, max_bytes=0)
        self.house = House.build(root, kept_clips=policy)
        self.house.steps.script = self._script
        self.error = error or CannotCopy("The pages do not fit.")
        self.found: list[set[str]] = []
        self.sewing: asyncio.Event | None = None

    async def ask(self, timeout_seconds: float | None = None) -> Job:
        batch, _ = await self.house.add_batch(CLIP, OTHER_CLIP)
        request = JobRequest("detour", {}, batch_id=batch.id, timeout_seconds=timeout_seconds)
        return (await self.house.jobs.create(OWNER, request)).view.job

    async def make(self, timeout_seconds: float | None = None) -> Job:
        job = await self.ask(timeout_seconds)
        await self.house.runner.run(job.id, job.attempt)
        return await self.house.row(job.id)

    async def is_sewing(self) -> bool:
        return self.house.steps.ran[-1:] == ["sew"]

    async def _script(self, folder: Path, report: ProgressCallback) -> None:
        report(0.5)
        self.found.append(files_of_steps(folder))
        if self.house.steps.ran[-1] == "bind":
            (folder / "bind.mp4.part").write_bytes(RESULT)
            raise self.error
        if self.house.steps.ran[-1] == "sew" and self.sewing is not None:
            await self.sewing.wait()


def files_of_steps(folder: Path) -> set[str]:
    """Return what steps have left in a job's folder; inputs have no ending."""
    return {path.name for path in folder.iterdir() if path.suffix}


async def test_what_is_done_instead_begins_with_an_empty_folder_and_tells_only_of_itself(
    tmp_path: Path,
) -> None:
    bindery = Bindery(tmp_path, keeps=False)
    try:
        row = await bindery.make()
        assert (row.status, row.error, row.attempt) == (JobStatus.COMPLETED, None, 1)
        assert bindery.house.steps.ran == [*BOUND, *SEWN]
        assert bindery.found[2:4] == [{"press-0.mp4", "press-1.mp4"}, set()]
        assert (row.result, row.warnings) == ({"way": "sewn"}, ("It is sewn.",))
        (output,) = await bindery.house.outputs(row.id)
        assert output.filename == "sewn.mp4"
    finally:
        await bindery.house.close()


async def test_what_was_kept_on_the_way_is_taken_and_stays_kept(tmp_path: Path) -> None:
    bindery = Bindery(tmp_path)
    try:
        for reused in (2, 2):
            row = await bindery.make()
            assert row.result == {"way": "sewn", "steps_reused": reused}
        assert bindery.house.steps.ran == [*BOUND, "sew", "bind", "sew"]
        assert b'kept_clip_lookups_total{outcome="damaged"} 0' in bindery.house.metrics.render()
        kept = await bindery.house.real_db.read(lambda tx: tx.kept_clips.list_oldest(99))
        assert len(kept) == 2
    finally:
        await bindery.house.close()


async def test_it_can_be_cancelled_in_the_middle_of_what_is_done_instead(tmp_path: Path) -> None:
    bindery = Bindery(tmp_path, keeps=False)
    bindery.sewing = asyncio.Event()
    try:
        job = await bindery.ask()
        bindery.house.engine.start(bindery.house.runner)
        await eventually(bindery.is_sewing)
        await bindery.house.jobs.cancel(OWNER, job.id)
        row = await bindery.house.until(job.id, JobStatus.CANCELLED)
        assert row.attempt == 1
        await eventually(bindery.house.is_tidy)
        assert bindery.house.steps.stopped == 1
    finally:
        await bindery.house.close()


async def test_one_limit_of_time_holds_for_both(tmp_path: Path) -> None:
    bindery = Bindery(tmp_path, keeps=False)
    bindery.sewing = asyncio.Event()
    try:
        row = await bindery.make(timeout_seconds=0.5)
        assert row.error is not None
        assert row.error.code == "timeout"
        assert bindery.house.leftovers() == []
    finally:
        await bindery.house.close()


@pytest.mark.parametrize("error", [InputDamaged("Torn."), RenderFailed("Stuck."), NoSpace("Full.")])
async def test_other_errors_are_not_a_reason_unless_the_plan_says_so(
    tmp_path: Path, error: AppError
) -> None:
    bindery = Bindery(tmp_path, keeps=False, error=error)
    try:
        await bindery.make()
        assert bindery.house.steps.ran == BOUND
    finally:
        await bindery.house.close()
