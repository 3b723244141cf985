"""Log jobs with the real child under them: from request to ZIP, every end, and what is left."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from app.domain import layout
from app.domain.access import OWNER
from app.domain.errors import (
    AppError,
    InputsDeleted,
    InvalidInputs,
    InvalidParams,
    JobTimedOut,
    LogFailed,
    LogHeaderUnknown,
    LogNotText,
    LogTooLarge,
    NotMedia,
    TimezoneRequired,
)
from app.domain.jobs import InputRole, Job, JobInput, JobStatus
from app.infrastructure.media.python_steps import Program, PythonStepRunner
from app.infrastructure.media.sandbox import Sandbox, SandboxLevel, candidates
from app.infrastructure.moodle import CHILD
from app.operations.base import LogInput, PythonStep
from app.operations.moodle.export_head import look_at_export
from app.operations.moodle_log import MoodleLog, MoodleLogParams
from app.services.job_requests import JobRequest
from tests.fakes.job_house import House, eventually, prepare
from tests.fakes.measured import assert_soon_within
from tests.fakes.media_bench import MediaBench, open_bench, outputs_of
from tests.fakes.moodle_logs import ANNA, as_csv, many_rows

BERLIN = {"timezone": "Europe/Berlin"}
SLOW = as_csv(many_rows(20_000))


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[MediaBench]:
    async with open_bench(tmp_path / "bench") as bench:
        yield bench


@pytest_asyncio.fixture
async def house(tmp_path: Path, bench: MediaBench) -> AsyncIterator[House]:
    root = tmp_path / "data"
    prepare(root)
    house = House.build(root, tools=(bench.probe, bench.steps))
    yield house
    await house.close()


async def ask(house: House, data: bytes, **params: Any) -> Job:
    batch, _ = await house.add_batch(data)
    request = JobRequest("moodle-log", {**BERLIN, **params}, batch_id=batch.id)
    return (await house.jobs.create(OWNER, request)).view.job


async def ended(house: House, job_id: str) -> Job:
    async def look() -> Job | None:
        row = await house.row(job_id)
        return None if row.status.is_active else row

    return await eventually(look, seconds=60)


async def input_is_gone(house: House, job: Job) -> bool:
    """Whether the row of the job's one input went with its end, and its bytes a moment later."""
    upload_id = job.inputs[0].upload_id
    assert upload_id is not None
    assert await house.real_db.read(lambda tx: tx.uploads.find(upload_id)) is None

    async def look() -> bool:
        return not (house.root / layout.upload_path(upload_id)).exists()

    return await eventually(look)


async def test_a_log_job_runs_from_request_to_zip_and_its_input_goes_at_once(house: House) -> None:
    job = await ask(house, as_csv(many_rows(500)))
    assert job.inputs[0].role is InputRole.LOG
    house.engine.start(house.runner)
    row = await ended(house, job.id)
    assert (row.status, row.error, row.attempt) == (JobStatus.COMPLETED, None, 1)
    assert row.result is not None
    (output,) = await house.outputs(job.id)
    assert (output.media_type, output.filename) == ("application/zip", "clip0-event-log.zip")
    path = house.root / layout.output_path(output.id)
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        summary = json.loads(archive.read("summary.json"))
    assert (row.result["events"], summary["events"]) == (500, 500)
    assert row.result["decisions"] == summary["decisions"]
    assert await input_is_gone(house, row)

    async def settled() -> bool:
        return await house.cleanups() == []

    await eventually(settled)
    assert house.leftovers() == [layout.output_path(output.id)]


async def test_progress_only_grows_and_names_its_stages(house: House) -> None:
    job = await ask(house, SLOW)
    house.engine.start(house.runner)
    seen: list[tuple[str | None, float]] = []

    async def look() -> bool:
        row = await house.row(job.id)
        if row.status is JobStatus.PROCESSING:
            seen.append((row.stage, row.progress))
        return not row.status.is_active

    await eventually(look, seconds=60)
    progress = [each for _, each in seen]
    assert progress == sorted(progress)
    assert len(set(progress)) > 3
    stages = list(dict.fromkeys(stage for stage, _ in seen if stage))
    assert set(stages) <= {"preparing", "reading", "sorting", "writing", "publishing"}
    assert "reading" in stages


async def test_a_log_that_turns_out_to_have_no_event_fails_and_goes(house: House) -> None:
    job = await ask(house, as_csv([("never", *ANNA[1:])] * 3))
    house.engine.start(house.runner)
    row = await ended(house, job.id)
    assert row.status is JobStatus.FAILED
    assert row.error is not None
    assert (row.error.code, row.attempt) == ("log_without_events", 1)
    assert row.error.detail == {"rejected": 3, "reasons": {"unreadable_time": 3}}
    assert await input_is_gone(house, row)
    assert await house.is_tidy()
    with pytest.raises(InputsDeleted):
        await house.jobs.retry(OWNER, job.id)


async def test_a_cancelled_log_job_leaves_nothing_within_three_seconds(house: House) -> None:
    house.engine.start(house.runner)

    async def cancel() -> list[float]:
        job = await ask(house, SLOW)

        async def works() -> bool:
            row = await house.row(job.id)
            return row.stage == "reading" and row.progress > 0

        await eventually(works, seconds=60)
        begun = asyncio.get_running_loop().time()
        await house.jobs.cancel(OWNER, job.id)
        row = await ended(house, job.id)
        taken = asyncio.get_running_loop().time() - begun
        assert row.status is JobStatus.CANCELLED
        assert await input_is_gone(house, row)
        return [taken]

    await assert_soon_within(3, cancel)

    async def tidy() -> bool:
        return await house.is_tidy()

    await eventually(tidy)
    assert not guarded_children()


async def test_a_log_job_cancelled_in_the_queue_takes_its_input_along(house: House) -> None:
    job = await ask(house, as_csv([ANNA]))
    view = await house.jobs.cancel(OWNER, job.id)
    assert view.job.status is JobStatus.CANCELLED
    assert await input_is_gone(house, job)


async def test_a_log_job_out_of_time_takes_its_input_along(house: House) -> None:
    batch, _ = await house.add_batch(SLOW)
    request = JobRequest("moodle-log", BERLIN, batch_id=batch.id, timeout_seconds=0.4)
    job = (await house.jobs.create(OWNER, request)).view.job
    house.engine.start(house.runner)
    row = await ended(house, job.id)
    assert row.error is not None
    assert row.error.code == "timeout"
    assert await input_is_gone(house, row)
    assert await house.is_tidy()


async def test_an_input_stays_while_another_job_needs_it(house: House) -> None:
    batch, (upload,) = await house.add_batch(as_csv(many_rows(50)))
    jobs = [
        (await house.jobs.create(OWNER, request)).view.job
        for case in ("user", "course")
        for request in [JobRequest("moodle-log", {**BERLIN, "case": case}, batch_id=batch.id)]
    ]
    first, second = jobs
    await house.runner.run(first.id, 1)
    assert (await house.row(first.id)).status is JobStatus.COMPLETED
    assert (house.root / layout.upload_path(upload.id)).exists()
    await house.runner.run(second.id, 1)
    assert await input_is_gone(house, second)


@pytest.mark.parametrize(
    ("data", "params", "error"),
    [
        (as_csv([ANNA]), {"timezone": None}, TimezoneRequired),
        (as_csv([ANNA]), {"timezone": "Mars/Olympus"}, InvalidParams),
        (as_csv([ANNA]), {"timezone": "../../etc/passwd"}, InvalidParams),
        (as_csv([ANNA]), {"case": "planet"}, InvalidParams),
        (as_csv([ANNA]), {"anonymise": "yes"}, InvalidParams),
        (b"\x00\x00\x00\x20ftypisom" + bytes(5000), {}, LogNotText),
        (b"a,b\n1,2\n", {}, LogHeaderUnknown),
    ],
)
async def test_what_cannot_work_is_refused_before_there_is_a_job(
    house: House, data: bytes, params: dict[str, Any], error: type[AppError]
) -> None:
    batch, (upload,) = await house.add_batch(data)
    request = JobRequest("moodle-log", {**BERLIN, **params}, batch_id=batch.id)
    with pytest.raises(error):
        await house.jobs.create(OWNER, request)
    assert await house.real_db.read(lambda tx: tx.jobs.count_queued()) == 0
    assert (house.root / layout.upload_path(upload.id)).read_bytes() == data


async def test_a_log_over_the_limit_and_a_video_s_role_are_refused(house: House) -> None:
    batch, (upload,) = await house.add_batch(as_csv([ANNA]))
    wrong = (JobInput(InputRole.CLIP, upload_id=upload.id),)
    with pytest.raises(InvalidInputs, match="takes no clip"):
        await house.jobs.create(OWNER, JobRequest("moodle-log", BERLIN, inputs=wrong))
    house.jobs.creation.workshop._looks.logs.max_bytes = 10
    with pytest.raises(LogTooLarge):
        await house.jobs.create(OWNER, JobRequest("moodle-log", BERLIN, batch_id=batch.id))


async def test_a_trim_refuses_a_log_without_starting_a_child(house: House) -> None:
    batch, _ = await house.add_batch(as_csv([ANNA]))
    with pytest.raises(NotMedia, match="no container"):
        await house.jobs.create(OWNER, JobRequest("trim", {"end": 1}, batch_id=batch.id))


# --- the runner of programs ----------------------------------------------------------------------


def guarded_children() -> list[psutil.Process]:
    """What runs under a guard: a database that other tests share may run beside it."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "guard.py" in str(child.cmdline())
    ]


def step_of(program: str) -> PythonStep:
    return PythonStep("working", 1.0, program, {"some": "thing"}, ("given",), ("made",))


async def run_program(
    bench: MediaBench, text: str, *, stall_seconds: float = 10.0, max_output_bytes: int = 2**30
) -> tuple[Any, list[float]]:
    script = bench.folder / "program.py"
    await asyncio.to_thread(script.write_text, text)
    await asyncio.to_thread((bench.folder / "given").write_bytes, b"given")
    reported: list[float] = []
    runner = PythonStepRunner(
        bench.runner,
        {"p": Program(script, LogFailed)},
        stall_seconds=stall_seconds,
        max_output_bytes=max_output_bytes,
    )
    facts = await runner.run(step_of("p"), bench.folder, reported.append)
    return facts, reported


SAY = "import json, sys\nsay = lambda x: print(json.dumps(x), flush=True)\n"


async def test_a_program_tells_of_progress_and_facts_and_leaves_its_output(
    bench: MediaBench,
) -> None:
    facts, reported = await run_program(
        bench,
        SAY + "assert json.loads(sys.argv[1]) == {'some': 'thing'}\n"
        "say({'progress': 0.5}); say({'progress': 0.2}); print('garbage'); print('[1]')\n"
        "say({'facts': {'result': {'n': 7}, 'warnings': ['careful']}})\n"
        "open(sys.argv[3], 'w').write(open(sys.argv[2]).read())\n",
    )
    assert (facts.result, facts.warnings) == ({"n": 7}, ("careful",))
    assert reported == [0.0, 0.5, 1.0]
    assert (bench.folder / "made").read_bytes() == b"given"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise SystemExit(3)", LogFailed),
        ("import os; os.kill(os.getpid(), 9)", LogFailed),
        ("x = bytearray(3 * 2**30)", LogFailed),
        ("pass", LogFailed),
        (
            SAY
            + "say({'refused': {'code': 'log_not_text', 'detail': 'It is none.', 'extra': {}}})\n"
            "sys.exit(1)",
            LogNotText,
        ),
        ("import socket; socket.create_connection(('127.0.0.1', 9), 2)", LogFailed),
        ("raise OSError(28, 'No space left on device')", AppError),
    ],
)
async def test_a_program_that_fails_leaves_no_output(
    bench: MediaBench, text: str, error: type[AppError]
) -> None:
    with pytest.raises(error):
        await run_program(bench, text)
    assert not (bench.folder / "made").exists()


async def test_a_result_over_the_limit_is_said_to_be_too_large(bench: MediaBench) -> None:
    with pytest.raises(LogFailed, match="larger than a file may be"):
        await run_program(
            bench,
            "import sys; open(sys.argv[3], 'wb').write(bytes(20_000))",
            max_output_bytes=10_000,
        )
    assert not (bench.folder / "made").exists()


async def test_a_program_that_shows_no_sign_of_life_is_stopped(bench: MediaBench) -> None:
    with pytest.raises(JobTimedOut, match="The processing showed no sign of life"):
        await run_program(bench, "import time; time.sleep(60)", stall_seconds=1.0)
    assert not guarded_children()


async def test_a_program_cannot_change_its_inputs_where_there_is_a_sandbox(
    bench: MediaBench,
) -> None:
    level = bench.runner.isolation
    if not (isinstance(level, Sandbox) and level.level is SandboxLevel.BUBBLEWRAP):
        return  # without one there is no such promise
    with pytest.raises(LogFailed):
        await run_program(bench, "import sys; open(sys.argv[2], 'w')")
    assert (bench.folder / "given").read_bytes() == b"given"


async def test_a_child_dies_with_the_service(bench: MediaBench, house: House) -> None:
    job = await ask(house, SLOW)
    house.engine.start(house.runner)
    find: Callable[[], list[psutil.Process]] = lambda: [  # noqa: E731
        child
        for child in psutil.Process().children(recursive=True)
        if "child.py" in str(child.cmdline())
    ]

    async def runs() -> list[psutil.Process]:
        return find()

    children = await eventually(runs, seconds=30)
    os.kill(children[-1].pid, signal.SIGKILL)
    # One killed from outside is tried again, and its input is kept until then.
    row = await ended(house, job.id)
    assert (row.status, row.attempt) == (JobStatus.COMPLETED, 2)
    assert await input_is_gone(house, row)


# --- where it works ------------------------------------------------------------------------------


@pytest.mark.parametrize("level", list(SandboxLevel))
async def test_a_log_is_processed_at_every_level_of_isolation(
    tmp_path: Path, level: SandboxLevel
) -> None:
    sandboxes = {each.level: each for each in candidates()} | {
        SandboxLevel.LIMITS: Sandbox(SandboxLevel.LIMITS)
    }
    async with open_bench(tmp_path / "job", isolation=sandboxes[level]) as bench:
        data = as_csv(many_rows(20))
        await asyncio.to_thread((bench.folder / "log").write_bytes, data)
        head = look_at_export(data, len(data))
        log = LogInput("log", head, "log.csv", len(data))
        plan = MoodleLog().plan(MoodleLogParams(timezone="UTC"), [log])
        facts = [await bench.steps.run(step, bench.folder, lambda _: None) for step in plan.steps]
        assert facts[-1].result["events"] == 20
        made = {path.name for path in bench.folder.iterdir()}
        assert made == {"log", *(name for step in plan.steps for name in outputs_of(step))}


SPILL = """
import runpy, sys
from pathlib import Path
runpy.run_path(sys.argv[1])  # what a step does before anything else
from app.infrastructure.moodle.scratch import new_database
with new_database(Path("spilled.db"), "CREATE TABLE blobs (blob)") as db:
    db.execute("INSERT INTO blobs WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
               " WHERE i < 20000) SELECT randomblob(1000) FROM n ORDER BY 1")
"""
"""Sorts more than fits in SQLite's cache."""


def test_nothing_is_written_outside_the_job_s_folder(tmp_path: Path) -> None:
    """Also what SQLite sorts in, which has no name for long."""
    folder = tmp_path / "job"
    folder.mkdir()
    data = as_csv(many_rows(500))
    (folder / "log").write_bytes(data)
    python = (sys.executable, "-I", "-B")
    log = LogInput("log", look_at_export(data, len(data)), "log.csv", len(data))
    commands: list[Sequence[str]] = [(*python, "-c", SPILL, str(CHILD))]
    for step in MoodleLog().plan(MoodleLogParams(timezone="UTC"), [log]).steps:
        assert isinstance(step, PythonStep)
        wish = json.dumps(dict(step.arguments))
        commands.append((*python, str(CHILD), wish, *step.inputs, *step.outputs))
    made = {place for command in commands for place in places_made(command, folder)}
    assert {place for place in made if not place.startswith(f"{folder}/")} == set()
    assert [place for place in made if "etilqs" in place], "nothing was spilled"


def places_made(command: Sequence[str], folder: Path) -> set[str]:
    """Every file that a command opens to write or make, by its path."""
    trace = folder.parent / "trace"
    traced = ("strace", "-f", "-y", "-qq", "-e", "trace=openat,open,creat,mkdir", "-o", str(trace))
    subprocess.run([*traced, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return {
        line.rpartition("<")[2].rstrip(">").removesuffix(" (deleted)").rstrip(">")
        for line in trace.read_text().splitlines()
        if "O_CREAT" in line and " = -1" not in line
    }
