"""What a client may ask of jobs: creation and its refusals, reading, cancelling, deleting."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.domain import layout
from app.domain.access import OWNER
from app.domain.errors import (
    AppError,
    BatchGone,
    BatchNotFound,
    EmptyFile,
    InputDamaged,
    InputsDeleted,
    InvalidInputs,
    InvalidParams,
    InvalidRequest,
    JobFinished,
    JobGone,
    JobNotFound,
    JobRunning,
    NotMedia,
    OutputNotFound,
    TrimOutOfRange,
    UnknownOperation,
    UploadNotFound,
)
from app.domain.ids import new_id
from app.domain.jobs import InputRole, JobInput, JobStatus
from app.domain.tombstones import Reason, ThingKind
from app.domain.uploads import Upload
from app.services.burial import bury_batch, bury_upload
from app.services.job_requests import JobRequest
from app.services.ports import JobFilter, Transaction
from tests.factories import make_completed_upload, make_session, make_upload
from tests.fakes.job_house import BATCH_TTL, POLICY, House, prepare
from tests.fakes.media import CLIP


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    prepare(tmp_path)
    house = House.build(tmp_path)
    yield house
    await house.close()


def clips(*uploads: Upload) -> tuple[JobInput, ...]:
    return tuple(
        JobInput(role=InputRole.CLIP, upload_id=upload.id, order=place)
        for place, upload in enumerate(uploads)
    )


async def refused(house: House, request: JobRequest) -> AppError:
    """Ask for a job that is refused, and check that no row was written."""
    with pytest.raises(AppError) as caught:
        await house.jobs.create(OWNER, request)
    assert await house.real_db.read(lambda tx: tx.jobs.totals()) == {}
    return caught.value


async def test_a_job_of_one_upload_is_queued_and_counts_for_its_batch(house: House) -> None:
    batch, (upload,) = await house.add_batch(CLIP)
    request = JobRequest("polish", {"until": 3}, inputs=clips(upload), priority=7)

    view = (await house.jobs.create(OWNER, request)).view

    row = await house.row(view.job.id)
    assert (row.status, row.attempt, row.priority) == (JobStatus.QUEUED, 1, 7)
    assert (row.batch_id, row.params, row.from_then) == (batch.id, {"until": 3}, False)
    assert (row.timeout_seconds, row.max_attempts) == (POLICY.timeout_seconds, 3)
    assert row.inputs == clips(upload)
    assert row.dispatched_at is not None
    assert view.outputs == ()


async def test_using_a_batch_moves_its_expiry_on(house: House) -> None:
    batch, _ = await house.add_batch(CLIP)
    await house.jobs.create(OWNER, JobRequest("polish", {}, batch_id=batch.id))

    found = await house.real_db.read(lambda tx: tx.batches.find(batch.id))
    assert found is not None
    assert found.expires_at > house.clock.now() + BATCH_TTL - timedelta(minutes=1)


async def test_several_jobs_may_stand_on_one_batch(house: House) -> None:
    batch, _ = await house.add_batch(CLIP)
    request = JobRequest("polish", {}, batch_id=batch.id)
    first = await house.jobs.create(OWNER, request)
    second = await house.jobs.create(OWNER, request)
    assert first.view.job.id != second.view.job.id


async def test_a_clip_is_probed_once_and_remembered(house: House) -> None:
    batch, (upload,) = await house.add_batch(CLIP)
    for _ in range(3):
        await house.jobs.create(OWNER, JobRequest("polish", {}, batch_id=batch.id))
    assert len(house.probe.looked_at) == 1
    assert (await house.upload(upload.id)).media is not None


async def test_a_batch_is_short_for_all_its_files_and_file_ids_for_some(house: House) -> None:
    batch, (one, two, three) = await house.add_batch(CLIP, CLIP, CLIP)
    view = (await house.jobs.create(OWNER, JobRequest("join", {}, batch_id=batch.id))).view
    assert [i.upload_id for i in view.job.inputs] == [one.id, two.id, three.id]

    some = JobRequest("join", {}, batch_id=batch.id, file_ids=(three.id, one.id))
    view = (await house.jobs.create(OWNER, some)).view
    assert [i.upload_id for i in view.job.inputs] == [three.id, one.id]


async def test_inputs_are_read_in_their_order(house: House) -> None:
    _, (one, two) = await house.add_batch(CLIP, CLIP)
    inputs = (replace(clips(one)[0], order=9), replace(clips(two)[0], order=3))
    view = (await house.jobs.create(OWNER, JobRequest("join", {}, inputs=inputs))).view
    await house.runner.run(view.job.id, 1)
    (output,) = await house.outputs(view.job.id)
    assert output.filename == "clip1+clip0"


async def test_an_output_can_be_an_input(house: House) -> None:
    first = await house.add_job()
    house.steps.script = None
    await house.runner.run(first.id, 1)
    (output,) = await house.outputs(first.id)
    (house.root / layout.output_path(output.id)).write_bytes(CLIP)
    item = JobInput(role=InputRole.CLIP, output_id=output.id)

    view = (await house.jobs.create(OWNER, JobRequest("polish", {}, inputs=(item,)))).view
    with pytest.raises(JobRunning) as held:
        await house.jobs.delete(OWNER, first.id, cancel=False)
    assert held.value.extra == {"jobs": [view.job.id]}
    await house.runner.run(view.job.id, 1)

    assert (await house.row(view.job.id)).status is JobStatus.COMPLETED
    await house.jobs.delete(OWNER, first.id, cancel=False)


async def test_an_unknown_operation_is_refused(house: House) -> None:
    error = await refused(house, JobRequest("explode", {}))
    assert isinstance(error, UnknownOperation)


@pytest.mark.parametrize(
    ("params", "loc", "allowed"),
    [
        ({"until": -1}, "until", "at least 0.0"),
        ({"until": 101}, "until", "at most 100.0"),
        ({"until": "soon"}, "until", None),
        ({"untill": 1}, "untill", "until"),
    ],
)
async def test_wrong_parameters_are_listed_with_what_is_allowed(
    house: House, params: dict[str, Any], loc: str, allowed: str | None
) -> None:
    batch, _ = await house.add_batch(CLIP)
    error = await refused(house, JobRequest("polish", params, batch_id=batch.id))
    assert isinstance(error, InvalidParams)
    (one,) = error.extra["errors"]
    assert (one["loc"], one["allowed"]) == (loc, allowed)
    assert loc in error.detail
    assert "Input" not in error.detail, "the validator's words, not ours"


async def test_what_does_not_fit_the_clip_is_refused_now(house: House) -> None:
    batch, _ = await house.add_batch(CLIP)
    error = await refused(house, JobRequest("polish", {"until": 11}, batch_id=batch.id))
    assert isinstance(error, TrimOutOfRange)
    assert error.extra["duration_seconds"] == 10.0


@pytest.mark.parametrize(("content", "kind"), [(b"a letter", NotMedia), (b"", EmptyFile)])
async def test_a_file_that_is_no_clip_is_refused_now_and_named(
    house: House, content: bytes, kind: type[AppError]
) -> None:
    batch, (upload,) = await house.add_batch(content)
    error = await refused(house, JobRequest("polish", {}, batch_id=batch.id))
    assert isinstance(error, kind)
    assert error.extra["upload_id"] == upload.id


@pytest.mark.parametrize("seconds", [0, -1, 60.1, float("nan"), float("inf")])
async def test_a_time_limit_out_of_range_is_refused_naming_the_maximum(
    house: House, seconds: float
) -> None:
    batch, _ = await house.add_batch(CLIP)
    request = JobRequest("polish", {}, batch_id=batch.id, timeout_seconds=seconds)
    error = await refused(house, request)
    assert isinstance(error, InvalidRequest)
    assert error.extra["errors"][0]["loc"] == "timeout_seconds"
    assert "up to 60 seconds" in error.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"file_ids": ("0" * 32,), "batch_id": None},
        {"file_ids": ("0" * 32,), "inputs": (JobInput(InputRole.CLIP, upload_id="0" * 32),)},
        {"priority": 101},
        {"inputs": (JobInput(InputRole.CLIP),)},
        {"inputs": (JobInput(InputRole.CLIP, upload_id="0" * 32, output_id="0" * 32),)},
    ],
)
async def test_requests_that_contradict_themselves_are_refused(
    house: House, changes: dict[str, Any]
) -> None:
    batch, _ = await house.add_batch(CLIP)
    request = replace(JobRequest("polish", {}, batch_id=batch.id), **changes)
    error = await refused(house, request)
    assert isinstance(error, InvalidRequest | InvalidInputs)
    assert error.extra["errors"]


async def test_one_clip_wanted_and_a_batch_of_three_given_says_how_many(house: House) -> None:
    batch, _ = await house.add_batch(CLIP, CLIP, CLIP)
    error = await refused(house, JobRequest("polish", {}, batch_id=batch.id))
    assert isinstance(error, InvalidInputs)
    assert "exactly 1 clip" in error.detail
    assert "3 were given" in error.detail
    assert error.extra["given"] == 3


async def test_a_role_the_operation_has_not_is_refused(house: House) -> None:
    _, (upload,) = await house.add_batch(CLIP)
    logo = JobInput(role=InputRole.LOGO, upload_id=upload.id)
    error = await refused(house, JobRequest("polish", {}, inputs=(*clips(upload), logo)))
    assert isinstance(error, InvalidInputs)
    assert "takes no logo" in error.detail


async def test_an_upload_that_is_still_coming_is_refused(house: House) -> None:
    session, upload = await in_session(house, make_upload())
    error = await refused(house, JobRequest("polish", {}, inputs=clips(upload)))
    assert isinstance(error, InvalidInputs)
    assert "not complete" in error.detail
    assert session


async def test_an_upload_of_an_open_session_is_refused_and_the_session_named(
    house: House,
) -> None:
    session_id, upload = await in_session(house, make_completed_upload())
    error = await refused(house, JobRequest("polish", {}, inputs=clips(upload)))
    assert isinstance(error, InvalidInputs)
    assert error.extra["session_id"] == session_id


async def in_session(house: House, upload: Upload) -> tuple[str, Upload]:
    session = make_session()
    upload = replace(upload, session_id=session.id)

    def insert(tx: Transaction) -> None:
        tx.sessions.insert(session)
        tx.uploads.insert(upload)

    await house.real_db.write(insert)
    return session.id, upload


async def test_deleted_inputs_are_gone_and_listed(house: House) -> None:
    batch, (one, two) = await house.add_batch(CLIP, CLIP)
    now = house.clock.now()
    await house.real_db.write(
        lambda tx: bury_upload(tx, one, reason=Reason.SPENT, sweep=None, now=now)
    )
    by_name = JobRequest("join", {}, inputs=clips(one, two))
    by_batch = JobRequest("join", {}, batch_id=batch.id)
    by_file = JobRequest("join", {}, batch_id=batch.id, file_ids=(one.id, two.id))
    for request in (by_name, by_batch, by_file):
        error = await refused(house, request)
        assert isinstance(error, InputsDeleted)
        (gone,) = error.extra["inputs"]
        assert (gone["id"], gone["reason"]) == (one.id, "spent")


async def test_unknown_inputs_and_those_of_others_are_not_found(house: House) -> None:
    batch, _ = await house.add_batch(CLIP)
    other_batch, (foreign,) = await house.add_batch(CLIP, owner="somebody else")
    nobody = JobInput(role=InputRole.CLIP, output_id=new_id())
    cases: list[tuple[JobRequest, type[AppError]]] = [
        (JobRequest("polish", {}, inputs=clips(make_upload())), UploadNotFound),
        (JobRequest("polish", {}, inputs=clips(foreign)), UploadNotFound),
        (JobRequest("polish", {}, inputs=(nobody,)), OutputNotFound),
        (JobRequest("polish", {}, batch_id=new_id()), BatchNotFound),
        (JobRequest("polish", {}, batch_id=other_batch.id), BatchNotFound),
        (JobRequest("polish", {}, batch_id=batch.id, file_ids=(foreign.id,)), UploadNotFound),
    ]
    for request, kind in cases:
        assert isinstance(await refused(house, request), kind)


async def test_a_deleted_batch_is_gone(house: House) -> None:
    batch, _ = await house.add_batch(CLIP)
    now = house.clock.now()
    await house.real_db.write(
        lambda tx: bury_batch(tx, batch, reason=Reason.BATCH_DELETED, sweep=None, now=now)
    )
    error = await refused(house, JobRequest("polish", {}, batch_id=batch.id))
    assert isinstance(error, BatchGone)
    assert error.extra["reason"] == "batch_deleted"


async def test_inputs_of_another_batch_than_the_named_one_are_refused(house: House) -> None:
    batch, _ = await house.add_batch(CLIP)
    _, (upload,) = await house.add_batch(CLIP)
    request = JobRequest("polish", {}, batch_id=batch.id, inputs=clips(upload))
    assert isinstance(await refused(house, request), InvalidInputs)


async def test_an_input_that_goes_while_it_is_probed_is_noticed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, (upload,) = await house.add_batch(CLIP)
    probe = house.probe.probe

    async def slow(path: Path) -> Any:
        media = await probe(path)
        now = house.clock.now()
        await house.real_db.write(
            lambda tx: bury_upload(tx, upload, reason=Reason.SPENT, sweep=None, now=now)
        )
        return media

    monkeypatch.setattr(house.probe, "probe", slow)
    error = await refused(house, JobRequest("polish", {}, batch_id=batch.id))
    assert isinstance(error, InputsDeleted)


@pytest.mark.parametrize("trouble", [FileNotFoundError("gone"), InputDamaged("It ends early.")])
async def test_an_input_that_goes_from_under_its_probe_is_gone_and_not_damaged(
    house: House, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    batch, (upload,) = await house.add_batch(CLIP)

    async def pulled_away(_: Path) -> Any:
        now = house.clock.now()
        await house.real_db.write(
            lambda tx: bury_upload(tx, upload, reason=Reason.SPENT, sweep=None, now=now)
        )
        raise trouble

    monkeypatch.setattr(house.probe, "probe", pulled_away)
    error = await refused(house, JobRequest("polish", {}, batch_id=batch.id))
    assert isinstance(error, InputsDeleted)


async def test_then_is_checked_like_a_request(house: House) -> None:
    house.jobs.check_new("polish", {}, None)
    house.jobs.check_new("polish", {}, 7)  # seven jobs of one clip each
    house.jobs.check_new("join", {"until": 2}, 2, 60.0)
    with pytest.raises(UnknownOperation):
        house.jobs.check_new("explode", {}, None)
    with pytest.raises(InvalidParams):
        house.jobs.check_new("polish", {"until": -1}, None)
    for count in (1, 4):
        with pytest.raises(InvalidInputs, match=f"2 to 3 clips, not {count}"):
            house.jobs.check_new("join", {}, count)
    with pytest.raises(InvalidRequest):
        house.jobs.check_new("polish", {}, None, 61)
    house.jobs.check_new("trim", {"start": 2, "end": "00:00:05"}, None)
    with pytest.raises(TrimOutOfRange, match="before end"):
        house.jobs.check_new("trim", {"start": 5, "end": 2}, None)


async def test_operations_tell_their_inputs_and_the_schema_of_their_parameters(
    house: House,
) -> None:
    polish, *others = house.jobs.operations()
    names = [polish.name, *(each.name for each in others)]
    assert names == ["polish", "join", "album", "detour", "trim", "moodle-log"]
    assert polish.inputs[0].maximum == 1
    assert polish.params["properties"]["until"]["maximum"] == 100
    assert polish.params["additionalProperties"] is False


async def test_jobs_are_listed_newest_first_in_pages_by_what_is_asked(house: House) -> None:
    made = [await house.add_job() for _ in range(4)]
    await house.jobs.cancel(OWNER, made[1].id)

    page, cursor = await house.jobs.list(OWNER, JobFilter(), None, 3)
    assert [view.job.id for view in page] == [made[3].id, made[2].id, made[1].id]
    rest, end = await house.jobs.list(OWNER, JobFilter(), cursor, 3)
    assert [view.job.id for view in rest] == [made[0].id]
    assert end is None

    cancelled, _ = await house.jobs.list(OWNER, JobFilter(status=JobStatus.CANCELLED), None, 9)
    assert [view.job.id for view in cancelled] == [made[1].id]
    of_batch, _ = await house.jobs.list(OWNER, JobFilter(batch_id=made[2].batch_id), None, 9)
    assert [view.job.id for view in of_batch] == [made[2].id]
    assert await house.jobs.list("somebody else", JobFilter(), None, 9) == ([], None)


async def test_cancelling_a_queued_job_ends_it_and_lets_go_of_its_inputs_later(
    house: House,
) -> None:
    job = await house.add_job()
    view = await house.jobs.cancel(OWNER, job.id)
    assert view.job.status is JobStatus.CANCELLED
    assert (await house.jobs.cancel(OWNER, job.id)).job.status is JobStatus.CANCELLED
    spent_at = (await house.upload(job.inputs[0].upload_id or "")).spent_at
    assert spent_at is not None
    assert spent_at > house.clock.now() + timedelta(minutes=90)
    await house.runner.run(job.id, 1)
    assert house.steps.folders == []


async def test_cancelling_what_has_ended_is_refused(house: House) -> None:
    job = await house.add_job()
    await house.runner.run(job.id, 1)
    with pytest.raises(JobFinished) as caught:
        await house.jobs.cancel(OWNER, job.id)
    assert caught.value.extra == {"status": "completed"}


async def test_deleting_a_job_takes_its_outputs_and_leaves_tombstones(house: House) -> None:
    job = await house.add_job()
    await house.runner.run(job.id, 1)
    (output,) = await house.outputs(job.id)

    await house.jobs.delete(OWNER, job.id, cancel=False)

    assert house.leftovers() == []
    with pytest.raises(JobGone) as gone:
        await house.jobs.get(OWNER, job.id)
    assert gone.value.extra["reason"] == "job_deleted"
    stone = await house.real_db.read(lambda tx: tx.tombstones.find(ThingKind.OUTPUT, output.id))
    assert stone is not None
    assert stone.parent_id == job.id
    with pytest.raises(JobGone):
        await house.jobs.delete(OWNER, job.id, cancel=True)


async def test_an_active_job_is_deleted_only_when_it_may_be_cancelled(house: House) -> None:
    house.steps.gate = asyncio.Event()
    job = await house.add_job()
    with pytest.raises(JobRunning):
        await house.jobs.delete(OWNER, job.id, cancel=False)
    house.engine.start(house.runner)
    await asyncio.wait_for(house.steps.started.wait(), 5)
    with pytest.raises(JobRunning):
        await house.jobs.delete(OWNER, job.id, cancel=False)

    await house.jobs.delete(OWNER, job.id, cancel=True)

    with pytest.raises(JobGone):
        await house.jobs.get(OWNER, job.id)
    assert house.steps.living == 0
    assert house.leftovers() == []


async def test_a_queued_job_is_deleted_when_it_may_be_cancelled(house: House) -> None:
    job = await house.add_job()
    await house.jobs.delete(OWNER, job.id, cancel=True)
    with pytest.raises(JobGone):
        await house.jobs.get(OWNER, job.id)


async def test_jobs_of_others_are_as_if_they_never_were(house: House) -> None:
    job = await house.add_job()
    for call in (house.jobs.get, house.jobs.cancel):
        with pytest.raises(JobNotFound):
            await call("somebody else", job.id)
    with pytest.raises(JobNotFound):
        await house.jobs.delete("somebody else", job.id, cancel=True)
    await house.jobs.delete(OWNER, job.id, cancel=True)
    with pytest.raises(JobNotFound):
        await house.jobs.get("somebody else", job.id)


async def test_a_wrong_value_of_several_types_is_one_mistake_at_its_own_name(house: House) -> None:
    batch, _ = await house.add_batch(CLIP)
    error = await refused(house, JobRequest("trim", {"end": "soon"}, batch_id=batch.id))
    assert isinstance(error, InvalidParams)
    (one,) = error.extra["errors"]
    assert one["loc"] == "end"
    assert one["allowed"].startswith("such as 7,")
    assert error.detail.startswith("end: cannot be read (allowed: such as 7,")


async def test_a_mistake_of_the_whole_has_the_place_params(house: House) -> None:
    batch, _ = await house.add_batch(CLIP)
    error = await refused(house, JobRequest("trim", {}, batch_id=batch.id))
    assert [each["loc"] for each in error.extra["errors"]] == ["params"]
    assert "give start or end" in error.detail
